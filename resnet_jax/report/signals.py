"""The figure of signals and gradients: what `resnet_jax.analysis.signals` found in runs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax.report import style
from resnet_jax.report.analyses import Found, note

FILE = "signals.json"

Row = dict[str, float]
# Title, what is drawn of a layer, whether the axis is logarithmic, whether layers are sorted.
PANELS: tuple[tuple[str, str, Callable[[Row], float], bool, bool], ...] = (
    ("response of BN", "standard deviation", lambda r: r["response"], False, False),
    ("the same, sorted", "standard deviation", lambda r: r["response"], False, True),
    ("gradient of the weights", "norm", lambda r: r["gradient"], True, False),
    (
        "gradient at BN's output",
        "root mean square",
        lambda r: r["activation_gradient"],
        True,
        False,
    ),
    (
        "one update",
        "norm over that of the weights",
        lambda r: r["update"] / r["weight"],
        True,
        False,
    ),
    ("dead behind ReLU", "units (%)", lambda r: 100 * _or_nan(r["dead"]), False, False),
)


def draw(found: Found) -> Figure:
    """Responses (He et al. 2015, Fig. 7) and gradients of each layer, from the stem on.

    Args:
        found: as `analyses.read` gives it.
    """
    figure = Figure(figsize=(10.5, 7.0), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    handles = []
    for (run, report), colour in zip(found, style.COLOURS, strict=False):
        for moment, look in zip(report["moments"], _looks(report), strict=True):
            how = {"color": colour, **look}
            for axes, (_, _, value, logarithmic, is_sorted) in zip(panels, PANELS, strict=True):
                _curve(axes, [value(row) for row in moment["layers"]], logarithmic, is_sorted, how)
            label = f"{run.net}, seed {run.seed}, step {moment['step']:,}"
            handles.append(Line2D([], [], label=style.plain_text(label), **how))
    for axes, (title, unit, _, _, is_sorted) in zip(panels, PANELS, strict=True):
        style.clean(axes, ylabel=unit)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("layers, largest first" if is_sorted else "layer, from the stem on")
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        title=note([report for _, report in found], "{examples:,} {split} images at once"),
        title_fontsize=7,
    )
    return figure


def _looks(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Before the first step thin and dashed, later solid."""
    return [
        {"linestyle": "--", "linewidth": 0.9} if moment["step"] == 0 else {"linewidth": 1.6}
        for moment in report["moments"]
    ]


def _curve(
    axes: Axes, values: list[float], logarithmic: bool, is_sorted: bool, how: dict[str, Any]
) -> None:
    drawn = np.array(sorted(values, reverse=True) if is_sorted else values, float)
    shown = np.isfinite(drawn)
    if logarithmic:
        axes.set_yscale("log")
        shown &= drawn > 0  # zero has no place on such an axis
    axes.plot(1 + np.flatnonzero(shown), drawn[shown], **how)


def _or_nan(value: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if value is None else value
