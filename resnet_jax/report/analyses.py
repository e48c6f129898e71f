"""What `resnet_jax.analysis` has left in the folders of runs."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resnet_jax import run_folder
from resnet_jax.report import style
from resnet_jax.report.groups import label_of
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep

Found = list[tuple[Run, dict[str, Any]]]


def read(sweep: Sweep, file: str, most: int | None = len(style.COLOURS)) -> Found:
    """The runs that were looked into, and what was found; as many as a figure can tell apart.

    Args:
        sweep: the runs.
        file: name of the JSON file.
        most: of the runs, or None for all.
    """
    found = [
        (run, run_folder.read_json(run.folder / run_folder.ANALYSIS / file)) for run in sweep.runs
    ]
    return [(run, report) for run, report in found if report][:most]


def named(run: Run) -> str:
    """How a legend names a run: by its label and seed, and by its net if the label does not."""
    label = label_of(run)
    net = "" if run.net in label else f" ({run.net})"
    return style.plain_text(f"{label}{net}, seed {run.seed}")


def legend(figure: Figure, handles: list[Line2D], told: str) -> None:
    """Which look is which run's, below a figure's panels, and above it where numbers come from."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        title=told,
        title_fontsize=7,
    )


def note(reports: list[dict[str, Any]], *phrases: str) -> str:
    """Where a figure's numbers come from, in one line.

    Args:
        reports: as they were read.
        phrases: to stand first, with a report's fields in braces.
    """
    facts = (*phrases, "{dataset}", "commit {commit:.12}")
    reports = [{**report, "commit": report["commit"] or "unknown"} for report in reports]
    told = [", ".join(dict.fromkeys(fact.format(**r) for r in reports)) for fact in facts]
    return " · ".join(style.plain_text(fact, 100) for fact in told)
