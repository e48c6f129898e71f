"""Writes a run's records: JSON lines, which are the truth, and TensorBoard event files.

`clu.metric_writers` would do this, but imports TensorFlow.
"""

import json
import math
import os
import pathlib
import shutil
from typing import Any

from resnet_jax import run_folder


class MetricsWriter:
    """Appends one record for each (step, split).

    Args:
        workdir: the run's folder.
        after_step: the step that the run resumes after; later records of an attempt that was cut
            off are dropped, so that every record stands once. 0 for a new run.
        tensorboard: whether to write event files too.
    """

    def __init__(self, workdir: pathlib.Path, *, after_step: int, tensorboard: bool):
        path = workdir / run_folder.METRICS
        kept = [r for r in run_folder.read_records(path) if r["step"] <= after_step]
        run_folder.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._events: Any = None
        if tensorboard:
            # Imported here because it imports PyTorch, where that is installed: 1.3 s.
            import tensorboardX

            folder = workdir / run_folder.TENSORBOARD
            shutil.rmtree(folder, ignore_errors=True)
            self._events = tensorboardX.SummaryWriter(str(folder), flush_secs=10)
            for record in kept:
                self._add_events(record)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Appends a record in one write; non-finite values become null and are marked."""
        record: dict[str, Any] = {"step": step, "split": split, **run_folder.without_nan(values)}
        if not all(math.isfinite(value) for value in values.values()):
            record["nonfinite"] = True
        os.write(self._file, (json.dumps(record, allow_nan=False) + "\n").encode())
        self._add_events(record)

    def close(self) -> None:
        """Flushes and closes both files."""
        os.close(self._file)
        if self._events:
            self._events.close()

    def _add_events(self, record: dict[str, Any]) -> None:
        if not self._events:
            return
        for name, value in record.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])
