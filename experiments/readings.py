"""What each reading of what a paper leaves open is worth: a table, from kept records."""

import pathlib
from collections.abc import Sequence

from experiments.ambiguities import READINGS, Reading
from experiments.cells import NOT_RUN, ORIGIN, Kept, facts, origin, spread
from resnet_jax.report import groups, intervals, tables
from resnet_jax.report.groups import Group
from resnet_jax.report.intervals import Difference
from resnet_jax.report.tables import NOTHING, Table

COLUMNS = ("net", "reading", "test error %", "difference, points", "can it be told?", *ORIGIN)
NOTES = (
    "Test error after the last step, mean and standard deviation over n seeds, and the difference "
    "of the means to the reading as here, with its 95 % interval: Welch's, for seeds have nothing "
    "in common once training differs; paired by seed where only what follows training does. Not "
    "adjusted for the number of readings. Seeds: an estimate, on each side, for 80 % power, taking "
    "the measured spread for the true one.",
)


def told(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The table, as Markdown.

    Args:
        all_kept: records of `experiments.ambiguities`.
        near: unused; other sections link figures from there.
    """
    del near
    rows = [row for item in all_kept for row in _rows(item)]
    if not rows:
        return NOT_RUN
    title = "What He et al. 2015 leaves open: CIFAR-10"
    told_of = facts(all_kept, each=False)
    table = Table("", title, COLUMNS, tuple(rows), frozenset({2, 5, 6, 7}), told_of, NOTES)
    return tables.markdown(table)


def _rows(item: Kept) -> list[tuple[str, ...]]:
    """Each net's readings, its own first."""
    by_label = {group.label: group for group in item.runs.groups}
    nets = sorted({_reading(label)[1] for label in by_label})
    rows = []
    for net in nets:
        own = by_label.get(net)
        for reading in READINGS:
            group = by_label.get(reading.label + net)
            if group is None:
                continue
            change = (NOTHING, "not without a run as here" if own is None else NOTHING)
            if own is not None and group is not own:
                change = _change(own, group, reading)
            where = origin(item, group.runs + group.diverged)
            rows.append((net, reading.words, spread(group, "test"), *change, *where))
    return rows


def _reading(label: str) -> tuple[Reading, str]:
    """The reading that a label is of, and its net."""
    reading = max((r for r in READINGS if label.startswith(r.label)), key=lambda r: len(r.label))
    return reading, label.removeprefix(reading.label)


def _change(own: Group, group: Group, reading: Reading) -> tuple[str, str]:
    """By how much a reading's test error differs, and whether that can be told from chance.

    Runs that are trained in the same way are so to the bit on one kind of machine alone.
    """
    alike = all(groups.hardware_of(a) == groups.hardware_of(b) for a, b in own.seed_by_seed(group))
    paired = reading.same_training and alike
    before, after = own.final("test"), group.final("test")
    if paired:  # a single pair says by how much, too
        before = {seed: error for seed, error in before.items() if seed in after}
    return _worth(intervals.difference(before, after, paired=paired))


def _worth(change: Difference) -> tuple[str, str]:
    if not change.has_interval:
        return f"{change.mean:+.2f}", "one seed: no interval"
    words = f"{change.mean:+.2f} ({change.low:+.2f} to {change.high:+.2f})"
    if change.outcome != "cannot tell":
        return words, change.outcome
    needed = change.seeds_needed
    return words, f"no; about {needed} seeds could" if needed else "no"
