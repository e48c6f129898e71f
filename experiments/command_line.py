"""The command line of sweeps: each run its own process on its own device, everything resumable.

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56 --seeds=0,1
    python -m experiments.degradation --workdir=runs/fig6 --config.train.steps=1000
    python -m experiments.degradation --executor=ray --address=auto      # on a Ray cluster
    python -m experiments.degradation --executor=slurm                   # as a Slurm array

Starting the same command again skips what is finished, goes on with what was begun and tries again
what failed. Ctrl-C stops all runs with a checkpoint. `--dry-run` only tells what would be done.

Exit codes: 0 all runs have a result, 1 some failed, 2 bad input, 75 stopped.
"""

import math
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import estimate, on_ray, on_slurm, slots
from experiments.grid import FAMILY_LABELS, Grid, Row
from experiments.plan import PlannedRun, plan
from experiments.run import HANG_AFTER, Sweep
from resnet_jax import command, mirror
from resnet_jax.errors import InputError

# So that each command's --help tells of the flags that are defined here for it.
flags.disclaim_key_flags()
# What --minutes are counted from: a command may work off several sweeps in them.
BEGUN = time.monotonic()


class SweepCommand:
    """The flags that all sweeps have, and what is done with them.

    Args:
        name: of the sweep's folder.
        base: path of the config file that all runs share.
        seeds: one run each, if --seeds does not say otherwise.
        in_order: begin the runs in the order of the rows, not the costliest first.
    """

    def __init__(self, name: str, base: str, seeds: Sequence[int], *, in_order: bool = False):
        self.name, self._in_order = name, in_order
        self._config = config_flags.DEFINE_config_file("config", base, "What all runs share.")
        self._workdir = flags.DEFINE_string("workdir", f"runs/{name}", "The sweep's folder.")
        self._seeds = flags.DEFINE_list("seeds", [str(s) for s in seeds], "One run each.")
        self._jobs, self._retries, self._hang_after = define_running()
        self._executor = flags.DEFINE_enum(
            "executor", "local", ["local", "ray", "slurm"], "What begins the runs."
        )
        self._address = flags.DEFINE_string(
            "address", None, "Of the Ray cluster, for example auto; none: one is started here."
        )
        self._cpus = flags.DEFINE_integer(
            "cpus_per_run", 1, "Processor cores for each run, on Ray and Slurm.", 1
        )
        self._gpus = flags.DEFINE_float(
            "gpus_per_run", None, "GPUs for each run, 0.25 for four on one (Ray).", 0.0
        )
        self._sbatch = flags.DEFINE_multi_string(
            "sbatch", [], "Further options of the Slurm array, for example --time=8:00:00."
        )
        self._force = flags.DEFINE_bool("force", False, "Replace runs whose config has changed.")
        self._dry_run = flags.DEFINE_bool("dry_run", False, "Only print the grid, with its cost.")

    @property
    def workdir(self) -> pathlib.Path:
        """The sweep's folder, once flags are parsed, where runs read one another's folders.

        Raises:
            InputError: if it is in object storage, where they could not.
        """
        if mirror.is_remote(self._workdir.value):
            raise InputError(
                f"--workdir={self._workdir.value}: the runs of {self.name} read one another's "
                "folders, so theirs must be a folder that all see"
            )
        return pathlib.Path(self._workdir.value)

    @property
    def config(self) -> ml_collections.ConfigDict:
        """What all runs share, once flags are parsed."""
        return command.read_config(self._config)

    @property
    def seeds(self) -> list[int]:
        """One run each, once flags are parsed.

        Raises:
            InputError: if they are no whole numbers.
        """
        return numbers("seeds", self._seeds.value)

    @property
    def is_local(self) -> bool:
        """Whether this machine runs them all."""
        return bool(self._executor.value == "local")

    @property
    def dry_run(self) -> bool:
        """Whether only the grid is asked for."""
        return bool(self._dry_run.value)

    def launch(
        self,
        rows: Callable[[Sequence[int]], Sequence[Row]],
        *,
        afterwards: Callable[[Sequence[PlannedRun]], None] = lambda runs: None,
    ) -> None:
        """Parses the command line and works off the grid.

        Args:
            rows: makes the grid's rows, of these seeds.
            afterwards: is called with all runs when they are done, before the report is written.
        """

        def main(argv: list[str]) -> None:
            del argv
            made = rows(self.seeds)
            self.require_effects(made)
            sys.exit(self.work_below(made, afterwards=afterwards))

        command.run(main)

    def require_effects(self, rows: Sequence[Row]) -> None:
        """Refuses changes to the config that every row would make undone.

        Raises:
            InputError: naming the first field.
        """
        for path in config_flags.get_override_values(flags.FLAGS["config"]):
            field = path.split("[")[0]
            if rows and all(field in row.overrides for row in rows):
                raise InputError(
                    f"--config.{field} has no effect here, where all rows set it; use this "
                    "command's own flags (--help), or another grid of experiments/"
                )

    def work_below(
        self,
        rows: Sequence[Row],
        folder: str = "",
        *,
        afterwards: Callable[[Sequence[PlannedRun]], None] = lambda runs: None,
    ) -> int:
        """Works off rows in the sweep's folder, which may be in object storage; as `work`.

        Args:
            rows: of the grid.
            folder: the name of one below it, for sweeps of several parts.
            afterwards: as in `launch`.
        """
        url = self._workdir.value.rstrip("/") + (f"/{folder}" if folder else "")
        # With Ray, nodes keep their runs themselves, and what is here only follows.
        follows = mirror.is_remote(url) and self._executor.value == "ray"
        passed_over = mirror.HEAVY if follows else ()
        copying = mirror.Mirror.fetch if follows else mirror.Mirror.push
        with mirror.opened(url, passed_over=passed_over, copying=copying) as (here, kept):
            storage = on_ray.Storage(url, kept) if kept and follows else None
            return self.work(rows, here, afterwards=afterwards, storage=storage)

    def work(
        self,
        rows: Sequence[Row],
        folder: pathlib.Path,
        *,
        afterwards: Callable[[Sequence[PlannedRun]], None] = lambda runs: None,
        storage: on_ray.Storage | None = None,
    ) -> int:
        """Works off rows as the flags say, then writes the report; returns the exit code.

        Args:
            rows: of the grid.
            folder: of the sweep.
            afterwards: as in `launch`.
            storage: where Ray's nodes keep the runs, if not in the folder.

        Raises:
            InputError: if flags or rows are not valid.
        """
        self.check_flags()
        force = self._force.value and not self.dry_run
        runs = plan(self.config, rows, folder, force=force, in_order=self._in_order)
        if self._executor.value == "slurm" and not self.dry_run:
            on_slurm.write(
                runs,
                folder,
                cores=self._cpus.value,
                gpus=int(self._gpus.value or 0),
                most=self._jobs.value,
                options=self._sbatch.value,
            )
            return 0
        executor: slots.Executor
        places: Sequence[slots.Slot] = ()
        if self._executor.value == "ray":
            executor = on_ray.OnRay(
                self._address.value,
                cores=self._cpus.value,
                gpus=self._gpus.value,
                most=self._jobs.value,
                storage=storage,
            )
        else:
            places = slots.available(self._jobs.value)
            executor = slots.Local(places)
        if self.dry_run:
            # Of a cluster's nodes none is at hand: what this machine takes stands for them.
            estimate.show(runs, (places or slots.available(0))[0], executor.width)
            return 0
        sweep = Sweep(
            runs,
            executor,
            retries=self._retries.value,
            title=self.name,
            hang_after=self._hang_after.value,
            until=until(),
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, sweep.stop)
        code = sweep.work()
        if code != command.INTERRUPTED:
            afterwards(runs)
            # In a process of its own: Matplotlib and Plotly are of no use to the runner.
            subprocess.run([sys.executable, "-m", "resnet_jax.report", str(folder)], check=True)
        return code

    def check_flags(self) -> None:
        """Refuses what has no effect with the executor.

        Raises:
            InputError: naming it.
        """
        executor = self._executor.value
        effects = {
            "address": ("ray",),
            "cpus_per_run": ("ray", "slurm"),
            "gpus_per_run": ("ray", "slurm"),
            "sbatch": ("slurm",),
            "minutes": ("local", "ray"),
        }
        for name, executors in effects.items():
            if flags.FLAGS[name].present and executor not in executors:
                raise InputError(
                    f"--{name} has no effect with --executor={executor}; it is for "
                    f"{' and '.join(executors)}"
                )
        if executor == "slurm" and mirror.is_remote(self._workdir.value):
            raise InputError(
                f"--workdir={self._workdir.value} must be a folder with --executor=slurm"
            )
        gpus = self._gpus.value or 0
        if gpus != int(gpus) and (gpus > 1 or executor == "slurm"):
            raise InputError(
                f"--gpus_per_run={gpus:g} must be a whole number, or on Ray a share below 1"
            )


def define_running() -> tuple[
    flags.FlagHolder[int], flags.FlagHolder[int], flags.FlagHolder[float]
]:
    """Defines the flags of whatever works off runs.

    Returns:
        --jobs, --retries and --hang_after; what --minutes comes to is `until()`.
    """
    flags.DEFINE_float(
        "minutes", None, "After which all runs save and end, to be gone on with later.", 0.0
    )
    return (
        flags.DEFINE_integer("jobs", 0, "Runs at a time; 0: one a device or core.", 0),
        flags.DEFINE_integer("retries", 1, "How often a failed run is tried again.", 0),
        flags.DEFINE_float(
            "hang_after", HANG_AFTER, "Seconds without a step, after which a run hangs.", 1.0
        ),
    )


def until() -> float:
    """When --minutes are over, from this module's import on, by `time.monotonic`."""
    minutes = flags.FLAGS.minutes
    return math.inf if minutes is None else BEGUN + 60 * minutes


def launch(grid: Grid) -> None:
    """The command line of a module with a grid of depths and families."""
    sweep = SweepCommand(grid.name, grid.base, grid.seeds)
    depths = flags.DEFINE_list("depths", [str(d) for d in grid.depths], "Depths of the nets.")
    kinds = flags.DEFINE_list("families", list(grid.families), "plain, residual.")

    def rows(seeds: Sequence[int]) -> list[Row]:
        return grid.rows(
            depths=numbers("depths", depths.value),
            families=families(kinds.value),
            seeds=seeds,
        )

    sweep.launch(rows)


def families(texts: Sequence[str]) -> Sequence[str]:
    """The families that --families lists.

    Raises:
        InputError: if one is none.
    """
    unknown = set(texts) - set(FAMILY_LABELS)
    if unknown:
        raise InputError(f"--families must be plain, residual or both, got {unknown.pop()!r}")
    return texts


def numbers(name: str, texts: Sequence[str]) -> list[int]:
    """The whole numbers that a flag lists.

    Raises:
        InputError: if one is none.
    """
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name} must be whole numbers with commas, got {texts}") from error
