"""The papers' figures, drawn with Matplotlib."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from resnet_jax.report.records import Run

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def training_curves(runs: Sequence[Run]) -> Figure:
    """Error over iterations, training dashed and test solid, as in He et al. 2015, Fig. 6.

    Args:
        runs: one colour each, labelled with the net's name.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for run, colour in zip(runs, COLOURS, strict=False):
        steps, errors = run.curve("train", "error")
        axes.plot(steps, errors, color=colour, linestyle="--", linewidth=1.2)
        steps, errors = run.curve("test", "error")
        label = run.net if not len(errors) else f"{run.net}: test {errors[-1]:.1f} % at the end"
        axes.plot(steps, errors, color=colour, linewidth=1.8, label=label)
    axes.plot([], [], color="grey", linestyle="--", label="training error")
    axes.set_xlabel("iteration")
    axes.set_ylabel("error (%)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure; the file's ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
