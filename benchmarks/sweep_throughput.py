"""How long a sweep of four runs takes: one after the other, and several at a time.

    python -m benchmarks.sweep_throughput [--jobs=1,2] [--depth=20] [--steps=200] [--rounds=3]

Runs `python -m experiments.degradation` on digits, start-up and report included, in turn with each
number of jobs. One job has all cores of the process; several share them.
"""

import statistics
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import record, worker

_JOBS = flags.DEFINE_list("jobs", ["1", "2"], "Runs at a time; the first is compared with.")
_DEPTH = flags.DEFINE_integer("depth", 20, "Of all four nets.")
_STEPS = flags.DEFINE_integer("steps", 200, "Of each run.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def seconds_of_sweep(jobs: int) -> float:
    """A sweep of four seeds, from command to report."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        worker.output(
            "experiments.degradation", f"--workdir={folder}/sweep", "--config=configs/digits.py",
            "--families=residual", f"--depths={_DEPTH.value}", "--seeds=0,1,2,3", f"--jobs={jobs}",
            f"--config.train.steps={_STEPS.value}", f"--config.train.eval_interval={_STEPS.value}",
        )  # fmt: skip
        return time.perf_counter() - start


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    jobs = [int(text) for text in _JOBS.value]
    seconds: dict[int, list[float]] = {count: [] for count in jobs}
    seconds_of_sweep(jobs[0])  # fills the compilation cache
    for _ in range(_ROUNDS.value):
        for count in jobs:
            seconds[count].append(seconds_of_sweep(count))
    rows: list[dict[str, Any]] = [
        {
            "jobs": count,
            "seconds": seconds[count],
            "speed_up": statistics.median(
                a / b for a, b in zip(seconds[jobs[0]], seconds[count], strict=True)
            ),
        }
        for count in jobs
    ]
    settings = {"depth": _DEPTH.value, "steps": _STEPS.value, "runs": 4}
    report = {**record.about("flax"), **settings, "sweeps": rows}
    table = record.markdown(
        f"A sweep of four ResNet-{_DEPTH.value} on digits, {_STEPS.value} steps of 128, median of "
        f"{_ROUNDS.value}.",
        report,
        {"jobs": "d", "seconds": ".0f", f"times faster than {jobs[0]} job": ".2f"},
        [[r["jobs"], statistics.median(r["seconds"]), r["speed_up"]] for r in rows],
    )
    record.write(_OUT.value, "sweep_throughput", report, table)


if __name__ == "__main__":
    app.run(main)
