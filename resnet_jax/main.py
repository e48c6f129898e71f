"""One run.

    python -m resnet_jax.main --config=configs/cifar_resnet56.py --workdir=runs/r56
    python -m resnet_jax.main --config=... --config.optimizer.learning_rate=0.05
    python -m resnet_jax.main --workdir=runs/r56                    # goes on with it
    python -m resnet_jax.main --mode=evaluate --workdir=runs/r56
    srun python -m resnet_jax.main --distributed --config=... --workdir=/shared/r56  # many hosts

Exit codes: 0 completed, 2 bad input (one line says what to mend), 3 diverged, 75 interrupted, or
another process of the run lost (the same command goes on), 1 anything else: a net that is not wired
as configured in one line, a crash.
"""

from resnet_jax import environment
from resnet_jax.stopping import StopRequest

STOP = StopRequest()
if __name__ == "__main__":
    # Before the other imports, which take a second in which a signal would end the process.
    environment.keep_memory()
    STOP.listen()

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from resnet_jax import command, hosts, mirror, run_folder, terminal
from resnet_jax import config as run_config
from resnet_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config's name>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "last", ["last", "best", "all"], "Which one to evaluate."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Train together with the processes that Slurm, Open MPI, ... has started."
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where nothing says so by itself."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many train together.", 1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)


def main(argv: list[str]) -> None:
    """Trains or evaluates as the flags say."""
    del argv
    terminal.set_up_logging()
    together = _trains_together()
    # Flags and configs are checked before JAX starts, so that mistakes are told at once.
    with mirror.worked_on(_WORKDIR.value or "") as folder:
        workdir = folder if _WORKDIR.value else None
        if _MODE.value == "evaluate":
            _evaluate(workdir)
        else:
            _train(workdir, together=together)


def _train(given: pathlib.Path | None, *, together: bool) -> None:
    config, workdir = _config_and_workdir(given)
    environment.prepare(config)
    if together:
        joined = hosts.watched()
        hosts.connect(_ADDRESS.value, _PROCESSES.value, _PROCESS.value)
        joined()
    from resnet_jax.analysis import check, signals
    from resnet_jax.train import loop

    with hosts.together() as leads:
        if not leads:
            terminal.only_warnings()
        status = loop.train(
            config,
            workdir,
            should_stop=STOP,
            examine=check.before_training,
            recorder=signals.Recorder,
        )
    if leads:
        terminal.print_outcome(workdir, status, _WORKDIR.value or "")
    if status["state"] == run_folder.STOPPED:
        sys.exit(command.INTERRUPTED)
    if status["state"] == run_folder.DIVERGED:
        sys.exit(command.HAS_DIVERGED)


def _trains_together() -> bool:
    """Whether the flags ask for other processes to train with.

    Raises:
        InputError: if they do not fit one another.
    """
    place = (_ADDRESS, _PROCESSES, _PROCESS)
    missing = [flag.name for flag in place if flag.value is None]
    if not _DISTRIBUTED.value and len(missing) == len(place):
        return False
    if _MODE.value == "evaluate":
        raise InputError("--mode=evaluate runs in one process; leave out what joins it with others")
    if missing and len(missing) < len(place):
        together = ", ".join(f"--{flag.name}" for flag in place)
        raise InputError(f"--{missing[0]} is missing; {together} belong together")
    if not missing:
        count, index = _PROCESSES.value or 0, _PROCESS.value or 0
        if index >= count:
            raise InputError(f"--process_id={index} must be below --num_processes={count}")
        host, colon, port = (_ADDRESS.value or "").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
            raise InputError(
                f"--coordinator_address={_ADDRESS.value} must be host:port, for example node1:9876"
            )
    if _WORKDIR.value is None:
        raise InputError("--workdir is missing: several processes need one folder that all see")
    if mirror.is_remote(_WORKDIR.value):
        raise InputError(
            f"--workdir={_WORKDIR.value} must be a folder that all processes see, for example on a "
            "network file system"
        )
    return True


def _config_and_workdir(
    given: pathlib.Path | None,
) -> tuple[run_config.RunConfig, pathlib.Path]:
    """From --config, or from the folder of a run that was started before."""
    if _CONFIG.value is not None:
        config = run_config.validate(command.read_config(_CONFIG))
        name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        return config, given or pathlib.Path(f"runs/{name}")
    if given is None:
        raise InputError("--config is missing, for example --config=configs/cifar_resnet56.py")
    if not (given / run_folder.CONFIG).is_file():
        raise InputError(
            f"--config is missing, and --workdir={_WORKDIR.value} holds no run to go on with; "
            "give one, for example --config=configs/cifar_resnet56.py"
        )
    return run_config.load_json(given / run_folder.CONFIG), given


def _evaluate(workdir: pathlib.Path | None) -> None:
    STOP.end_at_once()
    if _CONFIG.value is not None:
        config = run_config.validate(command.read_config(_CONFIG))
    elif workdir is not None:
        config = run_config.load_json(workdir / run_folder.CONFIG)
    else:
        config = run_config.RunConfig()
    if workdir is None and not config.model.weights:
        raise InputError(
            "--mode=evaluate needs --workdir of a trained run, or --config with model.weights"
        )
    environment.prepare(config)
    from resnet_jax.train import evaluation

    if workdir is None:
        report = evaluation.evaluate_weights(config)
    else:
        report = evaluation.evaluate(workdir, which=_CHECKPOINT.value, config=config)
    terminal.print_evaluation(report)


if __name__ == "__main__":
    command.run(main)
