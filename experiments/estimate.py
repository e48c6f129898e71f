"""`--dry-run`: a grid's runs with their parameters, multiply-adds and an estimate of time.

python -m experiments.estimate CONFIG.json     # one net, measured; prints JSON
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table

from experiments import slots
from experiments.plan import PlannedRun
from resnet_jax.config import load_json, to_json

STEPS = 3


def show(runs: Sequence[PlannedRun], slot: slots.Slot, places: int) -> None:
    """Prints the grid; times a few steps of each kind of net.

    Args:
        runs: of the sweep.
        slot: where they are timed.
        places: how many would run at a time.
    """
    console = rich.console.Console()
    measured: dict[str, dict[str, Any]] = {}
    table = rich.table.Table(title=f"{len(runs)} runs on {places} place(s)")
    for heading in ("run", "state", "parameters", "multiply-adds", "steps left", "time"):
        table.add_column(heading, justify="left" if heading in ("run", "state") else "right")
    total = 0.0
    for run in runs:
        net = repr((run.config.model, run.config.data.resize, run.config.train.batch_size))
        if net not in measured:
            with console.status(f"timing {STEPS} steps of {run.name}"):
                measured[net] = _measure_apart(run, slot)
        status, cost = run.status, measured[net]
        left = 0 if run.is_finished else status["steps"] - status["step"]
        seconds = left * cost["seconds_per_step"]
        total += seconds
        table.add_row(
            run.name,
            status["state"],
            f"{cost['parameters']:,}",
            f"{cost['multiply_adds'] / 1e6:.1f} M",
            str(left),
            f"{seconds / 60:.1f} min",
        )
    console.print(table)
    console.print(
        f"about {total / 60 / places:.1f} min in all, evaluations and compilation apart "
        f"({STEPS} steps of each net were timed)"
    )


def _measure_apart(run: PlannedRun, slot: slots.Slot) -> dict[str, Any]:
    """Measures in a process of its own, on the cores or the device that a run would have."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.json"
        path.write_text(to_json(run.config))
        done = subprocess.run(
            [sys.executable, "-m", "experiments.estimate", str(path)],
            capture_output=True,
            text=True,
            **slots.placement(slot, run.config),
        )
    if done.returncode:
        raise RuntimeError(f"{run.name} cannot be measured: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(path: pathlib.Path) -> dict[str, Any]:
    """Counts a net's parameters and multiply-adds for one image, and times its training step."""
    import jax

    from resnet_jax.models import complexity, registry
    from resnet_jax.train.setup import Experiment

    experiment = Experiment.prepare(load_json(path))
    state = experiment.placed(experiment.state)
    start = 0.0
    with contextlib.closing(experiment.batches(0, (1 + STEPS) * experiment.steps_per_call)) as made:
        for batch in made:
            (state,) = experiment.train_program(state, experiment.arrays, batch)
            jax.block_until_ready(state)
            start = start or time.perf_counter()  # after the first call, which compiles
    elapsed = time.perf_counter() - start
    shape = (1, *experiment.seen_shape)
    return {
        "parameters": registry.count_parameters(experiment.state.params),
        "multiply_adds": complexity.multiply_adds(
            experiment.net.apply, experiment.state.params, experiment.state.stats, shape
        ),
        "seconds_per_step": elapsed / STEPS / experiment.steps_per_call,
    }


if __name__ == "__main__":
    print(json.dumps(measure(pathlib.Path(sys.argv[1]))))
