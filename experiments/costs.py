"""What the nets of a sweep cost, measured when all runs are done."""

import subprocess
import sys
from collections.abc import Sequence

from experiments.plan import PlannedRun
from resnet_jax import run_folder
from resnet_jax.terminal import CONSOLE


def measure(runs: Sequence[PlannedRun]) -> None:
    """Measures what each net costs, one after another, when nothing else is computed."""
    done = set()
    for planned in runs:
        net = planned.name.rpartition("-seed")[0]
        cost = planned.folder / run_folder.ANALYSIS / run_folder.INFERENCE
        if net in done or not planned.is_finished:
            continue
        done.add(net)
        if cost.is_file():
            continue
        CONSOLE.print(f"measuring what {planned.name} costs", highlight=False)
        command = [sys.executable, "-m", "resnet_jax.analysis.inference"]
        # Where it cannot be measured, it has said why, and the report has a dash.
        subprocess.run([*command, f"--workdir={planned.folder}"], check=False, stdout=sys.stderr)
