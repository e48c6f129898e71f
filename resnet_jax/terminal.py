"""The terminal: a console that log lines and progress bars share, and the tables of a run."""

import logging
import math
import pathlib
from typing import Any

import absl.logging
import rich.console
import rich.logging
import rich.table

from resnet_jax import run_folder

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


def print_outcome(workdir: pathlib.Path, status: dict[str, Any]) -> None:
    """Tells how a run ended, and the numbers it ended with."""
    verdict = f", {status['verdict'].replace('_', ' ')}" if "verdict" in status else ""
    print(f"{workdir}: {status['state']}{verdict} at step {status['step']} of {status['steps']}")
    if "reason" in status:
        print(status["reason"])
    evaluation = run_folder.read_json(workdir / run_folder.EVALUATION)
    if evaluation:
        print_evaluation(evaluation)


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Prints the report of `evaluation.json`: totals, then classes on the test split."""
    totals = rich.table.Table(title=f"after step {evaluation['step']}")
    for heading in ("split", "examples", "error %", "accuracy", "loss"):
        totals.add_column(heading, justify="left" if heading == "split" else "right")
    for split, values in evaluation["splits"].items():
        totals.add_row(
            split,
            str(values["examples"]),
            f"{values['error']:.2f}",
            f"{values['accuracy']:.4f}",
            f"{values['loss']:.4f}",
        )
    classes = rich.table.Table(title="classes on test")
    for heading in ("class", "precision", "recall", "F1", "examples"):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    for row in evaluation["splits"]["test"]["per_class"]:
        shares = (row[key] for key in ("precision", "recall", "f1"))
        cells = ["-" if x is None or math.isnan(x) else f"{x:.3f}" for x in shares]
        classes.add_row(row["class"], *cells, str(row["support"]))
    console = rich.console.Console()
    console.print(totals)
    console.print(classes)


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
