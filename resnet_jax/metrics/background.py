"""Trackers in threads of their own: none can hold a run up, and none can end it."""

import json
import logging
import pathlib
import queue
import threading
from collections.abc import Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError, first_line
from resnet_jax.metrics.telling import Entry, Outcome, Record, Remote

LOG = logging.getLogger(__name__)

# How long a run that is over waits for a tracker to take the rest.
CLOSE_SECONDS = 30.0
# What the names of its threads begin with.
THREAD = "tracking-"


class Ledger:
    """What stands in a run's tracking.json: an entry a tracker, written by several threads."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / run_folder.TRACKING
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        try:
            found = run_folder.read_json(self._path)
        except InputError as error:  # no reason to end a run
            LOG.warning("trackers are told of this run anew: %s", error)
        else:
            self._entries = found if isinstance(found, dict) else {}

    def entry(self, key: str) -> Entry:
        """A copy of a tracker's entry; empty if there is none."""
        with self._lock:
            found = self._entries.get(key, {})
            return dict(found) if isinstance(found, dict) else {}

    def keep(self, key: str, entry: Entry) -> None:
        """Replaces a tracker's entry, on disk too."""
        with self._lock:
            self._entries[key] = json.loads(json.dumps(entry))
            run_folder.write_json(self._path, self._entries, durable=False)


class InBackground:
    """A sink that hands all over to a tracker in a thread of its own.

    A tracker that fails, or has not taken everything in time when the run ends, is left out from
    then on, with one warning. What it has missed it is sent when the run is gone on with.

    Args:
        remote: the tracker.
        ledger: of the run.
        close_seconds: how long `close` waits.
    """

    def __init__(self, remote: Remote, ledger: Ledger, *, close_seconds: float = CLOSE_SECONDS):
        self._remote, self._ledger = remote, ledger
        self._close_seconds = close_seconds
        self._queue: queue.SimpleQueue[Record | Outcome] = queue.SimpleQueue()
        self._left_out = threading.Event()
        # A daemon: one that hangs ends with the process.
        self._thread = threading.Thread(target=self._work, name=THREAD + remote.key, daemon=True)

    def start(self, kept: Sequence[Record]) -> None:
        """Starts the thread, which first makes up for what the tracker lacks of `kept`."""
        # It would tell of every attempt at a request.
        logging.getLogger("urllib3.connectionpool").addFilter(_is_of_other_threads)
        for record in kept:
            self._queue.put(record)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Puts a record in line."""
        if not self._left_out.is_set():
            self._queue.put(record)

    def close(self, outcome: Outcome) -> None:
        """Waits for what is in line, but not for long."""
        self._queue.put(outcome)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            self._leave_out(f"it has not taken everything within {self._close_seconds:g} s")

    def _work(self) -> None:
        try:
            self._tell()
        except Exception as error:
            self._leave_out(f"{type(error).__name__}: {first_line(error)}")

    def _tell(self) -> None:
        key = self._remote.key
        sent = self._remote.start(
            self._ledger.entry(key), lambda entry: self._ledger.keep(key, entry)
        )
        outcome = None
        while outcome is None:
            waiting = self._waiting()
            outcome = next((item for item in waiting if isinstance(item, Outcome)), None)
            # Steps that are made again after an interruption were sent before it.
            new = [r for r in waiting if isinstance(r, dict) and _is_new(r, sent)]
            if new:
                self._remote.send(new)
                sent |= {record["split"]: record["step"] for record in new}
                self._ledger.keep(key, {**self._ledger.entry(key), "sent": sent})
        self._remote.close(outcome)

    def _waiting(self) -> list[Any]:
        """All that is in line, at least one item: a slow tracker takes many at once."""
        items: list[Record | Outcome] = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        return items

    def _leave_out(self, reason: str) -> None:
        if not self._left_out.is_set():
            self._left_out.set()
            LOG.warning(
                "going on without %s (%s); the run's folder has all records",
                self._remote.label,
                reason,
            )


def _is_new(record: Record, sent: dict[str, int]) -> bool:
    return bool(record["step"] > sent.get(record["split"], -1))


def _is_of_other_threads(record: logging.LogRecord) -> bool:
    return not str(record.threadName).startswith(THREAD)
