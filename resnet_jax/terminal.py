"""The terminal: a console that log lines and progress bars share, and the tables of a run."""

import logging
import math
import pathlib
from typing import Any

import absl.logging
import rich.console
import rich.logging
import rich.table
import rich.text

from resnet_jax import run_folder

SIGNS = {"good": ("+", "green"), "warning": ("!", "yellow"), "bad": ("x", "red")}
CONSOLE = rich.console.Console(stderr=True)


def set_up_logging() -> None:
    """Sends log lines through the console; in a pipe they are plain lines.

    absl's own handler would write into the progress bar's row. Orbax reports every internal step
    through absl, so only its warnings are shown.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler: logging.Handler = rich.logging.RichHandler(console=CONSOLE, show_path=False)
    if not CONSOLE.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers = [handler]
    logging.getLogger("resnet_jax").setLevel(logging.INFO)


def only_warnings() -> None:
    """Leaves the telling of a run to the process that leads it."""
    logging.getLogger("resnet_jax").setLevel(logging.WARNING)


def print_outcome(workdir: pathlib.Path, status: dict[str, Any], name: str = "") -> None:
    """Tells how a run ended, and the numbers it ended with.

    Args:
        workdir: the run's folder.
        status: its last one.
        name: what the user calls the folder; its path if "".
    """
    verdict = f", {status['verdict'].replace('_', ' ')}" if "verdict" in status else ""
    reached = f"at step {status['step']} of {status['steps']}"
    print(f"{name or workdir}: {status['state']}{verdict} {reached}")
    if "reason" in status:
        print(status["reason"])
    evaluation = run_folder.read_json(workdir / run_folder.EVALUATION)
    if evaluation:
        print_evaluation(evaluation)


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Prints the report of `evaluation.json`: totals, classes on the test split, and findings."""
    totals = rich.table.Table(title=f"after step {evaluation['step']}")
    for heading in ("split", "examples", "error %", "95 % interval", "majority error %", "loss"):
        totals.add_column(heading, justify="left" if heading == "split" else "right")
    for split, values in evaluation["splits"].items():
        low, high = values["error_interval"]
        totals.add_row(
            split,
            str(values["examples"]),
            f"{values['error']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{100 * (1 - values['baseline']['accuracy']):.2f}",
            f"{values['loss']:.4f}",
        )
    classes = rich.table.Table(title="classes on test")
    for heading in ("class", "precision", "recall", "F1", "examples"):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    for row in evaluation["splits"]["test"]["per_class"]:
        shares = (row[key] for key in ("precision", "recall", "f1"))
        classes.add_row(row["class"], *map(_share, shares), str(row["support"]))
    console = rich.console.Console()
    console.print(totals)
    console.print(classes)
    for finding in evaluation["findings"]:
        sign, colour = SIGNS[finding["level"]]
        head = rich.text.Text(f"{sign} {finding['subject']}. ", style=colour)
        console.print(head.append(finding["text"], style="default"))


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def print_predictions(images: list[dict[str, Any]]) -> None:
    """Prints the classes of each image with their probabilities: a table, or lines in a pipe.

    Args:
        images: `image`, and `classes` with `class` and `probability`, the most probable first.
    """
    rows = [
        (row["image"], place["class"], place["probability"])
        for row in images
        for place in row["classes"]
    ]
    console = rich.console.Console()
    if not console.is_terminal:
        for image, name, probability in rows:
            print(image, name, f"{probability:.6f}", sep="\t")
        return
    table = rich.table.Table()
    for heading in ("image", "class", "probability"):
        table.add_column(heading, justify="right" if heading == "probability" else "left")
    last = None
    for image, name, probability in rows:
        # Paths and names are shown as they are, though they may look like rich's markup.
        first = "" if image == last else image
        table.add_row(rich.text.Text(first), rich.text.Text(name), f"{probability:.4f}")
        last = image
    console.print(table)


def print_audit(findings: list[dict[str, Any]]) -> None:
    """Prints what an audit of the data found: `findings` of `audit.json`."""
    table = rich.table.Table(title="findings")
    for heading in ("finding", "gravity", "count", "for example"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    found = [finding for finding in findings if finding["count"]]
    for finding in found:
        examples = "\n".join(finding["examples"])
        gravity = "leak" if finding["leak"] else "note"
        table.add_row(finding["name"], gravity, str(finding["count"]), examples)
    if found:
        rich.console.Console().print(table)
    print(f"{len(findings) - len(found)} of {len(findings)} checks found nothing")
