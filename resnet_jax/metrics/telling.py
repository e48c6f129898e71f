"""What a run tells of itself besides its folder, and whom: the records, and how it ended."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from resnet_jax import run_folder

Record = dict[str, Any]
# A tracker's entry in tracking.json, and what keeps another one there.
Entry = dict[str, Any]
Keep = Callable[[Entry], None]

ENDED = (*run_folder.FINISHED, run_folder.STOPPED, run_folder.FAILED)
# The prefix of what the final report has measured.
FINAL = "final"


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run before its records.

    Attributes:
        folder: the run's.
        name: the folder's.
        group: the name of the folder that it lies in, which a sweep's runs have in common.
        params: the resolved configuration, 'model.depth': 20 and so on.
        tags: commit and folder.
    """

    folder: pathlib.Path
    name: str
    group: str
    params: dict[str, Any]
    tags: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: as in `status.json`, but `failed` if that still says `running`: nothing else is left
            when the last words could not be written.
        step: that the run is at.
        summary: the final report's numbers, 'final/val/error' and so on; empty without one.
    """

    state: str
    step: int
    summary: dict[str, float]

    @classmethod
    def of(cls, workdir: pathlib.Path) -> "Outcome":
        """What a run's folder says."""
        status = run_folder.read_json(workdir / run_folder.STATUS) or {}
        state = status.get("state")
        report: dict[str, Any] = {}
        if state == run_folder.COMPLETED:
            report = run_folder.read_json(workdir / run_folder.EVALUATION) or {}
        summary = {
            f"{FINAL}/{split}/{name}": float(value)
            for split, measured in report.get("splits", {}).items()
            for name, value in measured.items()
            if isinstance(value, (int, float))
        }
        ended = state if state in ENDED else run_folder.FAILED
        return cls(ended, int(status.get("step", 0)), summary)


class Sink(Protocol):
    """What `MetricsWriter` tells of a run's records."""

    def start(self, kept: Sequence[Record]) -> None:
        """Told once, first: the records of earlier attempts that the run goes on from."""

    def add(self, record: Record) -> None:
        """Told of each new record; does not wait for anything outside this machine."""

    def close(self, outcome: Outcome) -> None:
        """Told once, last."""


class Remote(Protocol):
    """A tracker that may be slow or away; `background.InBackground` makes a sink of it.

    Attributes:
        label: its name for readers.
        key: its name in tracking.json.
    """

    label: str
    key: str

    def start(self, entry: Entry, keep: Keep) -> dict[str, int]:
        """Begins the run there, or goes on with the one of `entry`.

        Args:
            entry: what was kept last, or nothing.
            keep: keeps the run's id, as soon as it is known.

        Returns:
            The last step of each split that the tracker has.
        """

    def send(self, records: Sequence[Record]) -> None:
        """Sends records, in order."""

    def close(self, outcome: Outcome) -> None:
        """Sends the summary and ends the attempt."""


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """The record's values under the names that all sinks show: 'train/error' and so on."""
    for name, value in record.items():
        if isinstance(value, float) and math.isfinite(value):
            yield f"{record['split']}/{name}", value
