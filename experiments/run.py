"""Runs a grid: each run its own process on its own device, everything resumable.

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56 --seeds=0,1
    python -m experiments.degradation --workdir=runs/fig6 --config.train.steps=1000

Starting the same command again skips what is finished, goes on with what was begun and tries again
what failed. Ctrl-C stops all runs with a checkpoint. `--dry-run` only tells what would be done.

Exit codes: 0 all runs have a result, 1 some failed, 2 bad input, 75 stopped.
"""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from experiments import estimate, slots
from experiments.grid import Grid
from experiments.live import Board
from experiments.plan import PlannedRun, enqueue, plan
from resnet_jax import command, run_folder
from resnet_jax.errors import InputError

POLL_SECONDS = 0.3


class Sweep:
    """Works off the runs of a grid.

    Args:
        runs: in the order in which they are begun.
        places: where they may run; each holds one at a time.
        retries: how often a failed run is tried again.
        title: for the table.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], places: Sequence[slots.Slot], *, retries: int, title: str
    ):
        self.runs, self.retries = runs, retries
        self.free = list(places)
        self.waiting = [run for run in runs if not run.is_finished]
        self.running: dict[str, tuple[PlannedRun, slots.Slot, subprocess.Popen[bytes]]] = {}
        self.refused: str | None = None
        self.stopping = False
        self.board = Board(title, runs)

    def work(self) -> int:
        """Runs everything; returns the exit code."""
        for run in self.waiting:
            enqueue(run)
        try:
            while self.running or (self.waiting and not self.stopping):
                self._collect()
                self._begin()
                self.board.show()
                time.sleep(POLL_SECONDS)
        finally:
            self._end_all(signal.SIGTERM)
            self.board.close()
        if self.refused:
            raise InputError(self.refused)
        if self.stopping:
            return command.INTERRUPTED
        return 0 if all(run.is_finished for run in self.runs) else 1

    def stop(self, number: int, frame: object) -> None:
        """Asks every run to save and end; asked again, ends them at once."""
        self._end_all(signal.SIGKILL if self.stopping else signal.SIGINT)
        self.stopping = True

    def _end_all(self, number: signal.Signals) -> None:
        for _, _, process in self.running.values():
            if process.poll() is None:
                process.send_signal(number)

    def _begin(self) -> None:
        # A run whose process outlived an earlier runner is left alone until that has saved.
        ready = [run for run in self.waiting if run_folder.owner(run.folder) is None]
        while self.free and ready and not self.stopping:
            run, slot = ready.pop(0), self.free.pop(0)
            self.waiting.remove(run)
            self.running[run.name] = (
                run,
                slot,
                slots.start(run.folder, slot, run.config.model.depth),
            )

    def _collect(self) -> None:
        for name, (run, slot, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            self.free.append(slot)
            if code in (0, command.HAS_DIVERGED, command.INTERRUPTED):
                continue
            words = slots.last_words(run.folder)
            if code == command.BAD_INPUT:
                # The others share data and machine: they would be refused as well.
                self.refused = f"{name} was refused: {words.removeprefix('error: ')}"
                self.stopping = True
                self._end_all(signal.SIGINT)
                continue
            run.failures += 1
            _note_failure(run, code, words)
            if run.failures <= self.retries:
                self.waiting.append(run)


def _note_failure(run: PlannedRun, code: int, words: str) -> None:
    """A process that was killed could not say so itself."""
    reason = f"its process was ended by signal {-code}" if code < 0 else words
    status = {**run.status, "state": run_folder.FAILED, "reason": reason}
    run_folder.write_json(run.folder / run_folder.STATUS, status)


def launch(grid: Grid) -> None:
    """The command line of a grid's module."""
    config = config_flags.DEFINE_config_file("config", grid.base, "What all runs share.")
    workdir = flags.DEFINE_string("workdir", f"runs/{grid.name}", "The sweep's folder.")
    depths = flags.DEFINE_list("depths", [str(d) for d in grid.depths], "Depths of the nets.")
    families = flags.DEFINE_list("families", list(grid.families), "plain, residual.")
    seeds = flags.DEFINE_list("seeds", [str(s) for s in grid.seeds], "One run each.")
    jobs = flags.DEFINE_integer("jobs", 0, "Runs at a time; 0: one a device or core.", 0)
    retries = flags.DEFINE_integer("retries", 1, "How often a failed run is tried again.", 0)
    force = flags.DEFINE_bool("force", False, "Replace runs whose config has changed.")
    dry_run = flags.DEFINE_bool("dry_run", False, "Only print the grid, with its cost.")
    flags.DEFINE_alias("dry-run", "dry_run")

    def main(argv: list[str]) -> None:
        del argv
        unknown = set(families.value) - {"plain", "residual"}
        if unknown:
            raise InputError(f"--families must be plain, residual or both, got {unknown.pop()!r}")
        rows = grid.rows(
            depths=_numbers("depths", depths.value),
            families=families.value,
            seeds=_numbers("seeds", seeds.value),
        )
        folder = pathlib.Path(workdir.value)
        runs = plan(
            command.read_config(config), rows, folder, force=force.value and not dry_run.value
        )
        places = slots.available(jobs.value)
        if dry_run.value:
            estimate.show(runs, places)
            return
        sys.exit(sweep(runs, places, retries=retries.value, title=grid.name, workdir=folder))

    command.run(main)


def sweep(
    runs: Sequence[PlannedRun],
    places: Sequence[slots.Slot],
    *,
    retries: int,
    title: str,
    workdir: pathlib.Path,
) -> int:
    """Works off the runs, then writes the report; returns the exit code."""
    work = Sweep(runs, places, retries=retries, title=title)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, work.stop)
    code = work.work()
    if code != command.INTERRUPTED:
        # In a process of its own: Matplotlib and Plotly are of no use to the runner.
        subprocess.run([sys.executable, "-m", "resnet_jax.report", str(workdir)], check=True)
    return code


def _numbers(name: str, texts: Sequence[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name} must be whole numbers with commas, got {texts}") from error
