"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """Bad input: a config field, a data set, a workdir or a weights file.

    The message is one line that names the thing, its value, what is allowed and what to do next.
    `resnet_jax.main` prints it without a traceback and exits with code 2.
    """
