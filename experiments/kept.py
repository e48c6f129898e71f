"""What is kept of a finished run: a folder of small files, from which reports are drawn again.

Config, status and evaluation stay whole. The curve is brought to at most 500 points a split, the
signals of layers to their first and last moment, and pieces of a run that nothing tells apart but
the time to one attempt. Predictions and checkpoints, which are large, are left out.
"""

import json
import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.report import signals

POINTS = 500
# What tells two attempts apart: the rest is when and with which words they were begun.
ORIGIN = ("commit", "dataset", "versions", "devices", "hosts", "hardware", "native")
SIGNALS = pathlib.Path(run_folder.ANALYSIS) / signals.FILE

Record = dict[str, Any]


def keep(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes a finished run's record, in place of what was kept of it before.

    Args:
        run: its folder.
        folder: of the record.
    """
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in (run_folder.CONFIG, run_folder.STATUS):
        run_folder.write_text(folder / name, (run / name).read_text())
    attempts = {"attempts": merged(run_folder.attempts(run))}
    run_folder.write_json(folder / run_folder.PROVENANCE, attempts)
    records = thinned(run_folder.read_records(run / run_folder.METRICS))
    lines = "".join(json.dumps(run_folder.without_nan(record)) + "\n" for record in records)
    run_folder.write_text(folder / run_folder.METRICS, lines)
    evaluation = run_folder.read_json(run / run_folder.EVALUATION)
    if evaluation:
        run_folder.write_text(folder / run_folder.EVALUATION, _small(evaluation))
    found = run_folder.read_json(run / SIGNALS)
    if found:
        (folder / SIGNALS).parent.mkdir(exist_ok=True)
        ends = {**found, "moments": [found["moments"][0], found["moments"][-1]]}
        run_folder.write_text(folder / SIGNALS, _small(ends))


def _small(value: Any) -> str:
    return json.dumps(run_folder.without_nan(value), separators=(",", ":")) + "\n"


def thinned(records: Sequence[Record], points: int = POINTS) -> list[Record]:
    """The records with at most so many of each split.

    A record of training is the mean over the steps since the one before it. Neighbours become one
    that is so too, so means over parts of a run stay what they are; whatever else a record says is
    the last neighbour's. Of evaluations every k-th stays, and the last.

    Args:
        records: as `metrics.jsonl` has them, by step.
        points: at most so many stay, at least 1.
    """
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(record["split"], []).append(record)
    kept = []
    for split, members in by_split.items():
        size = math.ceil(len(members) / points)
        # Counted from the end, so that the last tenth, of which errors are told, is whole.
        edges = range(len(members) % size or size, len(members) + 1, size)
        for start, end in zip([0, *edges[:-1]], edges, strict=True):
            before = members[start - 1]["step"] if start else 0
            part = members[start:end]
            kept.append(_mean(part, before) if split == "train" else part[-1])
    places = {(r["step"], r["split"]): place for place, r in enumerate(records)}
    return sorted(kept, key=lambda record: places[record["step"], record["split"]])


def _mean(part: Sequence[Record], before: int) -> Record:
    """One record for several that follow one another; `before`: the step before the first."""
    if len(part) == 1:
        return part[0]
    steps = [before, *(record["step"] for record in part)]
    weights = [b - a for a, b in zip(steps[:-1], steps[1:], strict=True)]
    last = dict(part[-1])
    for name in ("loss", "error"):
        values = [record[name] for record in part]
        known = all(value is not None for value in values)
        total = sum(w * v for w, v in zip(weights, values, strict=True)) if known else math.nan
        last[name] = total / sum(weights)
    return last


def merged(attempts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Attempts without those that continue another in the same circumstances.

    Args:
        attempts: as `provenance.json` has them.

    Returns:
        One of each kind, in order of their first, with how many `pieces` it had.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for attempt in attempts:
        kind = json.dumps({name: attempt.get(name) for name in ORIGIN}, sort_keys=True)
        kinds.setdefault(kind, {**attempt, "pieces": 0})["pieces"] += 1
    return list(kinds.values())
