"""The figures of signals and gradients: what `resnet_jax.analysis.signals` found in runs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from resnet_jax import run_folder
from resnet_jax.report import style
from resnet_jax.report.analyses import Found, legend, named, note
from resnet_jax.report.groups import label_of
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep

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


# A response as many times the usual one hides what others differ in on a linear axis.
FAR = 4
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


class Responses(NamedTuple):
    """One net's responses after its last step.

    Attributes:
        label: of its runs.
        runs: completed ones that were looked at after their last step.
        by_run: standard deviation of each layer's BN [runs, layers].
        note: of how many images.
    """

    label: str
    runs: tuple[Run, ...]
    by_run: np.ndarray
    note: str

    @property
    def layers(self) -> np.ndarray:
        """Each layer's, the mean over runs [layers]."""
        average: np.ndarray = self.by_run.mean(0)
        return average


def responses(found: Found) -> list[Responses]:
    """What layers answer after the last step, of every net (He et al. 2015, Fig. 7).

    Args:
        found: as `analyses.read` gives it.
    """
    nets: dict[str, Found] = {}
    for run, report in _with_nan(found):
        if run.state == run_folder.COMPLETED and report["moments"][-1]["step"] == run.steps:
            nets.setdefault(label_of(run), []).append((run, report))
    result = []
    for label, members in nets.items():
        runs, reports = zip(*members, strict=True)
        rows = [[row["response"] for row in r["moments"][-1]["layers"]] for r in reports]
        told = dict.fromkeys(f"{r['examples']:,} {r['split']} images at once" for r in reports)
        result.append(Responses(label, runs, np.array(rows), ", ".join(told)))
    return result


def draw_responses(sweep: Sweep, nets: Sequence[Responses]) -> Figure:
    """Responses in the layers' order, and sorted, as in He et al. 2015, Fig. 7.

    The paper's axis is linear; where one layer responds several times as much as most do, such an
    axis would hide what these differ in, and it is logarithmic.

    Args:
        sweep: that the nets are of.
        nets: of it; at least one.
    """
    figure = Figure(figsize=(7.2, 5.8), layout="constrained")
    panels = figure.subplots(2, 1, sharey=True)
    palette = style.colours(net.runs[0].depth for net in nets)
    every = np.concatenate([net.layers for net in nets])
    logarithmic = bool(np.nanmax(every) > FAR * np.nanmedian(every))
    for net in nets:
        plain = net.runs[0].family == "plain"
        how: dict[str, Any] = {"color": palette[net.runs[0].depth], "linewidth": 1.4}
        how["linestyle"] = "--" if plain else "-"
        how["label"] = f"{style.plain_text(net.label)} (n = {len(net.runs)})"
        for axes, is_sorted in zip(panels, (False, True), strict=True):
            _curve(axes, list(net.layers), logarithmic, is_sorted, how)
    for axes, order in zip(panels, ("in order, from the stem on", "largest first"), strict=True):
        style.clean(axes, ylabel="standard deviation")
        axes.set_xlabel(f"layer, {order}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if logarithmic:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
    panels[0].set_title("response of each layer's BN, before addition and ReLU", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8, ncols=2)
    labels = {net.label for net in nets}
    shown = [group for group in sweep.groups if group.label in labels]
    style.footnote(figure, sweep, shown, "after the last step", nets[0].note)
    return figure


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
