"""The figure of loss landscapes: what `resnet_jax.analysis.landscape` found in runs."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax.report import style
from resnet_jax.report.analyses import Found, legend, named, note

FILE = "landscape.json"
BATCH_NORM = {"running": "running statistics", "batch": "the batch's statistics"}
COLUMNS = 3
# Colours end here: a net that guesses loses 2.3 nats on ten classes, and shades are few.
LOWEST, HIGHEST = 1e-4, 1e3


def draw(found: Found) -> Figure:
    """Loss on a line and a plane of random directions (Li et al. 2018, Fig. 5), and eigenvalues.

    All nets share axes, levels and colours.

    Args:
        found: as `analyses.read` gives it.
    """
    planes = [(run, report) for run, report in found if "plane" in report]
    columns = min(COLUMNS, max(len(planes), 1))
    rows = -(-len(planes) // columns)
    figure = Figure(figsize=(11.5, 3.8 + 3.8 * rows), layout="constrained")
    heights = [3.0, 3.8 * rows][: 1 + bool(rows)]
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top = grid[0].subgridspec(1, 4)
    loss, error, eigenvalues, curvatures = (figure.add_subplot(top[0, i]) for i in range(4))
    handles = []
    for place, ((run, report), colour) in enumerate(zip(found, style.COLOURS, strict=False)):
        marker, dashes = ("o", "-") if run.family == "residual" else ("s", "--")
        look: dict[str, Any] = {"color": colour, "linewidth": 1.4, "linestyle": dashes}
        for axes, kind in ((loss, "loss"), (error, "error")):
            axes.plot(report["line"]["at"], _numbers(report["line"][kind]), **look)
        if "sharpness" in report:
            dots: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5}
            _eigenvalues(eigenvalues, report["sharpness"], dots)
            values = _numbers(report["sharpness"]["curvatures"])
            beside = place + np.linspace(-0.25, 0.25, len(values))
            curvatures.plot(beside, values, linewidth=0, **dots)
        label = f"{named(run)}: loss {_short(report['loss'])}"
        handles.append(Line2D([], [], label=label, marker=marker, **look))
    _label_lines(loss, error, max(report["line"]["at"][-1] for _, report in found))
    _label_curvature(eigenvalues, curvatures, [report for _, report in found])
    if rows:
        _planes(figure, grid[1].subgridspec(rows, columns), planes)
    legend(figure, handles, _told([report for _, report in found]))
    return figure


def levels(found: Found) -> np.ndarray:
    """Where the contours of all planes lie: two a decade, around all losses that have a place."""
    losses = np.concatenate([_numbers(report["plane"]["loss"]).ravel() for _, report in found])
    shown = np.clip(losses[np.isfinite(losses)], LOWEST, HIGHEST)
    low, high = (math.log10(end) for end in (shown.min(), shown.max()))
    ends = math.floor(2 * low), max(math.ceil(2 * high), math.floor(2 * low) + 2)
    return np.asarray(10.0 ** (np.arange(ends[0], ends[1] + 1) / 2))


def _planes(figure: Figure, grid: Any, found: Found) -> None:
    if not any(np.isfinite(_numbers(report["plane"]["loss"])).any() for _, report in found):
        return
    steps, drawn = levels(found), []
    reach = max(report["plane"]["at"][-1] for _, report in found)
    norm = BoundaryNorm(steps, 256)
    for i, (run, report) in enumerate(found):
        axes = figure.add_subplot(grid[i // grid.ncols, i % grid.ncols])
        drawn.append(axes)
        at, losses = report["plane"]["at"], _numbers(report["plane"]["loss"])
        # What is no number is left out, and the hatched ground is seen.
        axes.patch.set(hatch="///", facecolor="0.9", edgecolor="0.6")
        # Interpolated in the logarithm: between 0.001 and 1000 a straight line shows 1000 alone.
        values = np.ma.masked_invalid(np.log10(np.clip(losses, steps[0], steps[-1])))
        logs = np.log10(steps)
        axes.contourf(at, at, values, logs, cmap="cividis", norm=BoundaryNorm(logs, 256))
        axes.contour(at, at, values, logs, colors="white", linewidths=0.4, linestyles="solid")
        axes.plot(0, 0, "+", color="white", markersize=7)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.set_xlabel("first direction", fontsize=9)
        axes.set_ylabel("second direction" if i % grid.ncols == 0 else "", fontsize=9)
        axes.set_title(named(run), fontsize=10)
    bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=drawn, ticks=steps[_decades(steps)])
    bar.ax.set_yticklabels([f"{step:g}" for step in steps[_decades(steps)]])
    bar.set_label("training loss (nats; ends: and beyond)", fontsize=9)


def _decades(steps: np.ndarray) -> np.ndarray:
    exponents = np.log10(steps)
    return np.asarray(np.isclose(exponents, np.round(exponents)))


def _eigenvalues(axes: Axes, found: dict[str, Any], look: dict[str, Any]) -> None:
    values = [row["value"] for row in found["eigenvalues"]]
    axes.plot(range(1, len(values) + 1), values, linewidth=1, **look)
    if found["lowest"]:
        low = found["lowest"]["value"]
        axes.plot(len(values) + 1, low, markerfacecolor="none", linewidth=0, **look)


def _label_lines(loss: Axes, error: Axes, reach: float) -> None:
    for axes, title in ((loss, "training loss (nats)"), (error, "training error (%)")):
        style.clean(axes, ylabel="")
        axes.set_xlim(-reach, reach)
        axes.set_xlabel("along the first direction", fontsize=9)
        axes.set_title(title, fontsize=10)
    loss.set_yscale("log")
    error.set_ylim(0, 100)


def _label_curvature(eigenvalues: Axes, curvatures: Axes, reports: list[dict[str, Any]]) -> None:
    for axes, title, label in (
        (eigenvalues, "eigenvalues of the Hessian", "largest first; hollow: the lowest"),
        (curvatures, "curvature along directions", "filter-normalised, at random"),
    ):
        style.clean(axes, ylabel="")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label, fontsize=9)
        _scale(axes)
    known = [len(r["sharpness"]["eigenvalues"]) for r in reports if "sharpness" in r]
    eigenvalues.set_xticks(range(1, max(known, default=0) + 1))
    curvatures.set_xticks([])
    curvatures.set_xlim(-0.5, len(reports) - 0.5)


def _scale(axes: Axes) -> None:
    """A logarithmic axis; if not all values are above 0, with a linear part about 0."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    values = np.concatenate([*drawn, np.zeros(0)])
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if not len(sizes):
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color="0.4")
        axes.tick_params(labelleft=False, labelbottom=False)
        return
    # Of a value far below the others no more is to be seen than that it is small.
    smallest = max(float(sizes.min()), 1e-3 * float(sizes.max()))
    low, high = math.floor(math.log10(smallest)), math.ceil(math.log10(sizes.max()))
    ends = [10.0**low, 10.0 ** max(high, low + 1)]
    if np.nanmin(values) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=ends[0])
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        lowest = -np.nanmin(values) / ends[0]
        ends[0] *= -(10.0 ** math.ceil(math.log10(max(lowest, 1.0))))
    axes.set_ylim(*ends)


def _told(reports: list[dict[str, Any]]) -> str:
    """Where the numbers come from, and by which statistics the nets normalised."""
    named = [{**r, "norm": BATCH_NORM.get(r["batch_norm"], r["batch_norm"])} for r in reports]
    return note(
        named,
        "BN: {norm}",
        "{examples:,} {split} images, not augmented",
        "step {step:,}",
        "directions of seed {directions[seed]}; 1 is as long as the weights",
    )


def _numbers(values: Any) -> np.ndarray:
    """JSON has no NaN."""
    return np.array(values, dtype=object).astype(float)


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
