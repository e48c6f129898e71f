"""The one exception that means "the user can mend this", and others' messages in one line."""


class InputError(ValueError):
    """Bad input: a config field, a data set, a workdir or a weights file.

    The message is one line that names the thing, its value, what is allowed and what to do next.
    `resnet_jax.main` prints it without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What another library said, short enough for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
