"""Writes a run's records: JSON lines, which are the truth, and whatever shows them besides.

`clu.metric_writers` would do this, but imports TensorFlow.
"""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.metrics.telling import Outcome, Sink


class MetricsWriter:
    """Appends one record for each (step, split).

    Args:
        workdir: the run's folder.
        after_step: the step that the run resumes after; later records of an attempt that was cut
            off are dropped, so that every record stands once. 0 for a new run.
        sinks: what shows the records besides, see `tracking.sinks_of`; each is told of all kept
            records first, then of every new one, and at the end of the outcome.
    """

    def __init__(self, workdir: pathlib.Path, *, after_step: int, sinks: Sequence[Sink] = ()):
        path = workdir / run_folder.METRICS
        kept = [r for r in run_folder.read_records(path) if r["step"] <= after_step]
        run_folder.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._workdir = workdir
        self._sinks = tuple(sinks)
        for sink in self._sinks:
            sink.start(kept)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Appends a record in one write; non-finite values become null and are marked."""
        record: dict[str, Any] = {"step": step, "split": split, **run_folder.without_nan(values)}
        if not all(math.isfinite(value) for value in values.values()):
            record["nonfinite"] = True
        os.write(self._file, (json.dumps(record, allow_nan=False) + "\n").encode())
        for sink in self._sinks:
            sink.add(record)

    def close(self) -> None:
        """Closes the file and all sinks, which are told how the run stands by its folder."""
        os.close(self._file)
        if self._sinks:
            outcome = Outcome.of(self._workdir)
            for sink in self._sinks:
                sink.close(outcome)
