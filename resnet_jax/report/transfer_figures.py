"""Figures on nets that have learned something new: measures over the input's size, ROC curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnet_jax.report import records, style
from resnet_jax.report.intervals import Mean
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.transfer import MEASURES, Entry

MOST_PANELS = 6


def measures(sweep: Sweep, entries: Sequence[Entry]) -> Figure:
    """Accuracy and ROC area over input size; at a single size, all measures and ROC curves.

    Args:
        sweep: for where its numbers come from.
        entries: `transfer.entries` of it, at least one.
    """
    sizes = sorted({entry.size for entry in entries if entry.size})
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    looks = _looks(entries)
    told = ["bars: 95 % interval over seeds; with one seed over images"]
    if len(sizes) > 1:
        panels = figure.subplots(1, 2)
        for axes, name in zip(panels, ("accuracy", "ROC area"), strict=True):
            for series, look in looks.items():
                own = [entry for entry in entries if entry.series == series and entry.size]
                found = [entry.measures[name] for entry in own]
                _bars(axes, [entry.size or 0 for entry in own], found, series, **look)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_xlabel("input size (pixels a side)")
            style.clean(axes, ylabel=f"{name}, test")
    else:
        curved = any(_curves(entry) for entry in entries)
        ratios = (1.7, 1) if curved else (1,)
        panels = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        axes = panels[0]
        for place, entry in enumerate(entries):
            shift = (place - (len(entries) - 1) / 2) * min(0.16, 0.7 / len(entries))
            places = np.arange(len(MEASURES)) + shift
            found = list(entry.measures.values())
            _bars(axes, places, found, entry.series, linestyle="none", **looks[entry.series])
        axes.set_xticks(range(len(MEASURES)), MEASURES)
        axes.set_xlim(-0.5, len(MEASURES) - 0.5)
        style.clean(axes, ylabel="share of the test images (area: 0 to 1)")
        if curved:
            _roc(panels[1], entries, looks)
            told.append("curves: one a seed; dotted: chance")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    style.footnote(figure, sweep, [entry.group for entry in entries], *told)
    return figure


def roc(sweep: Sweep, entries: Sequence[Entry]) -> Figure | None:
    """ROC curves of every label and seed, one panel an input size; None with fewer than two.

    Args:
        sweep: as in `measures`.
        entries: likewise.
    """
    entries = [entry for entry in entries if _curves(entry)]
    sizes = list(dict.fromkeys(entry.size for entry in entries))[:MOST_PANELS]
    if len(sizes) < 2:
        return None
    rows = -(-len(sizes) // 3)
    figure = Figure(figsize=(10.5, 3.5 * rows + 0.6), layout="constrained")
    looks = _looks(entries)
    panels = np.ravel(figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False))
    for axes, size in zip(panels, sizes, strict=False):
        _roc(axes, [entry for entry in entries if entry.size == size], looks)
        axes.set_title(f"{size} pixels", fontsize=10)
    for axes in panels[len(sizes) :]:
        axes.set_visible(False)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    told = "one curve a seed; dotted: chance"
    style.footnote(figure, sweep, [entry.group for entry in entries], told)
    return figure


def _roc(axes: Axes, entries: Sequence[Entry], looks: dict[str, dict[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    for entry in entries:
        for number, (x, y) in enumerate(_curves(entry)):
            label = style.plain_text(entry.series) if not number else None
            colour = looks[entry.series]["color"]
            axes.plot(x, y, color=colour, linewidth=1.1, alpha=0.8, label=label)
    axes.set_aspect("equal")
    axes.set_xlabel("false positive rate")
    style.clean(axes, ylabel="true positive rate")


def _looks(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each series."""
    return {
        series: {
            "color": style.COLOURS[i % len(style.COLOURS)],
            "marker": style.MARKERS[i % len(style.MARKERS)],
        }
        for i, series in enumerate(dict.fromkeys(entry.series for entry in entries))
    }


def _bars(
    axes: Axes,
    places: Sequence[float] | np.ndarray,
    found: Sequence[Mean],
    series: str,
    **how: Any,
) -> None:
    """Means with their intervals, as far as there are any."""
    means = np.array([one.mean for one in found])
    # Student's t knows nothing of where shares end.
    low, high = (np.clip([getattr(one, end) for one in found], 0, 1) for end in ("low", "high"))
    ends = np.nan_to_num([means - low, high - means]).clip(0)
    axes.errorbar(places, means, ends, label=style.plain_text(series), capsize=3, **how)


def _curves(entry: Entry) -> list[tuple[list[float], list[float]]]:
    """False and true positive rates of each seed."""
    found = []
    for run in entry.group.runs:
        rows = records.field(run.evaluation or {}, "splits.test.ranking.per_class", [])
        if len(rows) == 1 and "roc" in rows[0]:
            found.append((rows[0]["roc"]["x"], rows[0]["roc"]["y"]))
    return found
