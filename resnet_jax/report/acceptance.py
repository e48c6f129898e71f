"""Bands around the published values, for full-length runs on the original files only."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.report import records
from resnet_jax.report.groups import Group, Split
from resnet_jax.report.published import selects_images
from resnet_jax.report.sweep import Sweep

STEPS, SEEDS = 64_000, 3
# (family, depth): test error in percent between which a mean of at least three seeds should lie.
# This project's proposal, from He et al. 2015, Table 6, and independent replications.
BANDS = {
    ("residual", 20): (7.9, 9.1),
    ("residual", 32): (7.0, 8.0),
    ("residual", 44): (6.6, 7.6),
    ("residual", 56): (6.4, 7.5),
    ("residual", 110): (6.1, 7.0),
    ("plain", 20): (9.0, 10.2),
    ("plain", 56): (12.0, 15.5),
}
# plain-56 minus ResNet-56, test error in percentage points.
LEAST_GAP_AT_56 = 4.0
# The nets that the bands are for.
NET = {
    "model.family": "cifar_resnet",
    "model.activation_order": "original",
    "model.block": "basic",
    "model.width": 1.0,
    "data.resampling": "none",
    "train.class_weights": "none",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One expectation and what was measured.

    Attributes:
        what: the expectation, in words.
        measured: in words.
        passed: whether it is met.
    """

    what: str
    measured: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """The checks, or why there are none.

    Attributes:
        applies: whether these runs may be held against the published values.
        reasons: why not.
        checks: empty if they do not apply.
        text: all of it in words.
    """

    applies: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    text: str


def accept(sweep: Sweep) -> Acceptance:
    """Holds a sweep's means against the bands, if it is full-length and on the original files."""
    if not sweep.groups:
        return Acceptance(False, ("there are no finished runs",), (), "")
    reasons = _reasons(sweep)
    if reasons:
        text = (
            "These runs are compared with one another only, not with the published values, for "
            f"{'; '.join(reasons)}."
        )
        return Acceptance(False, tuple(reasons), (), text)
    checks = tuple(_checks(sweep))
    met = sum(check.passed for check in checks)
    missed = "; ".join(f"{c.what}: {c.measured}" for c in checks if not c.passed)
    text = f"Of {len(checks)} expectations around the published values, {met} are met"
    return Acceptance(True, (), checks, text + (f"; not met: {missed}." if missed else "."))


def _reasons(sweep: Sweep) -> list[str]:
    reasons = []
    lengths = sorted({int(group.config["train"]["steps"]) for group in sweep.groups})
    if lengths != [STEPS]:
        reasons.append(
            f"they have {' and '.join(f'{steps:,}' for steps in lengths)} steps, not {STEPS:,}"
        )
    if sweep.dataset.get("name") != "cifar10":
        reasons.append(f"they are on {sweep.dataset.get('name')}, not on CIFAR-10")
    elif sweep.dataset.get("original") is not True:
        known = sweep.dataset.get("original") is False
        reasons.append(
            "they are on a copy of CIFAR-10, not on the original files"
            if known
            else "it is not recorded whether they are on the original CIFAR-10 files"
        )
    if not any(_counts(group) for group in sweep.groups):
        most = max(group.n for group in sweep.groups)
        if most < SEEDS:
            reasons.append(f"n is {most}, below {SEEDS}")
        elif not reasons:
            reasons.append("none of these nets has a band")
    return reasons


def _counts(group: Group) -> bool:
    return (
        group.n >= SEEDS
        and not selects_images(group.config)
        and (group.family, group.depth) in {*BANDS, ("plain", 32), ("plain", 44), ("plain", 110)}
        and all(records.field(group.config, key, value) == value for key, value in NET.items())
    )


def _checks(sweep: Sweep) -> list[Check]:
    counted = {(g.family, g.depth): g for g in sweep.groups if _counts(g)}
    checks = []
    for key, (low, high) in BANDS.items():
        if key in counted:
            mean = counted[key].mean("test")
            what = f"{counted[key].label} test error {low} to {high} %"
            found = f"{mean.mean:.2f} % (n = {mean.n})"
            checks.append(Check(what, found, low <= mean.mean <= high))
    checks += _ordered(counted, "plain", "train", (20, 32, 44, 56), lambda a, b: a < b, "rises")
    checks += _ordered(
        counted, "residual", "test", (20, 32, 44, 56, 110), lambda a, b: a >= b, "does not rise"
    )
    plain, residual = counted.get(("plain", 56)), counted.get(("residual", 56))
    if plain and residual:
        gap = plain.mean("test").mean - residual.mean("test").mean
        what = f"plain-56 at least {LEAST_GAP_AT_56:g} points above ResNet-56 in test error"
        checks.append(Check(what, f"{gap:.2f} points", gap >= LEAST_GAP_AT_56))
    return checks


def _ordered(
    counted: Mapping[Any, Group],
    family: str,
    split: Split,
    depths: tuple[int, ...],
    in_order: Callable[[float, float], bool],
    verb: str,
) -> list[Check]:
    there = [counted[family, depth] for depth in depths if (family, depth) in counted]
    if len(there) < 2:
        return []
    means = [group.mean(split).mean for group in there]
    passed = all(in_order(a, b) for a, b in itertools.pairwise(means))
    kind = "training" if split == "train" else split
    what = f"{kind} error {verb} from {there[0].label} to {there[-1].label}"
    return [Check(what, ", ".join(f"{mean:.2f} %" for mean in means), passed)]
