"""What ends a command in one line: input that the user can mend, and a net wired otherwise."""


class InputError(ValueError):
    """Bad input: a config field, a data set, a workdir or a weights file.

    The message is one line that names the thing, its value, what is allowed and what to do next.
    `resnet_jax.main` prints it without a traceback and exits with code 2.
    """


class WiringError(RuntimeError):
    """A net that is not what its config says, found before it trains.

    The message is one line that names the block, what is expected and what was found. Commands
    print it without a traceback and exit with code 1: it is the code that has to be mended.
    """


def first_line(error: BaseException) -> str:
    """What another library said, short enough for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
