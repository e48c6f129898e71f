"""Runs a grid: each run its own process on its own device, everything resumable.

    python -m experiments.degradation --executor=ray --address=auto      # on a Ray cluster
    python -m experiments.degradation --executor=slurm                   # as a Slurm array

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56 --seeds=0,1
    python -m experiments.degradation --workdir=runs/fig6 --config.train.steps=1000

Starting the same command again skips what is finished, goes on with what was begun and tries again
what failed. Ctrl-C stops all runs with a checkpoint. `--dry-run` only tells what would be done.
A run that crashes, is killed or hangs takes no other with it and is tried once more; where one run
after the other fails before its first step, the sweep stops, for something concerns them all.

Exit codes: 0 all runs have a result, 1 some failed, 2 bad input, 75 stopped.
"""

import contextlib
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
from experiments.grid import Grid, Row
from experiments.live import Board
from experiments.plan import PlannedRun, enqueue, plan
from resnet_jax import command, mirror, run_folder
from resnet_jax.errors import InputError
from resnet_jax.terminal import CONSOLE

POLL_SECONDS = 0.3
# How JAX, Python and the C++ library tell of it. The batch stays as it is: another would be another
# recipe.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "MemoryError", "bad_alloc", "Out of memory")
# How often a run is begun again that was lost; then it counts as failed.
MOST_LOSSES = 10
# Processes in a row that fail without a step, after which no more are started.
MOST_EARLY_FAILURES = 3
# Longer than any program takes to compile.
HANG_AFTER = 1800.0


class Sweep:
    """Works off the runs of a grid.

    Args:
        runs: in the order in which they are begun.
        executor: begins them where there is room.
        retries: how often a failed run is tried again.
        title: for the table.
        hang_after: seconds without a sign of life after which a run's process is killed.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        executor: slots.Executor,
        *,
        retries: int,
        title: str,
        hang_after: float = HANG_AFTER,
    ):
        self.runs, self.retries, self.hang_after = runs, retries, hang_after
        self.executor = executor
        self.waiting = [run for run in runs if not run.is_finished]
        self.running: dict[str, slots.Job] = {}
        self.early_failures = 0
        self.refused: str | None = None
        self.requests = 0  # to stop, by the user
        self.broken = self.ending = self.killing = False
        self.board = Board(title, runs)

    def work(self) -> int:
        """Runs everything; returns the exit code."""
        for run in self.waiting:
            enqueue(run)
        try:
            while self.running or ((self.waiting or self._has_more()) and not self.ending):
                self._heed_requests()
                self._collect()
                self._begin()
                self.board.show()
                time.sleep(POLL_SECONDS)
        finally:
            self._end_all(signal.SIGTERM)
            self.executor.close()
            self.board.close()
        if self.refused:
            raise InputError(self.refused)
        if self.broken:
            return 1
        if self.requests:
            return command.INTERRUPTED
        return 0 if self._has_succeeded() else 1

    def _has_more(self) -> bool:
        """Whether runs may come that are not known yet."""
        return False

    def _has_succeeded(self) -> bool:
        """Whether nothing is left to do."""
        return all(run.is_finished for run in self.runs)

    def stop(self, number: int, frame: object) -> None:
        """Asks every run to save and end; asked again, ends them at once.

        A signal's handler. It only counts: a process may be about to be started.
        """
        self.requests += 1

    def _heed_requests(self) -> None:
        if self.requests:
            self._end()
        if self.requests > 1 and not self.killing:
            self.killing = True
            self._end_all(signal.SIGKILL)

    def _end(self) -> None:
        """Begins no others, and lets those that run save."""
        if not self.ending:
            self.ending = True
            self._end_all(signal.SIGINT)

    def _end_all(self, number: signal.Signals) -> None:
        for job in self.running.values():
            if job.process.poll() is None:
                job.process.send_signal(number)

    def _begin(self) -> None:
        # A run whose process outlived an earlier runner is left alone until that has saved.
        ready = [run for run in self.waiting if run_folder.owner(run.folder) is None]
        while ready and self.executor.has_room() and not (self.ending or self.requests):
            run = ready.pop(0)
            self.waiting.remove(run)
            self.running[run.name] = self.executor.start(run)

    def _collect(self) -> None:
        for name, job in list(self.running.items()):
            code = job.process.poll()
            if code is None:
                if job.seconds_without_a_beat() > self.hang_after:
                    job.hung = True
                    job.process.kill()
                continue
            del self.running[name]
            self.executor.release(job)
            if self._is_lost(job, code):
                continue
            # A request to stop that comes when all is done, while Python ends, kills the process.
            if code in (0, command.HAS_DIVERGED, command.INTERRUPTED) or job.run.is_finished:
                self.early_failures = 0
                continue
            if self.killing and code == -signal.SIGKILL:
                continue  # by us, as asked; it goes on from its last checkpoint another time
            words = slots.last_words(job.run.folder)
            if code == command.BAD_INPUT and run_folder.IN_USE in words:
                self.waiting.insert(0, job.run)  # by a process that an earlier runner has left
                continue
            if code == command.BAD_INPUT:
                # The others share data and machine: they would be refused as well.
                self.refused = f"{name} was refused: {words.removeprefix('error: ')}"
                self._end()
                continue
            self._count_failure(job, _reason(job, code, words, self.hang_after))

    def _is_lost(self, job: slots.Job, code: int) -> bool:
        """Whether a run was ended by no one's wish, as on a node that goes away; it has its turn.

        A node that is taken back asks its processes to stop first, and they save.
        """
        interrupted = code == command.INTERRUPTED and not (self.ending or self.requests)
        if job.run.is_finished or not (code == slots.LOST or interrupted):
            return False
        if job.run.losses == MOST_LOSSES:
            return False
        job.run.losses += 1
        self.waiting.insert(0, job.run)
        return True

    def _count_failure(self, job: slots.Job, reason: str) -> None:
        run = job.run
        # A process that was killed could not say so itself.
        status = {**run.status, "state": run_folder.FAILED, "reason": reason}
        run_folder.write_json(run.folder / run_folder.STATUS, status)
        self.early_failures = 0 if job.has_worked else self.early_failures + 1
        if self.early_failures == MOST_EARLY_FAILURES and not self.broken:
            self.broken = True
            CONSOLE.print(
                f"{MOST_EARLY_FAILURES} processes in a row failed before their first step, the "
                f"last with: {reason}. No others are started; mend this and start the same "
                "command again",
                highlight=False,
                markup=False,
            )
            self._end()
            return
        run.failures += 1
        if run.failures <= self.retries:
            self.waiting.append(run)


def _reason(job: slots.Job, code: int, words: str, hang_after: float) -> str:
    """Why a process failed, for people."""
    if job.hung:
        return f"it showed no sign of life for {hang_after:.0f} s and was ended"
    if any(sign in words for sign in OUT_OF_MEMORY):
        return f"out of memory: {words}"
    if code == slots.LOST:
        return f"the node that it ran on was lost, {MOST_LOSSES + 1} times"
    if code == -signal.SIGKILL:
        return "its process was killed (signal 9), as the system does when memory runs out"
    return f"its process was ended by signal {-code}" if code < 0 else words


class SweepCommand:
    """The flags that all sweeps have, and what is done with them.

    Args:
        name: of the sweep's folder.
        base: path of the config file that all runs share.
        seeds: one run each, if --seeds does not say otherwise.
    """

    def __init__(self, name: str, base: str, seeds: Sequence[int]):
        self.name = name
        self._config = config_flags.DEFINE_config_file("config", base, "What all runs share.")
        self._workdir = flags.DEFINE_string("workdir", f"runs/{name}", "The sweep's folder.")
        self._seeds = flags.DEFINE_list("seeds", [str(s) for s in seeds], "One run each.")
        self._jobs = flags.DEFINE_integer("jobs", 0, "Runs at a time; 0: one a device or core.", 0)
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
        for name in ("cpus_per_run", "gpus_per_run"):
            flags.DEFINE_alias(name.replace("_", "-"), name)
        self._sbatch = flags.DEFINE_multi_string(
            "sbatch", [], "Further options of the Slurm array, for example --time=8:00:00."
        )
        self._retries = flags.DEFINE_integer(
            "retries", 1, "How often a failed run is tried again.", 0
        )
        self._hang_after = flags.DEFINE_float(
            "hang_after",
            HANG_AFTER,
            "Seconds without a step, after which a run hangs.",
            1.0,
        )
        self._force = flags.DEFINE_bool("force", False, "Replace runs whose config has changed.")
        self._dry_run = flags.DEFINE_bool("dry_run", False, "Only print the grid, with its cost.")
        flags.DEFINE_alias("dry-run", "dry_run")

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
            url = self._workdir.value
            # With Ray, nodes keep their runs themselves, and what is here only follows.
            follows = mirror.is_remote(url) and self._executor.value == "ray"
            passed_over = mirror.HEAVY if follows else ()
            with mirror.opened(url, passed_over=passed_over) as (folder, kept):
                copy = (kept.fetch if follows else kept.push) if kept else None
                with kept.kept(copy) if kept and copy else contextlib.nullcontext():
                    code = self.work(
                        rows(self.seeds),
                        folder,
                        afterwards=afterwards,
                        storage=on_ray.Storage(url, kept) if kept and follows else None,
                    )
            sys.exit(code)

        command.run(main)

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
        runs = plan(self.config, rows, folder, force=self._force.value and not self.dry_run)
        self._check_flags()
        if self._executor.value == "slurm" and not self.dry_run:
            if mirror.is_remote(self._workdir.value):
                raise InputError(
                    f"--workdir={self._workdir.value} must be a folder with --executor=slurm"
                )
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
        if self._executor.value == "ray":
            executor = on_ray.OnRay(
                self._address.value,
                cores=self._cpus.value,
                gpus=self._gpus.value,
                most=self._jobs.value,
                storage=storage,
            )
        else:
            executor = slots.Local(slots.available(self._jobs.value))
        if self.dry_run:
            estimate.show(runs, slots.available(0)[0], executor.width)
            return 0
        sweep = Sweep(
            runs,
            executor,
            retries=self._retries.value,
            title=self.name,
            hang_after=self._hang_after.value,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, sweep.stop)
        code = sweep.work()
        if code != command.INTERRUPTED:
            afterwards(runs)
            # In a process of its own: Matplotlib and Plotly are of no use to the runner.
            subprocess.run([sys.executable, "-m", "resnet_jax.report", str(folder)], check=True)
        return code

    def _check_flags(self) -> None:
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
        }
        for name, executors in effects.items():
            if flags.FLAGS[name].present and executor not in executors:
                raise InputError(
                    f"--{name} has no effect with --executor={executor}; it is for "
                    f"{' and '.join(executors)}"
                )
        gpus = self._gpus.value or 0
        if gpus != int(gpus) and (gpus > 1 or executor == "slurm"):
            raise InputError(
                f"--gpus_per_run={gpus:g} must be a whole number, or on Ray a share below 1"
            )


def launch(grid: Grid) -> None:
    """The command line of a module with a grid of depths and families."""
    sweep = SweepCommand(grid.name, grid.base, grid.seeds)
    depths = flags.DEFINE_list("depths", [str(d) for d in grid.depths], "Depths of the nets.")
    families = flags.DEFINE_list("families", list(grid.families), "plain, residual.")

    def rows(seeds: Sequence[int]) -> list[Row]:
        unknown = set(families.value) - {"plain", "residual"}
        if unknown:
            raise InputError(f"--families must be plain, residual or both, got {unknown.pop()!r}")
        return grid.rows(
            depths=numbers("depths", depths.value), families=families.value, seeds=seeds
        )

    sweep.launch(rows)


def numbers(name: str, texts: Sequence[str]) -> list[int]:
    """The whole numbers that a flag lists.

    Raises:
        InputError: if one is none.
    """
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name} must be whole numbers with commas, got {texts}") from error
