"""What every command of the project shares: flags, exit codes, one line for a mistake."""

import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags

from resnet_jax import config as run_config
from resnet_jax.errors import InputError, WiringError

MISWIRED, BAD_INPUT, HAS_DIVERGED, INTERRUPTED = 1, 2, 3, 75


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and calls `main`; turns expected failures into one line and an exit code."""
    try:
        app.run(main, flags_parser=parse_flags)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except WiringError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISWIRED)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; config files and overrides are read here.

    Raises:
        InputError: with one line instead of the libraries' tracebacks.
    """
    try:
        return list(flags.FLAGS(argv))
    except (AttributeError, KeyError) as error:
        raise InputError(_unknown_field(argv, error)) from error
    except (flags.Error, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        message = str(error)
        # ml_collections puts the whole traceback of a failing config file into the message.
        if "Traceback (most recent call last)" in message:
            message = f"the config file fails: {message.strip().splitlines()[-1]}"
        raise InputError(" ".join(message.split())) from error


def read_config(flag: flags.FlagHolder[Any]) -> ml_collections.ConfigDict:
    """The value of a config file flag, overrides included.

    Raises:
        InputError: if the file does not exist.
    """
    config = flag.value
    try:
        getattr(config, "model", None)
    except OSError as error:  # ml_collections tells of a missing file at the first access
        raise InputError(" ".join(str(error).split())) from error
    return config


def _unknown_field(argv: list[str], error: Exception) -> str:
    known = set(run_config.field_names())
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        field = name.removeprefix("config.").split("[")[0]
        if name.startswith("config.") and field not in known:
            return run_config.unknown_field(field)
    return " ".join(str(error).split())
