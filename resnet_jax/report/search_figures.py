"""Figures of a search: errors in the order of trials, by parameter, and what mattered."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_jax import run_folder
from resnet_jax.report import style
from resnet_jax.report.search import PRUNED, STATES, Search, Trial, name_of, short
from resnet_jax.report.sweep import Sweep

# By marker and colour: neither alone need be told apart.
LOOKS: dict[str, dict[str, Any]] = {
    run_folder.COMPLETED: {"marker": "o", "color": style.COLOURS[0]},
    run_folder.DIVERGED: {"marker": "^", "color": style.COLOURS[1]},
    PRUNED: {"marker": "x", "color": "0.45"},
}
TOLD = {
    run_folder.COMPLETED: "completed",
    run_folder.DIVERGED: "diverged (counts as 100 %)",
    PRUNED: "pruned (its last error)",
}
COLUMNS = 3
# From this ratio of the highest error to the lowest on, the axis is logarithmic.
SPAN = 4.0
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw_all(sweep: Sweep, search: Search) -> Iterator[tuple[str, Figure]]:
    """Every figure that the search has something to say in, with its file name.

    Args:
        sweep: for where its numbers come from.
        search: of its folder.
    """
    if search.of(*STATES):
        yield "search_history", history(sweep, search)
        yield "search_parameters", by_parameter(sweep, search)
    if search.importances:
        yield "search_importances", importances(sweep, search)


def history(sweep: Sweep, search: Search) -> Figure:
    """Val's error of every trial, in their order, and the lowest so far."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for state in STATES:
        members = search.of(state)
        if members:
            at = [one.number for one in members]
            errors = [one.error or 0.0 for one in members]
            axes.scatter(at, errors, s=26, label=TOLD[state], zorder=3, **LOOKS[state])
    done = search.of(run_folder.COMPLETED)
    if done:
        lowest = np.minimum.accumulate([one.error or 0.0 for one in done])
        last = max(one.number for one in search.trials)
        axes.step(
            [*(one.number for one in done), last],
            [*lowest, lowest[-1]],
            where="post",
            color=style.COLOURS[6],
            linewidth=1.3,
            label="lowest so far",
        )
    _default_line(axes, search)
    _scale(axes, search)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.clean(axes, ylabel="val error (%)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _footnote(figure, sweep, search)
    return figure


def by_parameter(sweep: Sweep, search: Search) -> Figure:
    """Val's error over each parameter; colour is the order of trials."""
    fields = list(search.space)
    columns = min(COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.9, 3.0 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    order = Normalize(0, max(one.number for one in search.trials) or 1)
    for axes, field in zip(panels.ravel(), fields, strict=False):
        kind, values = search.space[field]
        choices = list(values) if kind == "categorical" else []
        for state in STATES:
            members = search.of(state)
            axes.scatter(
                [_place(one, field, choices) for one in members],
                [one.error for one in members],
                c=[one.number for one in members],
                **{"norm": order, "cmap": "viridis", "s": 26, "zorder": 3},
                marker=LOOKS[state]["marker"],
            )
        if search.best is not None and search.best.error is not None:
            at = _place(search.best, field, choices)
            ring = {"facecolors": "none", "edgecolors": style.COLOURS[1], "linewidths": 1.4}
            axes.scatter([at], [search.best.error], s=110, zorder=4, **ring)
        _default_line(axes, search)
        if choices:
            names = [style.plain_text(short(choice), 18) for choice in choices]
            axes.set_xticks(range(len(choices)), names)
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif kind.startswith("log_"):
            axes.set_xscale("log")
        axes.set_xlabel(style.plain_text(name_of(field)))
        style.clean(axes, ylabel="")
    for axes in panels[:, 0]:
        axes.set_ylabel("val error (%)")
    for axes in panels.ravel()[len(fields) :]:
        axes.set_visible(False)
    _scale(panels[0, 0], search)
    bar = figure.colorbar(ScalarMappable(order, "viridis"), ax=panels, label="trial", shrink=0.9)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    signs = [f"{LOOKS[state]['marker']} {TOLD[state]}" for state in STATES if search.of(state)]
    told = ", ".join(text.replace("^ ", "triangle ").replace("o ", "dot ", 1) for text in signs)
    _footnote(figure, sweep, search, f"{told}; ring: the best; dashed: the base's own values")
    return figure


def importances(sweep: Sweep, search: Search) -> Figure:
    """What share each parameter has in being among the best, with the number."""
    items = sorted(search.importances.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7.2, 1.3 + 0.38 * len(items)), layout="constrained")
    axes = figure.subplots()
    values = [value for _, value in items]
    bars = axes.barh(range(len(items)), values, color=style.COLOURS[0], height=0.6)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4, fontsize=9)
    axes.set_yticks(range(len(items)), [style.plain_text(name_of(field)) for field, _ in items])
    axes.set_xlim(0, 1.12 * max(values) or 1)
    style.clean(axes, ylabel="")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("importance (they sum to 1)")
    _footnote(figure, sweep, search, search.method)
    return figure


def _place(trial: Trial, field: str, choices: list[Any]) -> float:
    """Where a trial stands on a parameter's axis."""
    value = trial.parameters.get(field)
    if choices:
        value = list(value) if isinstance(value, tuple) else value
        return float(choices.index(value)) if value in choices else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan


def _scale(axes: Axes, search: Search) -> None:
    """Where errors are many times one another, differences among the best ones need a log axis."""
    errors = [one.error or 0.0 for one in search.of(*STATES)]
    low, high = min(errors), max(errors)
    if 0 < SPAN * low < high:
        axes.set_yscale("log")
        axes.set_ylim(0.8 * low, min(1.25 * high, 110.0))
        ticks = [t for t in TICKS if 0.8 * low <= t <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        axes.set_ylim(0, 1.07 * max(high, 1.0))


def _default_line(axes: Axes, search: Search) -> None:
    default = search.default
    if default is not None and default.error is not None and default.state != PRUNED:
        look: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1.0}
        axes.axhline(default.error, label="the base's own values", zorder=1, **look)


def _footnote(figure: Figure, sweep: Sweep, search: Search, *more: str) -> None:
    style.footnote(figure, sweep, (), search.net, *more, f"{len(search.trials)} trials")
