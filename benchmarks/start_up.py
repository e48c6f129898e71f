"""From the command line to the first step: without and with the compilation cache.

    python -m benchmarks.start_up [--depths=20,110] [--rounds=3]

Starts `python -m resnet_jax.main` on digits and waits for its first record, which is that of step
1; each round once with an empty cache and once with the one that this has filled.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import record
from resnet_jax import environment, run_folder

_DEPTHS = flags.DEFINE_list("depths", ["20", "110"], "Nets, each of depth 6n + 2.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def seconds_to_first_step(depth: int, cache: str) -> float:
    """Starts a run, and ends it once its first step is logged."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "resnet_jax.main", "--config=configs/digits.py",
                f"--workdir={workdir}", f"--config.model.depth={depth}",
                "--config.log.interval=1", "--config.parallel.devices=1",
            ],
            env={**os.environ, environment.CACHE: cache},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not run_folder.read_records(workdir / run_folder.METRICS):
                if process.poll() is not None:
                    raise SystemExit(f"error: the run ended with code {process.returncode}")
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    rows: list[dict[str, Any]] = []
    for depth in map(int, _DEPTHS.value):
        cold, warm = [], []
        for _ in range(_ROUNDS.value):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(seconds_to_first_step(depth, cache))
                warm.append(seconds_to_first_step(depth, cache))
        rows.append({"depth": depth, "cold": cold, "warm": warm})
    report = {**record.about("flax"), "nets": rows}
    table = record.markdown(
        f"From the command to the first step, digits, batch 128, median of {_ROUNDS.value}.",
        report,
        {"depth": "d", "empty cache, s": ".1f", "filled cache, s": ".1f"},
        [[r["depth"], statistics.median(r["cold"]), statistics.median(r["warm"])] for r in rows],
    )
    record.write(_OUT.value, "start_up", report, table)


if __name__ == "__main__":
    app.run(main)
