"""Nets that were trained before and have learned something new: how well, and at what cost."""

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.report import intervals, records, tables, twins
from resnet_jax.report.findings import Findings
from resnet_jax.report.groups import Group
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import NOTHING, Table, number

MEASURES = ("accuracy", "precision", "recall", "F1", "ROC area")
# Pixels a side of images that are not resized.
SIDES = {"digits": 8, "cifar10": 32, "cifar100": 32}
Interval = tuple[float, float]
QUESTION = "Which net classifies the new images best?"
COLUMNS = (
    *("label", "net", "weights", "trained", "input", "n"),
    *(f"{name} (95 %)" for name in MEASURES),
)
COSTS = (
    *("label", "net", "input", "parameters", "trained parameters", "multiply-adds (M)"),
    *("ms an image", "fastest", "slowest"),
)
NOTES = (
    "Measures are shares of the test images; precision, recall, F1 and area are of the positive "
    "class where there are two classes, else means over classes.",
    "Intervals: Student's t over seeds; with one seed over images (Wilson; bootstrap for areas). "
    "Seeds of one pretrained backbone differ in the head's start and the order of images alone, so "
    "theirs say nothing of other images: see the paired tests for that.",
)
TIMING = (
    "Time: the whole net in evaluation, from stored pixels to logits, median over calls of a batch "
    "on one device, measured after all runs, one net after another.",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """The runs of one label.

    Attributes:
        group: they themselves.
        series: the label without the input size: what is one line of a figure.
        size: pixels a side of what the net sees; None if that is not known.
        measures: by name: share of the test images, with the interval; n is of seeds.
        cost: as `analysis.inference` measured it, or nothing.
    """

    group: Group
    series: str
    size: int | None
    measures: dict[str, intervals.Mean]
    cost: dict[str, Any]

    @property
    def accuracies(self) -> dict[int, float]:
        """Percent of the test images, by seed."""
        return {seed: 100 - error for seed, error in self.group.final("test").items()}


def entries(sweep: Sweep) -> list[Entry]:
    """One for each label, by input size, if this is a sweep of nets trained before or in part.

    Returns:
        Nothing, if no run freezes parts or starts from weights.
    """
    if not any(_transfers(group) for group in sweep.groups):
        return []
    found = [_entry(group) for group in sweep.groups if group.n]
    return sorted(found, key=lambda entry: (entry.size or 0, entry.series))


def _transfers(group: Group) -> bool:
    field = records.field
    return bool(
        field(group.config, "transfer.trained_from", "") or field(group.config, "model.weights", "")
    )


def _entry(group: Group) -> Entry:
    found = [_of_run(run) for run in group.runs]
    reports = [run_folder.read_json(_analysis(run, run_folder.INFERENCE)) for run in group.runs]
    return Entry(
        group=group,
        series=re.sub(r"-\d+px$", "", group.label),
        size=_size(group),
        measures={name: _measure([one[name] for one in found]) for name in MEASURES},
        cost=next(filter(None, reports), {}),
    )


def _analysis(run: Run, name: str) -> pathlib.Path:
    return run.folder / run_folder.ANALYSIS / name


def _size(group: Group) -> int | None:
    data = group.config["data"]
    if data.get("resize"):
        return int(data["resize"])
    if data["name"] == "synthetic":
        return int(data["synthetic"]["image_size"])
    side = SIDES.get(data["name"], data.get("image_size"))
    return int(side) if side else None


def _measure(found: Sequence[tuple[float, Interval | None]]) -> intervals.Mean:
    """Over seeds; of a single one with its interval over images."""
    mean = intervals.mean([value for value, _ in found if math.isfinite(value)])
    if len(found) == 1 and found[0][1]:
        low, high = found[0][1]
        return dataclasses.replace(mean, low=low, high=high)
    return mean


def _of_run(run: Run) -> dict[str, tuple[float, Interval | None]]:
    """Each measure of a run's test images, and its interval over them where it has one."""
    test = records.field(run.evaluation or {}, "splits.test", {})
    areas = records.field(test, "ranking.per_class", [])
    macro = records.field(test, "averages.macro", {})
    error = _interval(test.get("error_interval"))
    exact = (1 - error[1] / 100, 1 - error[0] / 100) if error else None
    found = {"accuracy": (_known(test.get("accuracy")), exact)}
    # Of two classes, the one that counts as positive is the only one with an area.
    rows = {row.get("class"): row for row in test.get("per_class", [])}
    area = areas[0] if len(areas) == 1 else {}
    positive = rows.get(area.get("class"), {})
    for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        value = _known((positive or macro).get(key))
        found[name] = (value, _interval(positive.get(f"{key}_interval")))
    ranked = _known(records.field(test, "ranking.macro.roc_auc"))
    found["ROC area"] = (ranked, _interval(area.get("roc_auc_interval")))
    return found


def _known(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _interval(value: Any) -> Interval | None:
    is_there = isinstance(value, list) and len(value) == 2 and None not in value
    return (float(value[0]), float(value[1])) if is_there else None


def weights_words(config: dict[str, Any]) -> str:
    """Where a net's weights come from."""
    weights = str(records.field(config, "model.weights", ""))
    if not weights:
        return "random"
    return records.printable(weights.rstrip("/").rpartition("/")[2].replace("-seed{seed}", ""))


def trained_words(config: dict[str, Any]) -> str:
    """What of a net is trained."""
    part = records.field(config, "transfer.trained_from", "")
    interval = records.field(config, "transfer.unfreeze_interval", 0)
    words = {"": "all", "head": "head"}.get(part, f"from {part}")
    return f"{words}, part by part" if interval else words


def findings(sweep: Sweep) -> Findings | None:
    """What a report says of nets that were trained before; None if this is no such sweep."""
    found = entries(sweep)
    if not found:
        return None
    made = (table(sweep, found), paired_table(sweep, found), cost_table(sweep, found))
    return Findings(QUESTION, tuple(sentences(found)), tuple(one for one in made if one))


def table(sweep: Sweep, found: Sequence[Entry]) -> Table:
    """What each label reaches.

    Args:
        sweep: for where its numbers come from.
        found: its `entries`, at least one.
    """
    rows = [
        (
            *(entry.group.label, entry.group.runs[0].net, weights_words(entry.group.config)),
            trained_words(entry.group.config),
            *(str(entry.size or NOTHING), str(entry.group.n)),
            *(_share(entry.measures[name]) for name in MEASURES),
        )
        for entry in found
    ]
    return Table(
        *("transfer", "What the nets have learned", COLUMNS, tuple(rows)),
        numeric=frozenset(range(4, len(COLUMNS))),
        facts=tables.facts(sweep),
        notes=NOTES,
    )


def cost_table(sweep: Sweep, found: Sequence[Entry]) -> Table | None:
    """As `table`, of what each label's net costs; None if that was not measured."""
    measured = [entry for entry in found if entry.cost]
    rows = []
    for entry in measured:
        cost = entry.cost
        counts = [cost.get(name) for name in ("parameters", "trained_parameters")]
        times = [cost.get("milliseconds_per_image"), *cost.get("milliseconds_range", ())]
        rows.append(
            (
                *(entry.group.label, entry.group.runs[0].net, str(entry.size or NOTHING)),
                *(f"{count:,}" if isinstance(count, int) else NOTHING for count in counts),
                number(_known(cost.get("multiply_adds")) / 1e6, 1),
                *(number(_known(time), 3) for time in times),
            )
        )
    if not rows:
        return None
    timed = sorted({_timed_on(entry.cost) for entry in measured})
    return Table(
        *("costs", "What the nets cost", COSTS, tuple(rows)),
        numeric=frozenset(range(2, len(COSTS))),
        facts={**tables.facts(sweep), "time measured on": "; ".join(timed)},
        notes=TIMING,
    )


def _share(mean: intervals.Mean) -> str:
    if not math.isfinite(mean.mean):
        return NOTHING
    if not math.isfinite(mean.low):
        return number(mean.mean, 3)
    # An interval by Student's t knows nothing of where shares end.
    return f"{mean.mean:.3f} ({max(mean.low, 0):.3f} to {min(mean.high, 1):.3f})"


def _timed_on(cost: dict[str, Any]) -> str:
    machine = cost.get("hardware") or {}
    cores = machine.get("usable_cores")
    where = f"{machine.get('processor')}, {cores} {'core' if cores == 1 else 'cores'}"
    return f"{cost.get('device', 'unknown device')} ({where}), batch {cost.get('batch')}"


def paired_table(sweep: Sweep, found: Sequence[Entry]) -> Table | None:
    """As `table`, of every two labels of one input size on the same test images, seed by seed."""
    pairs = [
        pair
        for a, b in itertools.combinations(found, 2)
        if a.size == b.size
        for pair in a.group.seed_by_seed(b.group)
    ]
    columns = (
        *("a", "b", "seed", "n", "test images", "a: test error %", "b: test error %"),
        *("b - a", "95 % interval", "only a wrong", "only b wrong", "p", "Holm p"),
    )
    return twins.paired(sweep, pairs, "pairs", "Two nets on the same test images", columns)


def sentences(found: Sequence[Entry]) -> list[str]:
    """What is best at each input size, and whether that is more than chance among seeds."""
    told: list[str] = []
    for size, members in itertools.groupby(found, key=lambda entry: entry.size):
        ranked = sorted(
            (entry for entry in members if entry.accuracies),
            key=lambda entry: -entry.measures["accuracy"].mean,
        )
        if not ranked:
            continue
        best, *others = ranked
        where = f"At {size} pixels" if size else "In all"
        mean = best.measures["accuracy"]
        text = f"{where} {best.series} is best: accuracy {_share(mean)}, n = {best.group.n}"
        compared = [_compared(best, other) for other in others]
        told.append(". ".join([text, *compared]) + ".")
    return told


def _compared(best: Entry, other: Entry) -> str:
    gap = intervals.difference(other.accuracies, best.accuracies)
    text = f"{other.series} is {gap.mean:.2f} points below"
    if not gap.has_interval:
        return f"{text} (one seed, no interval)"
    text += f" (95 % interval {gap.low:.2f} to {gap.high:.2f}, {gap.method} over {gap.n[1]} seeds)"
    return text if gap.outcome == "higher" else f"{text}, which may be chance"
