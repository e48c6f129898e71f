"""The figure of nets by the default recipe and by their own: error over depth."""

from matplotlib.figure import Figure

from resnet_jax.report import figures, style
from resnet_jax.report.groups import band_names
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tuned import Series

LOOKS = {"plain": (style.COLOURS[1], "s"), "residual": (style.COLOURS[0], "o")}


def over_depth(sweep: Sweep, found: list[Series]) -> Figure:
    """Final training and test error over depth; filled by the default recipe, open each tuned.

    Args:
        sweep: for where its numbers come from.
        found: `tuned.series` of it, at least one.
    """
    figure = Figure(figsize=(7.8, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    depths = sorted({group.depth for one in found for group in one.default})
    shown = [group for one in found for group in (*one.default, *one.own)]
    for axes, (split, title) in zip(panels, figures.KINDS, strict=True):
        shift = -0.06
        for one in found:
            colour, marker = LOOKS[one.family]
            for recipe, members in (("default recipe", one.default), ("each tuned", one.own)):
                own = [group for group in members if group.final(split)]
                if own:
                    x = [depths.index(group.depth) + shift for group in own]
                    low, high = zip(*(figures.whiskers(g, split) for g in own), strict=True)
                    filled = recipe == "default recipe"
                    axes.errorbar(
                        *(x, [g.mean(split).mean for g in own], [low, high], None, marker),
                        label=f"{figures.TITLES[one.family]}, {recipe}",
                        color=colour,
                        markerfacecolor=colour if filled else "white",
                        linestyle="-" if filled else ":",
                        **{"capsize": 3, "markersize": 6, "linewidth": 1.3},
                    )
                shift += 0.04
        axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        axes.set_xlim(-0.4, len(depths) - 0.6)
        axes.set_xlabel("depth (layers)")
        axes.set_title(f"final {title}", fontsize=10)
        style.clean(axes)
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylabel("")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    style.footnote(figure, sweep, shown, band_names(shown, "bars"))
    return figure
