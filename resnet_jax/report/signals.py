"""The figures of signals and gradients: what `resnet_jax.analysis.signals` found in runs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from resnet_jax.report import style
from resnet_jax.report.analyses import Found, legend, named, note
from resnet_jax.report.groups import label_of

FILE = "signals.json"

Row = dict[str, float]
# Title, unit, what is drawn of a layer, whether the axis is logarithmic (None: if that is needed),
# whether layers are sorted.
PANELS: tuple[tuple[str, str, Callable[[Row], float], bool | None, bool], ...] = (
    ("response of BN", "standard deviation", lambda r: r["response"], None, False),
    ("the same, sorted", "standard deviation", lambda r: r["response"], None, True),
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
    ("dead behind ReLU", "units (%)", lambda r: 100 * r["dead"], False, False),
)


# Moments of a run from which on it is a film and not two pictures.
FILM = 3
# What is drawn over layers and time: the panels' places.
FILMED = (0, 2, 4, 5)


def draw(found: Found) -> Figure:
    """Responses (He et al. 2015, Fig. 7) and gradients of each layer, from the stem on.

    Args:
        found: as `analyses.read` gives it; of each run the first and the last moment are drawn.
    """
    found = _with_nan(found)
    figure = Figure(figsize=(10.5, 7.0), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    handles = []
    shown = [moment for _, report in found for moment in _ends(report["moments"])]
    scales = [_is_logarithmic(value, wanted, shown) for _, _, value, wanted, _ in PANELS]
    for (run, report), colour in zip(found, style.COLOURS, strict=False):
        for moment in _ends(report["moments"]):
            how = {"color": colour, **_look(moment)}
            for axes, (_, _, value, _, is_sorted), logarithmic in zip(
                panels, PANELS, scales, strict=True
            ):
                _curve(axes, [value(row) for row in moment["layers"]], logarithmic, is_sorted, how)
            label = f"{named(run)}, step {moment['step']:,}"
            handles.append(Line2D([], [], label=label, **how))
    for axes, (title, unit, _, _, is_sorted) in zip(panels, PANELS, strict=True):
        style.clean(axes, ylabel=unit)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("layers, largest first" if is_sorted else "layer, from the stem on")
    told = note([report for _, report in found], "{examples:,} {split} images at once")
    legend(figure, handles, told)
    return figure


def draw_responses(found: Found) -> Figure:
    """Responses after the last step, in the layers' order and sorted (He et al. 2015, Fig. 7).

    Args:
        found: as `analyses.read` gives it; each net has the mean over its seeds, layer by layer.
    """
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    panels = figure.subplots(2, 1, sharey=True)
    nets = responses(found)
    palette = style.colours(run.depth for run, _ in found)
    handles = []
    for (label, plain, depth), rows in nets.items():
        mean = rows.mean(0)
        how: dict[str, Any] = {"color": palette[depth], "linestyle": "--" if plain else "-"}
        for axes, is_sorted in zip(panels, (False, True), strict=True):
            _curve(axes, list(mean), False, is_sorted, how)
        handles.append(Line2D([], [], label=f"{style.plain_text(label)} (n = {len(rows)})", **how))
    for axes, order in zip(
        panels, ("layer, from the stem on", "layers, largest first"), strict=True
    ):
        style.clean(axes, ylabel="standard deviation")
        axes.set_xlabel(order)
        axes.set_ylim(bottom=0)
    panels[0].set_title("response of each layer's BN, before addition and ReLU", fontsize=10)
    legend(figure, handles, note([report for _, report in found], "after the last step"))
    return figure


def responses(found: Found) -> dict[tuple[str, bool, int], np.ndarray]:
    """Standard deviations of layers' responses after the last step [seeds, layers].

    Args:
        found: as `analyses.read` gives it.

    Returns:
        By label, whether the net is plain, and depth.
    """
    nets: dict[tuple[str, bool, int], list[list[float]]] = {}
    for run, report in _with_nan(found):
        last = [row["response"] for row in report["moments"][-1]["layers"]]
        nets.setdefault((label_of(run), run.family == "plain", run.depth), []).append(last)
    return {net: np.array(rows) for net, rows in nets.items()}


def draw_over_time(found: Found) -> Figure | None:
    """The same numbers over layer and training step, a row of heat maps for each run.

    Args:
        found: as `analyses.read` gives it.

    Returns:
        None if no run was looked at more than twice.
    """
    films = _with_nan([(run, report) for run, report in found if len(report["moments"]) >= FILM])
    if not films:
        return None
    figure = Figure(figsize=(10.5, 1.2 + 2.2 * len(films)), layout="constrained")
    grid = figure.subplots(len(films), len(FILMED), squeeze=False, sharex="row", sharey="row")
    for column, place in zip(grid.T, FILMED, strict=True):
        title, unit, value, wanted, _ = PANELS[place]
        moments = [moment for _, report in films for moment in report["moments"]]
        logarithmic = _is_logarithmic(value, wanted, moments)
        tables = [
            np.array([[value(row) for row in moment["layers"]] for moment in report["moments"]]).T
            for _, report in films
        ]
        scale = _scale(tables, logarithmic)
        image: Any = None
        for axes, (_, report), table in zip(column, films, tables, strict=True):
            steps = np.array([moment["step"] for moment in report["moments"]])
            layers = np.arange(1, len(table) + 1)
            image = axes.pcolormesh(
                steps, layers, table, norm=scale, cmap="cividis", shading="nearest", rasterized=True
            )
            axes.set_facecolor("0.85")  # where nothing was noted
        column[0].set_title(title, fontsize=10)
        column[-1].set_xlabel("training step")
        bar = figure.colorbar(image, ax=list(column), location="bottom", label=unit, aspect=25)
        bar.ax.xaxis.set_minor_formatter(NullFormatter())  # within one decade they overlap
    for (run, _), axes in zip(films, grid[:, 0], strict=True):
        axes.set_ylabel(f"{named(run)}\nlayer, from the stem", fontsize=9)
    reports = [report for _, report in films]
    facts = note(reports, "{examples:,} {split} images at once", "grey: ReLU does not follow BN")
    figure.supxlabel(facts, x=0.01, ha="left", fontsize=6.5, color="0.35")
    return figure


def _is_logarithmic(
    value: Callable[[Row], float], wanted: bool | None, moments: list[dict[str, Any]]
) -> bool:
    """As wanted; if that is open, where values are two decades apart."""
    if wanted is not None:
        return wanted
    values = [value(row) for moment in moments for row in moment["layers"]]
    known = [number for number in values if math.isfinite(number) and number > 0]
    return bool(known) and max(known) > 100 * min(known)


def _scale(tables: list[np.ndarray], logarithmic: bool) -> Normalize:
    """One for all runs, over what can be drawn."""
    values = np.concatenate([table.ravel() for table in tables])
    values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 1.0)
    return (LogNorm if logarithmic else Normalize)(low, high)


def _ends(moments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return moments if len(moments) < FILM else [moments[0], moments[-1]]


def _look(moment: dict[str, Any]) -> dict[str, Any]:
    """Before the first step thin and dashed, later solid."""
    return {"linestyle": "--", "linewidth": 0.9} if moment["step"] == 0 else {"linewidth": 1.6}


def _curve(
    axes: Axes, values: list[float], logarithmic: bool, is_sorted: bool, how: dict[str, Any]
) -> None:
    drawn = np.array(sorted(values, reverse=True) if is_sorted else values, float)
    shown = np.isfinite(drawn)
    if logarithmic:
        axes.set_yscale("log")
        shown &= drawn > 0  # zero has no place on such an axis
    axes.plot(1 + np.flatnonzero(shown), drawn[shown], **how)


def _with_nan(found: Found) -> Found:
    """JSON has no NaN: what was not noted, or was not finite, is null there."""
    return [
        (
            run,
            report
            | {
                "moments": [
                    moment
                    | {
                        "layers": [
                            {k: math.nan if v is None else v for k, v in row.items()}
                            for row in moment["layers"]
                        ]
                    }
                    for moment in report["moments"]
                ]
            },
        )
        for run, report in found
    ]
