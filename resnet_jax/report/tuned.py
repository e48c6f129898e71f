"""How much of degradation is tuning: nets by the default recipe, and each by its own best one.

Which label is whose tuned twin stands in `tuned.json`, which `experiments.tuned_degradation` writes
beside the run folders. The verdict is on the default recipe, which all its nets share; tuned nets
have a recipe each, and are compared here.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import intervals, phrases, tables
from resnet_jax.report import verdict as verdicts
from resnet_jax.report.findings import Findings
from resnet_jax.report.groups import Group
from resnet_jax.report.search import name_of, short
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import NOTHING, Table, number

QUESTION = "How much of degradation is tuning?"


@dataclasses.dataclass(frozen=True)
class Net:
    """A net's own recipe, as its search has found it.

    Attributes:
        label: of its runs by the default recipe.
        tuned: of those by its own.
        trials: of its search.
        parameters: by dotted field, of its own recipe.
        default_parameters: of the default one.
        val_error: of the best trial, in percent.
        default_val_error: of the trial with the default recipe; None if it was not completed.
    """

    label: str
    tuned: str
    trials: int
    parameters: Mapping[str, Any]
    default_parameters: Mapping[str, Any]
    val_error: float
    default_val_error: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The nets of one family, by the default recipe and by their own.

    Attributes:
        family: 'plain' or 'residual'.
        default: groups, by depth.
        own: those of the same nets with their own recipes, in the same order.
    """

    family: str
    default: tuple[Group, ...]
    own: tuple[Group, ...]


def read(folder: pathlib.Path) -> tuple[Net, ...]:
    """The nets that were tuned; none if this is no such sweep.

    Raises:
        InputError: if the record is damaged.
    """
    path = folder / run_folder.TUNED
    content = run_folder.read_json(path)
    try:
        return tuple(
            Net(
                *(str(one["label"]), str(one["tuned"]), int(one["trials"])),
                *(dict(one["parameters"]), dict(one["default_parameters"])),
                val_error=float(one["val_error"]),
                default_val_error=_of_completed(one),
            )
            for one in (content or {"nets": []})["nets"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged: {error!r}; start the same command again, which writes it anew"
        ) from error


def _of_completed(one: Mapping[str, Any]) -> float | None:
    done = one["default_state"] == run_folder.COMPLETED
    return float(one["default_val_error"]) if done else None


def without(sweep: Sweep, nets: Sequence[Net]) -> Sweep:
    """The sweep with the runs of the default recipe alone, on which the verdict is.

    Args:
        sweep: all of it.
        nets: as `read`.
    """
    own = {net.tuned for net in nets}
    kept = tuple(group for group in sweep.groups if group.label not in own)
    return dataclasses.replace(sweep, groups=kept)


def series(sweep: Sweep, nets: Sequence[Net]) -> list[Series]:
    """Each family's nets that were run both ways, by depth.

    Args:
        sweep: with their runs.
        nets: as `read`.
    """
    groups = {group.label: group for group in sweep.groups}
    pairs = [
        (groups[net.label], groups[net.tuned])
        for net in nets
        if net.label in groups and net.tuned in groups
    ]
    found = []
    for family in ("plain", "residual"):
        members = sorted(
            (pair for pair in pairs if pair[0].family == family), key=lambda pair: pair[0].depth
        )
        if members:
            default, own = zip(*members, strict=True)
            found.append(Series(family, default, own))
    return found


def findings(sweep: Sweep) -> Findings | None:
    """What a report says of tuned nets; None if this is no such sweep."""
    nets = read(sweep.root)
    if not nets:
        return None
    told = [sentence(one) for one in series(sweep, nets)]
    trials = sorted({net.trials for net in nets})
    count = " to ".join(map(str, dict.fromkeys((trials[0], trials[-1]))))
    told.append(
        f"Each net's own recipe is the best of {count} trials on val, with a seed that none of the "
        "runs below has; test was not looked at."
    )
    return Findings(
        QUESTION, tuple(told), (table(sweep, nets, series(sweep, nets)),), asks_for_depth=True
    )


def sentence(one: Series) -> str:
    """One family's answer: what depth costs by the default recipe, and with every net tuned."""
    name = f"{one.family.capitalize()} nets"
    failed = [group.label for group in (*one.default, *one.own) if not group.n]
    if len(one.default) < 2:
        return f"{name}: one depth, so there is nothing to compare ({one.default[0].label})."
    if failed:
        return f"{name}: no run of {', '.join(failed)} was completed, so nothing can be said."
    ends = [(groups[0], groups[-1]) for groups in (one.default, one.own)]
    default, own = (verdicts.compare(*pair, "train").difference for pair in ends)
    tuned_rise, shallow, deep = _rise(own), *ends[0]
    text = (
        f"{name}: from depth {shallow.depth} to {deep.depth} the final training error "
        f"{_rise(default)} by the default recipe ({phrases.interval(default)}) and {tuned_rise} "
        f"with each net tuned ({phrases.interval(own)})"
    )
    gap = difference_of_rises(one)
    if not gap.n or not math.isfinite(gap.low):
        return f"{text}."
    more = gap.mean < 0
    low, high = (-gap.high, -gap.low) if more else (gap.low, gap.high)
    chance = "" if gap.low > 0 or gap.high < 0 else ", which may be chance"
    return (
        f"{text}: {abs(gap.mean):.2f} points {'more' if more else 'less'} with tuning (95 % "
        f"interval of the difference {low:.2f} to {high:.2f}, {gap.n} seeds){chance}."
    )


def _rise(change: intervals.Difference) -> str:
    return f"{'rises' if change.mean > 0 else 'falls'} by {abs(change.mean):.2f} points"


def difference_of_rises(one: Series) -> intervals.Mean:
    """By how many points less the error rises with every net tuned, over the seeds of all four.

    Args:
        one: a family's nets.
    """
    ends = [one.default[0], one.default[-1], one.own[0], one.own[-1]]
    finals = [group.final("train") for group in ends]
    shared = sorted(set.intersection(*(set(final) for final in finals)))
    a, b, c, d = finals
    return intervals.mean([(b[seed] - a[seed]) - (d[seed] - c[seed]) for seed in shared])


def table(sweep: Sweep, nets: Sequence[Net], found: Sequence[Series]) -> Table:
    """Every net by both recipes: values, val's error in the search, errors over seeds.

    Args:
        sweep: for where its numbers come from.
        nets: as `read`.
        found: as `series`.
    """
    fields = list(nets[0].parameters)
    columns = (
        *("label", "recipe", *map(name_of, fields), "val error %, one trial", "n", "diverged"),
        *("training error % (95 %)", "test error % (95 %)"),
    )
    by_label = {net.label: net for net in nets}
    rows = []
    for one in found:
        for default, own in zip(one.default, one.own, strict=True):
            net = by_label[default.label]
            both = (
                (default, "default", net.default_parameters, net.default_val_error),
                (own, "its own", net.parameters, net.val_error),
            )
            for group, recipe, values, error in both:
                rows.append(
                    (
                        *(group.label, recipe),
                        *(short(values.get(field, NOTHING)) for field in fields),
                        NOTHING if error is None else number(error),
                        *(str(group.n), str(group.n_diverged)),
                        *(_with_interval(group.mean(split)) for split in ("train", "test")),
                    )
                )
    return Table(
        *("tuned", "Every net by the default recipe and by its own", columns, tuple(rows)),
        numeric=frozenset(range(2, len(columns))),
        facts=tables.facts(sweep),
        notes=(
            "Recipes were chosen by the error on val of one trial each, which is lower than the "
            "same recipe's with other seeds; training and test errors are of other seeds.",
        ),
    )


def _with_interval(mean: intervals.Mean) -> str:
    if not mean.n:
        return NOTHING
    if not math.isfinite(mean.low):
        return number(mean.mean)
    return f"{mean.mean:.2f} ({max(mean.low, 0):.2f} to {min(mean.high, 100):.2f})"
