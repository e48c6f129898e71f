"""The verdict's sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_jax.report import intervals
from resnet_jax.report.groups import Group, warm_up
from resnet_jax.report.intervals import Difference
from resnet_jax.report.sweep import Sweep

if TYPE_CHECKING:
    from resnet_jax.report.verdict import Comparison


def family(
    members: Sequence[Group],
    recipe: str,
    overall: Comparison | None,
    failed: Sequence[str],
    degradation: str,
    basis: str,
    margin: float,
) -> str:
    """What one family says.

    Args:
        members: its groups, by depth.
        recipe: what sets the family's runs apart; "" if nothing needs to be said.
        overall: deepest against shallowest, or None.
        failed: labels of which every seed diverged.
        degradation: the outcome.
        basis: of the outcome.
        margin: in percentage points.
    """
    name = f"{members[0].family.capitalize()} nets" + (f" ({recipe})" if recipe else "")
    sentences = []
    if overall is None and degradation != "observed":
        labels = ", ".join(group.label for group in members)
        trained = [group for group in members if group.n]
        why = "one depth" if len(trained) == 1 else "no depth trained to the end"
        sentences.append(f"{name}: not asked, for there is {why} to look at ({labels}).")
    else:
        suffix = {
            "difference alone": " in the difference alone (one seed: no interval)",
            "divergence": " as failure to train",
        }.get(basis, "")
        sentences.append(f"{name}: degradation {degradation}{suffix}.")
    if overall is not None:
        sentences.append(_rise(members, overall))
        sentences.append(_judgement(overall.difference, degradation, basis, margin))
    sentences += _divergence(members, failed)
    warm_ups: dict[str, list[str]] = {}
    for group in members:
        warm_ups.setdefault(warm_up(group.config), []).append(group.label)
    if len(warm_ups) > 1:
        words = "; ".join(f"{how}: {', '.join(labels)}" for how, labels in warm_ups.items())
        sentences.append(f"The recipes differ in their warm-up ({words}).")
    return " ".join(sentence for sentence in sentences if sentence)


def residual_minus_plain(pairs: Sequence[Comparison]) -> str:
    """Test errors at equal depth."""
    texts = [
        f"{pair.b} against {pair.a} {pair.difference.mean:+.2f} points "
        f"({interval(pair.difference)})"
        for pair in pairs
    ]
    return f"Test error, residual minus plain: {'; '.join(texts)}."


def left_out(sweep: Sweep) -> str:
    """How many folders do not count, and which."""
    sentences = []
    if sweep.excluded:
        names = ", ".join(item.name for item in sweep.excluded)
        sentences.append(f"Excluded, with reasons in the report: {names}.")
    if sweep.unfinished:
        names = ", ".join(f"{run.name} ({run.state})" for run in sweep.unfinished)
        sentences.append(f"Not finished, so not counted: {names}.")
    return " ".join(sentences)


def interval(difference: Difference) -> str:
    """The interval of a difference, with how it came about."""
    if not difference.has_interval:
        one = max(difference.n) < 2
        return "one seed: no interval" if one else "too few seeds on one side: no interval"
    a, b = difference.n
    how = f"paired over {a} seeds" if difference.method == "paired" else f"Welch, {a} and {b} seeds"
    text = f"95 % interval {difference.low:.2f} to {difference.high:.2f}, {how}"
    if difference.left_out:
        text += f", without the unpaired seeds {', '.join(map(str, difference.left_out))}"
    if difference.sd == 0:
        text += "; the seeds do not differ at all, so the interval says nothing of chance"
    return text


def _rise(members: Sequence[Group], overall: Comparison) -> str:
    by_label = {group.label: group for group in members}
    a, b, rise = by_label[overall.a], by_label[overall.b], overall.difference
    verb = "rises" if rise.mean > 0 else "falls"
    return (
        f"From {a.label} to {b.label} the final training error {verb} by {abs(rise.mean):.2f} "
        f"points, from {overall.a_mean:.2f} % (n = {a.n}) to {overall.b_mean:.2f} % (n = {b.n}); "
        f"difference {rise.mean:+.2f}, {interval(rise)}."
    )


def _judgement(rise: Difference, degradation: str, basis: str, margin: float) -> str:
    points = f"{margin:g} points"
    if basis == "difference alone" or rise.sd == 0:  # no spread to judge chance by
        return "What other seeds would do is not known."
    if degradation == "observed" and basis == "interval":
        return f"The whole interval lies above 0, and the mean rise above the margin of {points}."
    if rise.high < margin:
        return f"The interval excludes a rise above the margin of {points}."
    if rise.mean > margin:
        found = f"The mean rise is above {points}, but the interval contains 0."
    else:
        found = f"With so few seeds a rise above {points} cannot be excluded."
        if rise.low > 0:
            found = f"The interval lies above 0, but the mean not above {points}. {found}"
    return f"{found} {_needed(rise, margin)}"


def _needed(rise: Difference, margin: float) -> str:
    paired = rise.method == "paired"
    told = f"(an estimate: 80 % power, taking the spread of {min(rise.n)} seeds for the true one)"
    if rise.mean > margin:
        needed, aim = rise.seeds_needed, "tell a rise of this size from none"
    else:
        needed = intervals.seeds_needed(margin - rise.mean, rise.sd, paired=paired)
        aim = f"exclude a rise above {margin:g} points"
    if needed is None:
        return f"More than {intervals.MOST_SEEDS:,} seeds would be needed to {aim} {told}."
    return f"About {needed} seeds would be needed to {aim} {told}."


def _divergence(members: Sequence[Group], failed: Sequence[str]) -> list[str]:
    sentences = []
    for group in members:
        names = ", ".join(run.name for run in group.diverged)
        if group.label in failed:
            sentences.append(f"All {group.n_diverged} seeds of {group.label} diverged ({names}).")
        elif group.n_diverged:
            sentences.append(
                f"{group.n_diverged} of {group.n + group.n_diverged} seeds of {group.label} "
                f"diverged ({names}); its mean is over the others."
            )
    return sentences
