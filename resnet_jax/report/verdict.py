"""Does the plain nets' training error rise with depth, and the residual nets' not?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from resnet_jax.report import acceptance, groups, intervals, phrases
from resnet_jax.report.acceptance import Acceptance
from resnet_jax.report.groups import Group
from resnet_jax.report.intervals import Difference
from resnet_jax.report.sweep import Sweep

# Percentage points by which the mean training error must rise before it is called degradation.
MARGIN = 2.0
OBSERVED, UNDECIDED, NOT_OBSERVED = "observed", "undecided", "not observed"
NOT_ASKED = "not asked"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two groups' final errors, b against a.

    Attributes:
        split: 'train' or 'test'.
        a: label.
        b: label.
        a_mean: mean final error of a, in percent; NaN if no run of it completed.
        b_mean: of b.
        difference: b minus a, in percentage points.
    """

    split: str
    a: str
    b: str
    a_mean: float
    b_mean: float
    difference: Difference


@dataclasses.dataclass(frozen=True)
class FamilyVerdict:
    """What one family of nets under one recipe says.

    Attributes:
        family: 'plain' or 'residual'.
        recipe: what sets these runs apart from others of the family, e.g. another learning rate;
            "" if there are no others.
        labels: by depth.
        successive: training error of each depth against the one before.
        overall: of the deepest that trained against the shallowest; None with one depth.
        diverged: names of diverged runs.
        failed: labels of which every seed diverged.
        degradation: 'observed', 'undecided', 'not observed', or 'not asked' (nothing to compare).
        basis: 'interval', 'difference alone' (one seed), 'divergence', or ''.
        text: all of it in words.
    """

    family: str
    recipe: str
    labels: tuple[str, ...]
    successive: tuple[Comparison, ...]
    overall: Comparison | None
    diverged: tuple[str, ...]
    failed: tuple[str, ...]
    degradation: str
    basis: str
    text: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer, as data and in words.

    Attributes:
        question: what was asked.
        margin: of degradation, in percentage points.
        families: one for each family and recipe.
        residual_minus_plain: test error at the same depth.
        acceptance: the bands around the published values, if these runs may be held against them.
        commit: of the runs.
        dataset: its name and fingerprint.
        hardware: that the runs used.
        left_out: names of excluded and unfinished runs.
        text: one paragraph.
    """

    question: str
    margin: float
    families: tuple[FamilyVerdict, ...]
    residual_minus_plain: tuple[Comparison, ...]
    acceptance: Acceptance
    commit: str | None
    dataset: dict[str, Any]
    hardware: tuple[str, ...]
    left_out: tuple[str, ...]
    text: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not there are NaN."""
        return dataclasses.asdict(self)


def judge(sweep: Sweep) -> Verdict:
    """Answers the question from a sweep's groups.

    Degradation is `observed` in a family if the deepest net's final training error lies above the
    shallowest's with the whole 95 % interval and by more than `MARGIN` on average, or if every
    seed of a net deeper than the shallowest diverged. Where it rises by more than `MARGIN` on
    average and the interval contains 0, that is `undecided`: too few seeds to tell it from chance.
    """
    families = tuple(
        _judge_family(members, recipe) for members, recipe in _series(sweep.groups) if members
    )
    pairs = _same_depth(sweep.groups)
    accepted = acceptance.accept(sweep)
    return Verdict(
        question="Does the training error of plain nets rise with depth, and that of residual "
        "nets not?",
        margin=MARGIN,
        families=families,
        residual_minus_plain=pairs,
        acceptance=accepted,
        commit=sweep.commit,
        dataset=dict(sweep.dataset),
        hardware=sweep.hardware,
        left_out=tuple(
            sorted([item.name for item in sweep.excluded] + [run.name for run in sweep.unfinished])
        ),
        text=_paragraph(sweep, families, pairs, accepted),
    )


def compare(a: Group, b: Group, split: groups.Split) -> Comparison:
    """Final errors of two groups, paired by seed where seeds are shared."""
    before, after = a.final(split), b.final(split)
    return Comparison(
        split=split,
        a=a.label,
        b=b.label,
        a_mean=intervals.mean(list(before.values())).mean,
        b_mean=intervals.mean(list(after.values())).mean,
        difference=intervals.difference(before, after),
    )


def _series(all_groups: Sequence[Group]) -> list[tuple[list[Group], str]]:
    """Groups of one family and one recipe, by depth, and what sets each series apart."""
    series: dict[tuple[str, str], list[Group]] = {}
    for group in all_groups:
        key = str(sorted(groups.recipe(group.config).items()))
        series.setdefault((group.family, key), []).append(group)
    result = []
    for (family, _), members in series.items():
        recipes = [
            groups.recipe(others[0].config)
            for (other, _), others in series.items()
            if other == family
        ]
        mine = groups.recipe(members[0].config)
        apart = {k for r in recipes for k in mine.keys() | r.keys() if mine.get(k) != r.get(k)}
        names = {k: k.split(".")[-1].replace("_", " ") for k in sorted(apart)}
        words = ", ".join(f"{name} {mine.get(k, 'absent')}" for k, name in names.items())
        result.append((sorted(members, key=lambda g: g.depth), words))
    return result


def _judge_family(members: list[Group], recipe: str) -> FamilyVerdict:
    trained = [group for group in members if group.final("train")]
    failed = tuple(g.label for g in members if g.n == 0 and g.n_diverged)
    successive = tuple(compare(a, b, "train") for a, b in zip(trained, trained[1:], strict=False))
    overall = compare(trained[0], trained[-1], "train") if len(trained) > 1 else None
    shallowest_trained = bool(members[0].final("train"))
    degradation, basis = NOT_ASKED, ""
    if overall:
        degradation, basis = _degradation(overall.difference)
    if shallowest_trained and failed and degradation != OBSERVED:
        degradation, basis = OBSERVED, "divergence"
    return FamilyVerdict(
        family=members[0].family,
        recipe=recipe,
        labels=tuple(group.label for group in members),
        successive=successive,
        overall=overall,
        diverged=tuple(run.name for group in members for run in group.diverged),
        failed=failed,
        degradation=degradation,
        basis=basis,
        text=phrases.family(members, recipe, overall, failed, degradation, basis, MARGIN),
    )


def _degradation(rise: Difference) -> tuple[str, str]:
    basis = "interval" if rise.has_interval else "difference alone"
    if not rise.mean > MARGIN:
        return NOT_OBSERVED, basis
    return (UNDECIDED if rise.has_interval and not rise.low > 0 else OBSERVED), basis


def _same_depth(all_groups: Sequence[Group]) -> tuple[Comparison, ...]:
    """Residual minus plain test error, where all but the net's structure is the same."""
    pairs = []
    for residual in all_groups:
        for plain in all_groups:
            if (residual.family, plain.family) != ("residual", "plain"):
                continue
            same = _outside_the_net(residual) == _outside_the_net(plain)
            if same and residual.depth == plain.depth:
                pair = compare(plain, residual, "test")
                if pair.difference.mean == pair.difference.mean:
                    pairs.append(pair)
    return tuple(pairs)


def _outside_the_net(group: Group) -> dict[str, Any]:
    recipe = groups.recipe(group.config)
    return {k: v for k, v in recipe.items() if not k.startswith("model.") or k == "model.width"}


def _paragraph(
    sweep: Sweep,
    families: Sequence[FamilyVerdict],
    pairs: Sequence[Comparison],
    accepted: Acceptance,
) -> str:
    parts = [family.text for family in families]
    if not parts:
        parts.append("No run has been completed yet, so there is nothing to judge.")
    parts += [phrases.residual_minus_plain(pairs)] if pairs else []
    parts.append(accepted.text)
    parts.append(phrases.left_out(sweep))
    return " ".join(part for part in parts if part)
