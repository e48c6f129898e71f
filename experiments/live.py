"""What a sweep shows while it runs: a live table on a terminal, plain lines in a pipe."""

import time
from collections.abc import Sequence
from typing import Any

import rich.live
import rich.table

from experiments.plan import PlannedRun
from resnet_jax import run_folder
from resnet_jax.terminal import CONSOLE


class Board:
    """Shows a sweep's runs.

    Args:
        title: of the table.
        runs: all runs of the sweep.
    """

    def __init__(self, title: str, runs: Sequence[PlannedRun]):
        self.title, self.runs = title, runs
        self._started = time.monotonic()
        self._begun_with = self._done()
        self._told: dict[str, str] = {}
        self._live = rich.live.Live(console=CONSOLE, auto_refresh=False) if self._terminal else None
        if self._live:
            self._live.start()

    @property
    def _terminal(self) -> bool:
        return CONSOLE.is_terminal

    def _done(self) -> float:
        return sum(run.work * _share(run.status) for run in self.runs)

    def seconds_left(self) -> float:
        """An estimate, from the work done since the sweep was started; NaN before any was."""
        done, total = self._done(), sum(run.work for run in self.runs)
        gained = done - self._begun_with
        if gained <= 0:
            return float("nan")
        return (total - done) / gained * (time.monotonic() - self._started)

    def show(self) -> None:
        """Draws the table anew, or tells what has changed since the last time."""
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        for run in self.runs:
            status = run.status
            if self._told.get(run.name) != status["state"]:
                self._told[run.name] = status["state"]
                if status["state"] != run_folder.QUEUED:
                    CONSOLE.print(f"{run.name}: {_sentence(status)}", highlight=False)

    def close(self) -> None:
        """Leaves the last table standing."""
        self.show()
        if self._live:
            self._live.stop()

    def _table(self) -> rich.table.Table:
        finished = sum(run.is_finished for run in self.runs)
        table = rich.table.Table(
            title=f"{self.title}: {finished} of {len(self.runs)} runs finished, "
            f"about {_duration(self.seconds_left())} left"
        )
        for heading in ("run", "state", "step", "training error %", "img/s", "left"):
            table.add_column(heading, justify="left" if heading in ("run", "state") else "right")
        for run in self.runs:
            status = run.status
            table.add_row(
                run.name,
                status["state"],
                f"{status['step']}/{status['steps']}",
                _number(status.get("train_error"), ".1f"),
                _number(status.get("images_per_second"), ".0f"),
                _duration(_run_seconds_left(run, status)),
            )
        return table


def _share(status: dict[str, Any]) -> float:
    if status["state"] in run_folder.FINISHED:
        return 1.0
    return float(status["step"] / status["steps"])


def _sentence(status: dict[str, Any]) -> str:
    parts = [status["state"], f"step {status['step']} of {status['steps']}"]
    if status.get("train_error") is not None:
        parts.append(f"training error {status['train_error']:.1f} %")
    if status.get("reason"):
        parts.append(status["reason"])
    return ", ".join(parts)


def _run_seconds_left(run: PlannedRun, status: dict[str, Any]) -> float:
    speed = status.get("images_per_second")
    if status["state"] != run_folder.RUNNING or not speed:
        return float("nan")
    return float((status["steps"] - status["step"]) * run.config.train.batch_size / speed)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
