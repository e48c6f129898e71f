"""Works off the runs of a sweep: begins them where there is room, and sees how they end.

A run that crashes, is killed or hangs takes no other with it and is tried once more; where one run
after the other fails before its first step, the sweep stops, for something concerns them all.
"""

import math
import signal
import time
from collections.abc import Sequence

from experiments import slots
from experiments.live import Board
from experiments.plan import PlannedRun, enqueue
from resnet_jax import command, run_folder
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
# Of a limited time, in which no more are started: they would hardly get to their first step.
LAST_SHARE = 0.1
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
        until: when all runs save and end, by `time.monotonic`, to be gone on with another time.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        executor: slots.Executor,
        *,
        retries: int,
        title: str,
        hang_after: float = HANG_AFTER,
        until: float = math.inf,
    ):
        self.runs, self.retries, self.hang_after = runs, retries, hang_after
        self.executor = executor
        self.waiting = [run for run in runs if not run.is_finished]
        self.running: dict[str, slots.Job] = {}
        self.early_failures = 0
        self.refused: str | None = None
        self.requests = 0  # to stop, by the user
        begun = time.monotonic()
        self.until, self._last_begin = until, begun + (1 - LAST_SHARE) * (until - begun)
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
                self.executor.tend()
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
        if self.requests or (self._is_over and not self._has_succeeded()):
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

    @property
    def _may_begin(self) -> bool:
        """Whether others are to be begun."""
        return not (self.ending or self.requests) and time.monotonic() < self._last_begin

    @property
    def _is_over(self) -> bool:
        """Whether its time is, or what is left of it with nothing running."""
        now = time.monotonic()
        return now >= self.until or (now >= self._last_begin and not self.running)

    def _heed_requests(self) -> None:
        if self.requests or self._is_over:
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
        while ready and self.executor.has_room() and self._may_begin:
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
