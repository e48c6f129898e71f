"""Reading a log while it is written, by a process that is killed again and again."""

import random
import subprocess
import sys
from pathlib import Path

from resnet_jax import run_folder
from tests.faults import commands
from tests.faults.outcome import Outcome, Tally

# Records of one file: short, so that a read of all of it stays quick.
STEPS = 150
READS_A_ROUND = 20_000
# Writes as a run does, and goes on after what stands there as a run does after its checkpoint.
WRITER = """
import pathlib, sys, time
from resnet_jax import run_folder
from resnet_jax.metrics.writer import MetricsWriter
workdir, steps, pause = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
found = run_folder.read_records(workdir / run_folder.METRICS)
after = max([r["step"] for r in found], default=1) - 1
writer = MetricsWriter(workdir, after_step=after)
for step in range(after + 1, steps + 1):
    error = float("nan") if step % 7 == 0 else 50.0
    writer.write(step, "train", {"loss": 1 / step, "error": error})
    time.sleep(pause)
writer.close()
"""


def read_while_written(rounds: int, folder: Path) -> Outcome:
    """Row 15."""
    tally, dice, reads = Tally(), random.Random(15), 0
    (folder / "writer.py").write_text(WRITER)
    for number in range(rounds):
        workdir = folder / f"run{number}"
        workdir.mkdir()
        path = workdir / run_folder.METRICS
        kills_left = 1
        with tally.case(f"reader and kill {number}") as case:
            process = _write(folder / "writer.py", workdir)
            moment = dice.randrange(1, STEPS)
            count, enough = 0, READS_A_ROUND
            while count < enough or process.poll() is None:
                found = run_folder.read_records(path)
                count += 1
                steps = [record["step"] for record in found]
                assert steps == list(range(1, len(steps) + 1)), f"read {steps[-3:]}"
                assert all(r["loss"] == 1 / r["step"] for r in found[-3:])
                if kills_left and len(found) >= moment:
                    process.kill()
                    process.wait()
                    if dice.random() < 0.5:  # as if the machine had stopped within a write
                        with path.open("ab") as file:
                            file.write(b'{"step": 99, "spl')
                    kills_left = 0
                    process = _write(folder / "writer.py", workdir)
            assert process.returncode == 0 and not kills_left
            reads += count
            whole = run_folder.read_records(path)
            case.lost = STEPS - len(whole)
            assert [(r["step"], r["split"]) for r in whole] == [
                (step, "train") for step in range(1, STEPS + 1)
            ]
            assert all((r["error"] is None) == (r["step"] % 7 == 0) for r in whole)
        process.kill()
        process.wait()
    return tally.outcome(
        15,
        "a log read without pause while it is written, its writer killed with -9",
        "no read fails or shows a wrong record; every record once at the end",
        note=f"{reads:,} reads",
    )


def _write(script: Path, workdir: Path) -> "subprocess.Popen[bytes]":
    pause = 0.002
    command = [sys.executable, str(script), str(workdir), str(STEPS), str(pause)]
    return subprocess.Popen(command, env=commands.environment(workdir.parent))
