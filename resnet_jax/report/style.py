"""What all Matplotlib figures share: colours, axes, footnotes, files."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnet_jax.report.groups import Group
from resnet_jax.report.sweep import Sweep, short
from resnet_jax.report.thin import thin

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# For what is distinguished by more than colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 130
POINTS = 1500
# Iterations are counted in units of 1e4 from here on, as the papers do.
LONG = 10_000


def save(figure: Figure, path: pathlib.Path, about: Mapping[str, str] | None = None) -> None:
    """Writes a figure; the file's ending decides the format. The same figure gives equal bytes.

    Args:
        figure: what is drawn.
        path: of the file.
        about: what else the file is to say of it, by key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Matplotlib dates vector files, unless told not to.
    undated = {"Date": None} if path.suffix in (".svg", ".svgz") else {}
    figure.draw_without_rendering()  # the layout's first pass does not know all tick labels yet
    with mpl.rc_context({"svg.hashsalt": "resnet_jax"}):
        figure.savefig(path, dpi=DPI, metadata={**(about or {}), **undated})


def colours(depths: Iterable[int]) -> dict[int, str]:
    """One colour for each depth, the same in every panel of a report."""
    return {d: COLOURS[i % len(COLOURS)] for i, d in enumerate(sorted(set(depths)))}


def plain_text(text: str, limit: int = 60) -> str:
    """Text that Matplotlib draws as it stands: no formulas, nothing that its font does not have.

    Args:
        text: a name or a phrase.
        limit: characters to which it is cut.
    """
    text = "".join(c if c.isprintable() and ord(c) < 0x180 else "?" for c in text)
    text = text.replace("\\", "\\\\").replace("$", r"\$") if "$" in text else text
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return f" {text}" if text.startswith("_") else text


def clean(axes: Axes, *, ylabel: str = "error (%)") -> None:
    """Grid, labels and no needless frame."""
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def iterations(axes: Axes, last: int) -> float:
    """Labels the x axis; returns what steps must be divided by."""
    unit = 1e4 if last >= LONG else 1.0
    axes.set_xlabel("iteration (1e4)" if unit > 1 else "iteration")
    axes.set_xlim(0, max(last, 1) / unit)
    return unit


def line(axes: Axes, steps: np.ndarray, values: np.ndarray, unit: float, **how: Any) -> None:
    """Draws a curve, thinned."""
    kept = thin(values, POINTS)
    axes.plot(steps[kept] / unit, values[kept], **how)


def top_of(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Upper end of an error axis: above all that happens after the first twentieth; percent."""
    highest = 1.0
    for steps, values in curves:
        later = values[steps > 0.05 * steps[-1]] if len(steps) else values
        if len(later) and np.isfinite(later).any():
            highest = max(highest, float(np.nanmax(later)))
    return min(100.0, 1.08 * highest)


def footnote(figure: Figure, sweep: Sweep, shown: Sequence[Group], *more: str) -> None:
    """Says below a figure where its numbers come from.

    Args:
        figure: gets the note.
        sweep: for commit, data set and hardware.
        shown: the groups in the figure, for n.
        more: phrases to stand first; empty ones are left out.
    """
    seeds = sorted({group.n for group in shown if group.n})
    widths = sorted({float(group.config["model"].get("width", 1.0)) for group in shown} - {1.0})
    facts = [
        *more,
        f"{' and '.join(f'{width:g}' for width in widths)} times as wide" if widths else "",
        f"n = {' to '.join(dict.fromkeys(map(str, (seeds[0], seeds[-1]))))}" if seeds else "",
        dataset_name(sweep.dataset),
        f"commit {short(sweep.commit)}",
        "; ".join(sweep.hardware[:2]) + (" and others" if len(sweep.hardware) > 2 else ""),
    ]
    text = plain_lines([plain_text(fact, 200) for fact in facts if fact])
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color="0.35")


def plain_lines(facts: Sequence[str], width: int = 110) -> str:
    """Joins facts by dots, in lines of at most `width` characters where possible."""
    lines = [""]
    for fact in facts:
        joined = f"{lines[-1]} · {fact}" if lines[-1] else fact
        if len(joined) > width and lines[-1]:
            lines.append(fact)
        else:
            lines[-1] = joined
    return "\n".join(lines)


CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


def dataset_name(dataset: Mapping[str, Any]) -> str:
    """The data set in words: its name, whether its files are the original ones and complete."""
    name = str(dataset.get("name", "unknown data set"))
    original = dataset.get("original")
    if name.startswith("cifar") and original is not True:
        name += (
            " (a copy, not the original files)" if original is False else " (files not recorded)"
        )
    classes = dataset.get("classes")
    if isinstance(classes, int) and classes < CLASSES.get(str(dataset.get("name")), 0):
        name += f", {classes} of its classes"
    return name
