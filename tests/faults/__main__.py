"""Runs the long versions and writes their table."""

import os

# Before JAX is imported: a row compares one device with eight.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import absl.logging  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402

from resnet_jax import run_folder  # noqa: E402
from resnet_jax.train import provenance  # noqa: E402
from tests.faults import rows  # noqa: E402
from tests.faults.outcome import Outcome  # noqa: E402

HEADINGS = ("#", "fault", "rounds", "survived", "lost", "bit-identical", "promise", "measured")
# The terminal has no room for the last two.
SHOWN = 6


def cells(outcome: Outcome) -> list[str]:
    """A row of the table as text."""
    return [
        str(outcome.row),
        outcome.fault,
        str(outcome.rounds),
        str(outcome.survived),
        str(outcome.lost),
        f"{outcome.identical}/{outcome.compared}" if outcome.compared else "",
        outcome.promise,
        f"skipped: {outcome.skipped}" if outcome.skipped else outcome.note,
    ]


def processor_seconds() -> float:
    """What this process and those that it started have taken."""
    return sum(os.times()[:4])


def circumstances(rounds: int) -> dict[str, Any]:
    """What a reader of the figures needs to know."""
    return {
        "date": run_folder.now(),
        "rounds_wanted": rounds,
        **provenance.circumstances(),
    }


def markdown(outcomes: list[Outcome], about: dict[str, Any]) -> str:
    """The table as it stands in docs/reliability.md, with where the numbers come from."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(o)).replace("\n", " ") + " |" for o in outcomes]
    hardware = about["hardware"]
    lines += [
        "",
        f"{about['date']}, commit {about['commit']}, {hardware['processor']}, "
        f"{hardware['usable_cores']} cores, JAX {about['versions']['jax']}, "
        f"orbax-checkpoint {about['versions']['orbax-checkpoint']}.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Exit code 0 if every promise was kept, else 1."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often each fault is tried")
    parser.add_argument("--rows", default="", help="numbers with commas; all without it")
    parser.add_argument("--out", type=Path, help="where faults.json and faults.md are written")
    options = parser.parse_args(argv)
    tfds.disable_progress_bar()
    wanted = [int(number) for number in options.rows.split(",") if number] or list(rows.ROWS)
    console, outcomes = rich.console.Console(), []
    shared = Path(tempfile.mkdtemp(prefix="faults-"))
    (shared / "compiled").mkdir()
    for number in wanted:
        began, used = time.monotonic(), processor_seconds()
        folder = shared / f"row{number}"
        folder.mkdir()
        outcome = rows.ROWS[number](options.rounds, folder)
        outcomes.append(outcome)
        verdict = "skipped" if outcome.skipped else "kept" if outcome.kept else "NOT KEPT"
        console.print(
            f"row {number}: {verdict}, {outcome.survived}/{outcome.rounds} survived, "
            f"{time.monotonic() - began:.0f} s, of the processor {processor_seconds() - used:.0f}  "
            f"{outcome.note}",
            markup=False,
        )
    about = circumstances(options.rounds)
    table = rich.table.Table(*HEADINGS[:SHOWN], title="Faults")
    for outcome in outcomes:
        table.add_row(*cells(outcome)[:SHOWN])
    console.print(table, markup=False)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        told = {**about, "rows": [dataclasses.asdict(outcome) for outcome in outcomes]}
        (options.out / "faults.json").write_text(json.dumps(told, indent=2) + "\n")
        (options.out / "faults.md").write_text(markdown(outcomes, about))
    broken = [outcome for outcome in outcomes if not (outcome.kept or outcome.skipped)]
    if broken:
        console.print(f"what was left lies in {shared}", markup=False)
    else:
        shutil.rmtree(shared)
    return 1 if broken else 0


if __name__ == "__main__":
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns of folders opened to read
    logging.getLogger("resnet_jax").setLevel(logging.ERROR)  # and we of damage, done on purpose
    sys.exit(main(sys.argv[1:]))
