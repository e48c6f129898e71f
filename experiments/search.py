"""Searches a config's fields for the lowest error on val, by Optuna; each trial is a run.

    python -m experiments.search --search=configs/search_plain56.py --workdir=runs/search
    python -m experiments.search --search=configs/search_digits.py --config.model.depth=20

Starting the same command again goes on; starting it several times at once, on one machine or on
several that share the folder and `--storage`, shares the trials. Ctrl-C stops all runs with a
checkpoint. `--config.FIELD=VALUE` changes the base, for all trials alike.

Exit codes: 0 all trials have a result, 1 some failed, 2 bad input, 75 stopped.
"""

import dataclasses
import math
import pathlib
import signal
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import command_line, run, slots
from experiments.hyperparameters import database, space
from experiments.hyperparameters.space import SearchPlan
from experiments.hyperparameters.study import Study
from experiments.hyperparameters.worker import Search, report
from resnet_jax import command, run_folder
from resnet_jax.errors import InputError

DEAD_AFTER = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a search is worked off; nothing that its results depend on.

    Attributes:
        jobs: runs at a time; 0: one a device or core.
        storage: address of a database; "" is a file in the search's folder.
        retries: how often a failed run is tried again.
        hang_after: seconds without a step, after which a run hangs.
        until: when all runs save and end, by `time.monotonic`.
        dead_after: seconds without a sign of life, after which another worker counts as dead.
    """

    jobs: int = 0
    storage: str = ""
    retries: int = 1
    hang_after: float = run.HANG_AFTER
    until: float = math.inf
    dead_after: float = DEAD_AFTER


def work(
    plan: SearchPlan,
    base: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    settings: Settings,
    *,
    name: str,
) -> int:
    """Works off a search, or what is left of it, and writes its report; returns the exit code.

    Args:
        plan: of the search.
        base: the config that all trials share.
        workdir: of the search.
        settings: how.
        name: of the study in its database.

    Raises:
        InputError: if plan, base or database cannot be used, or the study is of another search.
    """
    first = space.check(plan, base)
    require_own(workdir)
    executor = slots.Local(slots.available(settings.jobs))
    workdir.mkdir(parents=True, exist_ok=True)
    study = Study(
        settings.storage or database.default_url(workdir),
        name,
        plan,
        space.resolve(base, plan.changes),
        first,
        wanted=plan.trials,
        dead_after=settings.dead_after,
    )
    search = Search(
        *(study, base, plan, workdir, executor),
        retries=settings.retries,
        title=name,
        hang_after=settings.hang_after,
        until=settings.until,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, search.stop)
    code = search.work()
    if code != command.INTERRUPTED and study.trials():
        report(workdir)
    # Asked to stop when the last trial was over, nothing else is to be begun.
    return command.INTERRUPTED if search.requests else code


def require_own(workdir: pathlib.Path) -> None:
    """Refuses a folder that is a run's, or no folder.

    Raises:
        InputError: if trials cannot lie in it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir={workdir} is a file, not a folder; choose another")
    if (workdir / run_folder.CONFIG).is_file():
        raise InputError(f"--workdir={workdir} is a run's folder; choose another")


def define_settings() -> None:
    """Defines the flags of `Settings`, but for those that all sweeps have."""
    flags.DEFINE_string("storage", "", "A database for workers on several machines; see docs.")
    flags.DEFINE_float("dead_after", DEAD_AFTER, "Seconds until a silent worker is dead.", 1.0)


def settings() -> Settings:
    """The flags' values, once they are parsed."""
    names = [field.name for field in dataclasses.fields(Settings) if field.name != "until"]
    given = {name: getattr(flags.FLAGS, name) for name in names}
    return Settings(**given, until=command_line.until())


def main() -> None:
    """The command line."""
    file = flags.DEFINE_string("search", None, "The search's file, as configs/search_plain56.py.")
    workdir = flags.DEFINE_string("workdir", "runs/search", "The search's folder.")
    trials = flags.DEFINE_integer("trials", 0, "In all; 0: as the search's file says.", 0)
    command_line.define_running()
    define_settings()

    try:
        # The search's file says what the default of --config is.
        flags.FLAGS(sys.argv, known_only=True)
        plan = space.read(pathlib.Path(file.value)) if file.value else None
    except (InputError, flags.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(command.BAD_INPUT)
    config = config_flags.DEFINE_config_file(
        "config", plan.base if plan else None, "What all trials share, if not the file's base."
    )

    def searched(argv: list[str]) -> None:
        del argv
        if plan is None:
            raise InputError("--search is missing: a file, as configs/search_plain56.py")
        wanted = dataclasses.replace(plan, trials=trials.value or plan.trials)
        folder = pathlib.Path(workdir.value)
        base = command.read_config(config)
        sys.exit(work(wanted, base, folder, settings(), name=folder.resolve().name))

    command.run(searched)


if __name__ == "__main__":
    main()
