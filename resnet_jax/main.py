"""One run.

    python -m resnet_jax.main --config=configs/cifar_resnet56.py --workdir=runs/r56
    python -m resnet_jax.main --config=... --config.optimizer.learning_rate=0.05
    python -m resnet_jax.main --workdir=runs/r56                    # goes on with it
    python -m resnet_jax.main --mode=evaluate --workdir=runs/r56

Exit codes: 0 completed, 2 bad input (one line says what to mend), 3 diverged, 75 interrupted (the
same command goes on), 1 anything else.
"""

import pathlib
import signal
import sys
import threading
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from resnet_jax import config as run_config
from resnet_jax import run_folder, terminal
from resnet_jax.errors import InputError

BAD_INPUT, HAS_DIVERGED, INTERRUPTED = 2, 3, 75

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config's name>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Which one to evaluate.")


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


def _read_config() -> run_config.RunConfig:
    config = _CONFIG.value
    try:
        getattr(config, "model", None)
    except OSError as error:  # ml_collections tells of a missing file at the first access
        raise InputError(" ".join(str(error).split())) from error
    return run_config.validate(config)


def _unknown_field(argv: list[str], error: Exception) -> str:
    known = set(run_config.field_names())
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        field = name.removeprefix("config.").split("[")[0]
        if name.startswith("config.") and field not in known:
            return run_config.unknown_field(field)
    return " ".join(str(error).split())


def main(argv: list[str]) -> None:
    """Trains or evaluates as the flags say."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; write --name=value")
    terminal.set_up_logging()
    # Flags and configs are checked before JAX starts, so that mistakes are told at once.
    if _MODE.value == "evaluate":
        _evaluate()
        return
    config, workdir = _config_and_workdir()
    from resnet_jax.train import loop

    status = loop.train(config, workdir, should_stop=_stop_on_signals())
    terminal.print_outcome(workdir, status)
    if status["state"] == run_folder.STOPPED:
        sys.exit(INTERRUPTED)
    if status["state"] == run_folder.DIVERGED:
        sys.exit(HAS_DIVERGED)


def _config_and_workdir() -> tuple[run_config.RunConfig, pathlib.Path]:
    """From --config, or from the folder of a run that was started before."""
    if _CONFIG.value is not None:
        config = _read_config()
        name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        return config, pathlib.Path(_WORKDIR.value or f"runs/{name}")
    if _WORKDIR.value is None:
        raise InputError("--config is missing, for example --config=configs/cifar_resnet56.py")
    workdir = pathlib.Path(_WORKDIR.value)
    if not (workdir / run_folder.CONFIG).is_file():
        raise InputError(
            f"--config is missing, and --workdir={workdir} holds no run to go on with; "
            "give one, for example --config=configs/cifar_resnet56.py"
        )
    return run_config.load_json(workdir / run_folder.CONFIG), workdir


def _stop_on_signals() -> Callable[[], bool]:
    """Makes SIGINT and SIGTERM ask for a checkpoint and an end; a second one ends at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("stopping after this step; again to stop at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return asked.is_set


def _evaluate() -> None:
    from resnet_jax.train import loop

    if _WORKDIR.value is not None:
        report = loop.evaluate(pathlib.Path(_WORKDIR.value), which=_CHECKPOINT.value)
    else:
        config = None if _CONFIG.value is None else _read_config()
        if config is None or not config.model.weights:
            raise InputError(
                "--mode=evaluate needs --workdir of a trained run, or a --config with model.weights"
            )
        report = loop.evaluate_weights(config)
    terminal.print_evaluation(report)


def run() -> None:
    """The command line's entry: turns expected failures into one line and an exit code."""
    try:
        app.run(main, flags_parser=parse_flags)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
