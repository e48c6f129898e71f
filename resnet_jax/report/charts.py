"""All figures of a report; here those of grids: variants, learning rate, shortcut strength."""

import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from resnet_jax.report import (
    analyses,
    figures,
    groups,
    landscapes,
    lesions,
    records,
    search,
    search_figures,
    signals,
    style,
    transfer,
    transfer_figures,
    tuned,
    tuned_figures,
)
from resnet_jax.report.groups import Group
from resnet_jax.report.sweep import Sweep

RATE = "optimizer.learning_rate"
# Their names, the files that they are drawn from, and how; some draw nothing of too little.
ANALYSES: tuple[tuple[str, str, Callable[[analyses.Found], Figure | None]], ...] = (
    ("lesions", lesions.FILE, lesions.draw),
    ("signals", signals.FILE, signals.draw),
    ("signals_over_time", signals.FILE, signals.draw_over_time),
    ("landscapes", landscapes.FILE, landscapes.draw),
)
# Figures that an HTML report has no interactive counterpart of.
GRIDS = (
    *("variants", "learning_rate_by_depth", "shortcut_strength", "transfer", "roc"),
    *("search_history", "search_parameters", "search_importances", "tuned_degradation"),
    *(name for name, _, _ in ANALYSES),
)
# H = F + s x: s = 1 is a residual net, s = 0 a plain one.
STRENGTH = "model.shortcut_scale"


def draw_all(sweep: Sweep) -> Iterator[tuple[str, Figure]]:
    """Every figure that this sweep's runs have something to say in, with its file name."""
    if searched := search.read(sweep.root):
        yield from search_figures.draw_all(sweep, searched)
        return
    if nets := tuned.read(sweep.root):
        if series := tuned.series(sweep, nets):
            yield "tuned_degradation", tuned_figures.over_depth(sweep, series)
        yield from _of_depths(tuned.without(sweep, nets))
    elif entries := transfer.entries(sweep):
        yield "transfer", transfer_figures.measures(sweep, entries)
        curves = transfer_figures.roc(sweep, entries)
        if curves is not None:
            yield "roc", curves
    else:
        yield from _of_depths(sweep)
    for name, file, draw in ANALYSES:
        found = analyses.read(sweep, file)
        figure = draw(found) if found else None
        if figure is not None:
            yield name, figure
    runs = [*sweep.runs, *sweep.unfinished]
    if len(runs) == 1:
        yield "run", figures.run_panels(runs[0], sweep)


def _of_depths(sweep: Sweep) -> Iterator[tuple[str, Figure]]:
    """Plain and residual nets, and variants of them."""
    main = main_series(sweep.groups)
    plain = [group for group in main if group.family == "plain" and group.n]
    if main:
        yield "pair", figures.pair(sweep, main)
        ends = [group.mean("test").mean for group in main if group.n]
        if max(run.steps for run in sweep.runs) >= style.LONG and min(ends, default=100.0) < 20:
            yield "pair_to_20_percent", figures.pair(sweep, main, top=20.0)
    if len(plain) > 1:
        yield "plain", figures.two(sweep, [plain[0], plain[-1]])
    if len({group.depth for group in main}) > 1:
        yield "depth", figures.error_over_depth(sweep, main)
    if len(sweep.groups) > len(main):
        yield "variants", variants(sweep)
    if len(_rates(sweep.groups)) > 1:
        yield "learning_rate_by_depth", learning_rate_by_depth(sweep)
    if len({strength(group) for group in sweep.groups} - {None}) > 2:
        yield "shortcut_strength", shortcut_strength(sweep)


def save_all(sweep: Sweep, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws everything as PNG and SVG; returns the files."""
    paths = []
    for name, figure in draw_all(sweep):
        for ending in ("png", "svg"):
            paths.append(folder / f"{name}.{ending}")
            style.save(figure, paths[-1])
    return paths


def main_series(all_groups: Sequence[Group]) -> list[Group]:
    """One group for each family and depth, of the recipe that most groups of a family share."""
    chosen: list[Group] = []
    for family in ("plain", "residual"):
        series: dict[str, dict[int, Group]] = {}
        for group in all_groups:
            if group.family == family:
                key = str(sorted(groups.recipe(group.config).items()))
                series.setdefault(key, {}).setdefault(group.depth, group)
        if series:
            chosen += max(series.values(), key=len).values()
    return chosen


def variants(sweep: Sweep) -> Figure:
    """Final training and test error of every label, with intervals and the seeds as dots."""
    shown = [group for group in sweep.groups if group.n or group.n_diverged]
    figure = Figure(figsize=(7.2, 1.5 + 0.32 * len(shown)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (split, title) in zip(panels, figures.KINDS, strict=True):
        for row, group in enumerate(shown):
            colour = style.COLOURS[0 if group.family == "residual" else 1]
            marker = "o" if group.family == "residual" else "s"
            values = list(group.final(split).values())
            if not values:
                axes.text(0, row, "  diverged" if group.n_diverged else "", va="center", fontsize=7)
                continue
            axes.plot(values, [row] * len(values), "|", color="0.5", markersize=7)
            low, high = figures.whiskers(group, split)
            bar = {"color": colour, "capsize": 3, "markersize": 5}
            axes.errorbar([group.mean(split).mean], [row], None, [[low], [high]], marker, **bar)
        axes.set_title(f"final {title}", fontsize=10)
        style.clean(axes, ylabel="")
        axes.set_xlabel("error (%)")
        axes.set_xlim(left=0)
    names = [
        style.plain_text(f"{g.label} (n = {g.n}{f', {g.n_diverged} div.' * bool(g.n_diverged)})")
        for g in shown
    ]
    panels[0].set_yticks(range(len(shown)), names, fontsize=8)
    panels[0].invert_yaxis()
    style.footnote(figure, sweep, shown, groups.band_names(shown, "bars"), "ticks: seeds")
    return figure


def learning_rate_by_depth(sweep: Sweep) -> Figure:
    """Mean final training error over learning rate and depth, a heat map for each family."""
    rates = _rates(sweep.groups)
    families = [f for f in figures.TITLES if any(g.family == f for g in sweep.groups)]
    depths = sorted({group.depth for group in sweep.groups})
    figure = Figure(
        figsize=(1.6 + len(families) * (1.2 + 0.75 * len(depths)), 1.8 + 0.5 * len(rates)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
    means = [group.mean("train").mean for group in sweep.groups if group.n]
    top = min(100.0, 10.0 * math.ceil(max(means, default=100.0) / 10))
    image = None
    for axes, family in zip(panels, families, strict=True):
        table = np.full((len(rates), len(depths)), np.nan)
        for group in (group for group in sweep.groups if group.family == family):
            row, column = rates.index(_value(group, RATE)), depths.index(group.depth)
            mean = group.mean("train")
            text, dark = "div." if group.n_diverged else "", False
            if mean.n and np.isnan(table[row, column]):
                table[row, column] = mean.mean
                text = f"{mean.mean:.1f}\nn = {mean.n}"
                dark = mean.mean < 0.45 * top
            how = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(column, row, text, color="white" if dark else "black", **how)
        image = axes.imshow(table, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_xlabel("depth (layers)")
        axes.set_title(figures.TITLES[family], fontsize=10)
    panels[0].set_ylabel("learning rate")
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="final training error (%)")
    style.footnote(figure, sweep, sweep.groups)
    return figure


def shortcut_strength(sweep: Sweep) -> Figure:
    """Final training and test error over s in H = F + s x, one colour for each depth.

    Dotted: nets whose s moves while they train, over the s that they start with.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    members = [group for group in sweep.groups if strength(group) is not None]
    palette = style.colours(group.depth for group in members)
    for axes, (split, title) in zip(panels, figures.KINDS, strict=True):
        for marker, (depth, colour) in zip(style.MARKERS * 9, palette.items(), strict=False):
            for annealed, dash in ((False, "-"), (True, ":")):
                shown = [g for g in members if g.depth == depth and is_annealed(g) == annealed]
                shown = sorted((g for g in shown if g.final(split)), key=_strength)
                if shown:
                    low, high = zip(*(figures.whiskers(g, split) for g in shown), strict=True)
                    name = f"depth {depth}" + (", annealed from s" if annealed else "")
                    bar = {"color": colour, "capsize": 3, "label": name, "linewidth": 1.2}
                    y = [group.mean(split).mean for group in shown]
                    axes.errorbar(
                        *([_strength(group) for group in shown], y, [low, high], None),
                        **{"fmt": marker, "linestyle": dash, "markersize": 4, **bar},
                    )
        axes.set_xlabel("strength s of the shortcut (0: plain, 1: residual)", fontsize=9)
        axes.set_title(f"final {title}", fontsize=10)
        style.clean(axes)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylabel("")
    style.footnote(figure, sweep, members, groups.band_names(members, "bars"))
    return figure


def strength(group: Group) -> float | None:
    """The s that a net starts with in H = F + s x: 0 if plain; None if it has no such s."""
    if group.family == "plain":
        return 0.0
    transform = records.field(group.config, "model.shortcut_transform", "identity")
    if transform == "identity":
        return 1.0
    if transform not in ("constant_scaling", "annealed_scaling"):
        return None
    branch = _value(group, "model.branch_scale")
    return _value(group, STRENGTH) if branch == 1 else None


def is_annealed(group: Group) -> bool:
    """Whether s moves while the net trains."""
    transform = records.field(group.config, "model.shortcut_transform")
    return group.family == "residual" and transform == "annealed_scaling"


def _strength(group: Group) -> float:
    return strength(group) or 0.0


def _value(group: Group, path: str) -> float:
    value = records.field(group.config, path)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _rates(all_groups: Sequence[Group]) -> list[float]:
    return sorted({_value(group, RATE) for group in all_groups})
