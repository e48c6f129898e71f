"""What every command of the project shares: flags, exit codes, one line for a mistake."""

import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from resnet_jax import config as run_config
from resnet_jax.errors import InputError, WiringError

MISWIRED, BAD_INPUT, HAS_DIVERGED, INTERRUPTED = 1, 2, 3, 75


# What the libraries say of a flag's value, and what it means.
MEANT = {
    r"invalid literal for int\(\)": "must be a whole number",
    r"could not convert string to float": "must be a number",
    r"Non-boolean argument": "must be True or False",
    r"value should be one of <": "must be one of",
    r"must have a value other than None": "is missing; see --help",
}
OWN_ERROR = f"{InputError.__module__}.{InputError.__qualname__}: "


def run(main: Callable[[list[str]], None], *, operands: bool = False) -> None:
    """Parses the flags and calls `main`; turns expected failures into one line and an exit code.

    Args:
        main: is given the command's name and its operands.
        operands: whether it takes what is no flag.
    """

    def checked(argv: list[str]) -> None:
        if argv[1:] and not operands:
            raise InputError(f"{argv[1]!r} is not a flag; write --name=value")
        main(argv)

    try:
        app.run(checked, flags_parser=parse_flags)
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
        SystemExit: after help that was asked for.
    """
    try:
        return list(flags.FLAGS([argv[0], *map(_spelt, argv[1:])]))
    except SystemExit:  # Abseil has told the help, and calls that a failure
        sys.exit(0)
    except (AttributeError, KeyError) as error:
        raise InputError(_unknown_field(argv, error)) from error
    except (flags.Error, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        message = str(error)
        # ml_collections puts the whole traceback of a failing config file into the message.
        if "Traceback (most recent call last)" in message:
            last = message.strip().splitlines()[-1]
            message = last.removeprefix(OWN_ERROR)
            message = message if message != last else f"the config file fails: {last}"
        raise InputError(_meant(" ".join(message.split()))) from error


def read_config(flag: flags.FlagHolder[Any]) -> ml_collections.ConfigDict:
    """The value of a config file flag, overrides included.

    Raises:
        InputError: if the file does not exist.
    """
    config = flag.value
    try:
        getattr(config, "model", None)
    except OSError as error:  # ml_collections tells of a missing file at the first access
        name = config_flags.get_config_filename(flags.FLAGS[flag.name])
        if not pathlib.Path(name).is_file():
            raise InputError(
                f"--{flag.name}={name} is not there; the published nets' files are in configs/"
            ) from error
        raise InputError(" ".join(str(error).split())) from error
    return config


def _spelt(argument: str) -> str:
    """A flag as it is defined: hyphens may stand for underscores."""
    name, equals, value = argument.partition("=")
    given = name.removeprefix("--")
    own = given.replace("-", "_")
    other = name.startswith("--") and given not in flags.FLAGS and own in flags.FLAGS
    return f"--{own}{equals}{value}" if other else argument


def _meant(message: str) -> str:
    """What a library says of a flag, with the flag, what is allowed, and what was given."""
    match = re.fullmatch(r"flag (?P<flag>--[^=]+)=(?P<value>.*?): (?P<text>.*)", message)
    found = next((meant for told, meant in MEANT.items() if re.search(told, message)), None)
    if match is None or found is None:
        return message
    if match["value"] == "None":
        return f"{match['flag']} {found}"
    allowed = re.search("<(.*)>", match["text"])
    choices = f" {allowed[1].replace('|', ', ')}" if allowed else ""
    return f"{match['flag']} {found}{choices}, got {match['value']!r}"


def _unknown_field(argv: list[str], error: Exception) -> str:
    known = set(run_config.field_names())
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        field = name.removeprefix("config.").split("[")[0]
        if name.startswith("config.") and field not in known:
            return run_config.unknown_field(field)
    return " ".join(str(error).split())
