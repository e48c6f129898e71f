"""The papers' figures, drawn with Matplotlib."""

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax.report import style
from resnet_jax.report.groups import Group, Split, band_names
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep

TITLES = {"plain": "plain nets", "residual": "residual nets"}
KINDS: tuple[tuple[Split, str], ...] = (("train", "training error"), ("test", "test error"))


def two(sweep: Sweep, groups: Sequence[Group]) -> Figure:
    """Training error left, test error right, as in He et al. 2015, Fig. 1.

    Args:
        sweep: that the groups are of.
        groups: usually the shallowest and the deepest plain net.
    """
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    palette = style.colours(group.depth for group in sweep.groups)
    for axes, (split, title) in zip(panels, KINDS, strict=True):
        for group in groups:
            _mean_curve(axes, group, split, palette[group.depth], solid=True, label=True)
        axes.set_title(title, fontsize=10)
        style.clean(axes)
        _legend(axes)
    _limits(panels, groups)
    style.footnote(figure, sweep, groups, band_names(groups, "bands"))
    return figure


def pair(sweep: Sweep, groups: Sequence[Group], top: float | None = None) -> Figure:
    """Plain left, residual right, on the same axes, as in He et al. 2015, Fig. 6.

    Args:
        sweep: that the groups are of.
        groups: at most one for each family and depth. Thin dashed lines are training error, bold
            solid ones test error; a depth has one colour in both panels.
        top: end of the error axis, in percent, or None to show all but the very start. The paper
            shows up to 20 % and leaves out what lies above.
    """
    families = [f for f in TITLES if any(group.family == f for group in groups)]
    figure = Figure(figsize=(4.2 * len(families) + 0.4, 4.0), layout="constrained")
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    palette = style.colours(group.depth for group in sweep.groups)
    for axes, family in zip(panels, families, strict=True):
        members = [group for group in groups if group.family == family]
        for group in members:
            colour = palette[group.depth]
            _mean_curve(axes, group, "train", colour, solid=False, label=False)
            _mean_curve(axes, group, "test", colour, solid=True, label=True)
        axes.set_title(TITLES[family], fontsize=10)
        style.clean(axes)
        _legend(axes, handles=_handles(axes))
    _limits(panels, groups)
    beyond = ""
    if top:
        panels[0].set_ylim(0, top)
        high = [g for g in groups if g.n and min(g.mean(s).mean for s, _ in KINDS) > top]
        ends = ", ".join(f"{g.label} ends at {g.mean('test').mean:.1f} % (test)" for g in high)
        beyond = f"above this axis: {ends}" if ends else ""
    for axes in panels[1:]:
        axes.set_ylabel("")
    style.footnote(figure, sweep, groups, beyond, band_names(groups, "bands"))
    return figure


def error_over_depth(sweep: Sweep, groups: Sequence[Group]) -> Figure:
    """Final training and test error over depth, plain against residual, with intervals."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    looks = {"plain": (style.COLOURS[1], "s", "--"), "residual": (style.COLOURS[0], "o", "-")}
    depths = sorted({group.depth for group in groups})
    for axes, (split, title) in zip(panels, KINDS, strict=True):
        for shift, (family, (colour, marker, dash)) in zip(
            (-0.04, 0.04), looks.items(), strict=True
        ):
            members = [g for g in groups if g.family == family and g.final(split)]
            if not members:
                continue
            x = [depths.index(group.depth) + shift for group in members]
            means = [group.mean(split) for group in members]
            axes.plot(x, [m.mean for m in means], dash, color=colour, linewidth=1.2)
            low, high = zip(*(whiskers(group, split) for group in members), strict=True)
            axes.errorbar(
                *(x, [m.mean for m in means], [low, high], None, marker),
                **{"color": colour, "capsize": 3, "label": TITLES[family], "markersize": 5},
            )
        for group in groups:
            if group.n == 0 and group.n_diverged:
                where = (depths.index(group.depth), 0.97)
                axes.text(
                    *where,
                    style.plain_text(f"{group.label}\ndiverged".replace("\n", " ")),
                    **{"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"},
                    fontsize=7,
                )
        axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set_xlim(-0.4, len(depths) - 0.6)
        axes.set_xlabel("depth (layers)")
        axes.set_title(f"final {title}", fontsize=10)
        style.clean(axes)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylim(bottom=0)  # not earlier: it would keep the other panel from widening it
    panels[1].set_ylabel("")
    style.footnote(figure, sweep, groups, band_names(groups, "bars"))
    return figure


def run_panels(run: Run, sweep: Sweep | None = None) -> Figure:
    """One run's loss, error, learning rate and gradient norm over iterations."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    metrics = (
        *(("loss", "loss (nats)"), ("error", "error (%)")),
        *(("learning_rate", "learning rate"), ("gradient_norm", "gradient norm")),
    )
    for axes, (metric, label) in zip(panels, metrics, strict=True):
        unit = style.iterations(axes, run.steps)
        looks = (("train", "--", 0), ("val", ":", 2), ("test", "-", 1))
        for split, dash, colour in looks:
            steps, values = run.curve(split, metric)
            if len(steps):
                how = {"color": style.COLOURS[colour], "linestyle": dash, "label": split}
                style.line(axes, steps, values, unit, linewidth=1.2, **how)
        style.clean(axes, ylabel=label)
        if metric in ("loss", "error"):
            axes.legend(frameon=False, fontsize=8)
        if _spans_decades(run, metric):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    figure.suptitle(style.plain_text(f"{run.name} ({run.net}, {run.state})"), fontsize=10)
    if sweep:
        style.footnote(figure, sweep, sweep.groups)
    return figure


def whiskers(group: Group, split: Split) -> tuple[float, float]:
    """How far a bar reaches below and above the mean: as `groups.band_name` says; 0 with n = 1."""
    values, mean = list(group.final(split).values()), group.mean(split)
    if mean.n < 2:
        return 0.0, 0.0
    if mean.n == 2:
        return mean.mean - min(values), max(values) - mean.mean
    return mean.mean - max(mean.low, 0.0), min(mean.high, 100.0) - mean.mean


def _spans_decades(run: Run, metric: str) -> bool:
    _, values = run.curve("train", metric)
    values = values[values == values]
    if metric not in ("learning_rate", "gradient_norm") or not len(values):
        return False
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _mean_curve(
    axes: Axes, group: Group, split: Split, colour: str, *, solid: bool, label: bool
) -> None:
    unit = style.iterations(axes, int(group.config["train"]["steps"]))
    curve = group.curve(split, "error")
    how = {"linestyle": "-", "linewidth": 1.9} if solid else {"linestyle": "--", "linewidth": 0.9}
    name = f"{group.label} (n = {group.n})" if label and group.n else None
    if len(curve.steps):
        style.line(
            axes,
            curve.steps,
            curve.mean,
            unit,
            color=colour,
            label=name and style.plain_text(name),
            **how,
        )
        if curve.low is not None and curve.high is not None:
            kept = style.thin(curve.mean, style.POINTS)
            x, low, high = curve.steps[kept] / unit, curve.low[kept], curve.high[kept]
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for i, run in enumerate(group.diverged):
        steps, errors = run.curve(split, "error")
        steps, errors = steps[errors == errors] / unit, errors[errors == errors]
        if len(steps):
            axes.plot(steps, errors, color=colour, linestyle=":", linewidth=1.2)
            axes.plot(steps[-1:], errors[-1:], color=colour, marker="x", linestyle=":")
            if label and not i:
                text = style.plain_text(f"{group.label}: {group.n_diverged} diverged")
                axes.lines[-1].set_label(text)


def _handles(axes: Axes) -> list[Artist]:
    kinds = [
        Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="training error"),
        Line2D([], [], color="0.4", linewidth=1.9, label="test error"),
    ]
    handles: list[Artist] = list(axes.get_legend_handles_labels()[0])
    return handles + kinds


def _legend(axes: Axes, **more: Any) -> None:
    """Below the panel, where no curve is."""
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncol": 2}
    axes.legend(frameon=False, fontsize=8, **{**below, **more})


def _limits(panels: Sequence[Axes], groups: Sequence[Group]) -> None:
    curves = [run.curve(s, "error") for g in groups for run in g.runs for s in ("train", "test")]
    for axes in panels:
        axes.set_ylim(0, style.top_of(curves))
        axes.set_xlim(right=axes.get_xlim()[1])
