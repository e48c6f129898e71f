"""Runs a grid: each run its own process on its own device, everything resumable.

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56 --seeds=0,1
    python -m experiments.degradation --workdir=runs/fig6 --config.train.steps=1000

Starting the same command again skips what is finished, goes on with what was begun and tries again
what failed. Ctrl-C stops all runs with a checkpoint. `--dry-run` only tells what would be done.
A run that crashes, is killed or hangs takes no other with it and is tried once more; where one run
after the other fails before its first step, the sweep stops, for something concerns them all.

Exit codes: 0 all runs have a result, 1 some failed, 2 bad input, 75 stopped.
"""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import estimate, slots
from experiments.grid import Grid, Row
from experiments.live import Board
from experiments.plan import PlannedRun, enqueue, plan
from resnet_jax import command, run_folder
from resnet_jax.errors import InputError
from resnet_jax.terminal import CONSOLE

POLL_SECONDS = 0.3
# How JAX, Python and the C++ library tell of it. The batch stays as it is: another would be another
# recipe.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "MemoryError", "bad_alloc", "Out of memory")
# Processes in a row that fail without a step, after which no more are started.
MOST_EARLY_FAILURES = 3
# Longer than any program takes to compile.
HANG_AFTER = 1800.0


class Sweep:
    """Works off the runs of a grid.

    Args:
        runs: in the order in which they are begun.
        places: where they may run; each holds one at a time.
        retries: how often a failed run is tried again.
        title: for the table.
        hang_after: seconds without a sign of life after which a run's process is killed.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        places: Sequence[slots.Slot],
        *,
        retries: int,
        title: str,
        hang_after: float = HANG_AFTER,
    ):
        self.runs, self.retries, self.hang_after = runs, retries, hang_after
        self.free = list(places)
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
        while self.free and ready and not (self.ending or self.requests):
            run, slot = ready.pop(0), self.free.pop(0)
            self.waiting.remove(run)
            process = slots.start(run.folder, slot, run.config)
            self.running[run.name] = slots.Job(run, slot, process)

    def _collect(self) -> None:
        for name, job in list(self.running.items()):
            code = job.process.poll()
            if code is None:
                if job.seconds_without_a_beat() > self.hang_after:
                    job.hung = True
                    job.process.kill()
                continue
            del self.running[name]
            self.free.append(job.slot)
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
        """The sweep's folder, once flags are parsed."""
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
            sys.exit(self.work(rows(self.seeds), self.workdir, afterwards=afterwards))

        command.run(main)

    def work(
        self,
        rows: Sequence[Row],
        folder: pathlib.Path,
        *,
        afterwards: Callable[[Sequence[PlannedRun]], None] = lambda runs: None,
    ) -> int:
        """Works off rows as the flags say, then writes the report; returns the exit code.

        Args:
            rows: of the grid.
            folder: of the sweep.
            afterwards: as in `launch`.
        """
        runs = plan(self.config, rows, folder, force=self._force.value and not self.dry_run)
        places = slots.available(self._jobs.value)
        if self.dry_run:
            estimate.show(runs, places)
            return 0
        sweep = Sweep(
            runs,
            places,
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
