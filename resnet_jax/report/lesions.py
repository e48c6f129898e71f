"""The lesion study's figure: what `resnet_jax.analysis.lesion` found in the runs of a sweep."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax.report import style
from resnet_jax.report.analyses import Found, named, note

FILE = "lesion.json"


def draw(found: Found) -> Figure:
    """Errors of nets with blocks taken out or reordered (Veit et al. 2016, Fig. 3 and 5).

    Args:
        found: as `analyses.read` gives it.
    """
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    handles = []
    for (run, report), colour in zip(found, style.COLOURS, strict=False):
        marker = "o" if run.family == "residual" else "s"
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 3.5,
            "linewidth": 1.3,
        }
        _single(panels[0], report, look)
        _several(panels[1], report, look)
        _truncated(panels[2], report, look)
        _reordered(panels[3], report, look)
        _paths(panels[4], report, look)
        label = f"{named(run)}: {report['error']:.1f} % intact"
        handles.append(Line2D([], [], label=label, **look))
    for axes in panels[:4]:
        style.clean(axes)
        axes.set_ylim(0, 100)
    panels[3].invert_xaxis()  # what is done to the net grows to the right, as in the first two
    panels[2].invert_xaxis()
    _notes(panels[5], found, handles)
    return figure


def _single(axes: Axes, report: dict[str, Any], look: dict[str, Any]) -> None:
    rows = report["single"]
    axes.plot(range(1, len(rows) + 1), [row["error"] for row in rows], **look)
    for number, row in enumerate(rows, 1):
        if row["changes_shape"]:
            axes.axvline(number, color="0.75", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_title("one block taken out", fontsize=10)
    axes.set_xlabel("its position (dotted: it changes the shape)")


def _several(axes: Axes, report: dict[str, Any], look: dict[str, Any]) -> None:
    rows = report["several"]
    counts = [0, *(row["removed"] for row in rows)]
    errors = [[report["error"]], *(row["errors"] for row in rows)]
    axes.plot(counts, [np.mean(e) for e in errors], **look)
    low, high = [min(e) for e in errors], [max(e) for e in errors]
    axes.fill_between(counts, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_title("several, drawn at random", fontsize=10)
    axes.set_xlabel("blocks taken out (band: lowest to highest)")


def _truncated(axes: Axes, report: dict[str, Any], look: dict[str, Any]) -> None:
    rows = report["truncated"]
    axes.plot([r["blocks_per_stage"] for r in rows], [r["error"] for r in rows], **look)
    axes.set_title("the last ones of each stage", fontsize=10)
    axes.set_xlabel("blocks left in each stage")


def _reordered(axes: Axes, report: dict[str, Any], look: dict[str, Any]) -> None:
    rows = report["reordered"]
    axes.plot(
        [r["kendall_tau"] for r in rows],
        [r["error"] for r in rows],
        **(look | {"linewidth": 0}),
    )
    axes.set_title("blocks of a stage exchanged", fontsize=10)
    axes.set_xlabel("Kendall's tau of the order (1: as trained)")


def _paths(axes: Axes, report: dict[str, Any], look: dict[str, Any]) -> None:
    rows = report.get("paths", [])
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [100 * row["share_of_gradient"] for row in rows], **look)
    paths = np.array([row["share_of_paths"] for row in rows])
    if len(paths):
        # Of the lengths that were measured, so that both curves add up to 100 %.
        axes.plot(lengths, 100 * paths / paths.sum(), color=look["color"], linestyle="--", lw=1)
    axes.set_title("gradient through paths of one length", fontsize=10)
    axes.set_xlabel("blocks whose branch a path takes")
    style.clean(axes, ylabel="share (%; dashed: of the paths)")


def _notes(axes: Axes, found: Found, handles: list[Line2D]) -> None:
    axes.axis("off")
    axes.legend(handles=handles, loc="upper left", fontsize=8, frameon=False)
    told = note(
        [report for _, report in found],
        "error of {examples:,} {split} images",
        "step {step:,}",
        "random choices: {draws} each",
    )
    text = told.replace(" · ", "\n")
    axes.text(0.0, 0.02, text, fontsize=7, color="0.35", va="bottom", transform=axes.transAxes)
