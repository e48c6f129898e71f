"""How long a sweep of equal runs takes: one after the other, several at a time, on Ray.

    python -m benchmarks.sweep_throughput [--ways=1,2] [--runs=4] [--depth=20] [--steps=200]
    python -m benchmarks.sweep_throughput --ways=2,ray --runs=8 --rounds=3

Runs `python -m experiments.degradation` on digits, start-up and report included, in each way in
turn. A number is that of local jobs: one has all cores of the process, several share them. `ray` is
a cluster on this machine's cores, which starts and ends with the sweep.
"""

import statistics
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import record, worker

_WAYS = flags.DEFINE_list("ways", ["1", "2"], "Numbers of jobs, or ray; the first is compared to.")
_RUNS = flags.DEFINE_integer("runs", 4, "Of the sweep.", lower_bound=1)
_DEPTH = flags.DEFINE_integer("depth", 20, "Of all nets.")
_STEPS = flags.DEFINE_integer("steps", 200, "Of each run.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def seconds_of_sweep(way: str, runs: int) -> float:
    """A sweep of equal runs, from command to report."""
    seeds = ",".join(map(str, range(runs)))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        worker.output(
            "experiments.degradation", f"--workdir={folder}/sweep", "--config=configs/digits.py",
            "--families=residual", f"--depths={_DEPTH.value}", f"--seeds={seeds}",
            "--executor=ray" if way == "ray" else f"--jobs={way}",
            f"--config.train.steps={_STEPS.value}", f"--config.train.eval_interval={_STEPS.value}",
        )  # fmt: skip
        return time.perf_counter() - start


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    ways = _WAYS.value
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    seconds_of_sweep(ways[0], runs=1)  # fills the compilation cache
    for _ in range(_ROUNDS.value):
        for way in ways:
            seconds[way].append(seconds_of_sweep(way, _RUNS.value))
    rows: list[dict[str, Any]] = [
        {
            "way": way,
            "seconds": seconds[way],
            "speed_up": statistics.median(
                a / b for a, b in zip(seconds[ways[0]], seconds[way], strict=True)
            ),
        }
        for way in ways
    ]
    settings = {"depth": _DEPTH.value, "steps": _STEPS.value, "runs": _RUNS.value}
    report = {**record.about("flax"), **settings, "sweeps": rows}
    names = {way: "Ray" if way == "ray" else f"{way} local job(s)" for way in ways}
    table = record.markdown(
        f"A sweep of {_RUNS.value} ResNet-{_DEPTH.value} on digits, {_STEPS.value} steps of 128, "
        f"median of {_ROUNDS.value}.",
        report,
        {"way": "s", "seconds": ".0f", f"times as fast as {names[ways[0]]}": ".2f"},
        [[names[r["way"]], statistics.median(r["seconds"]), r["speed_up"]] for r in rows],
    )
    name = "sweep_on_ray" if "ray" in ways else "sweep_throughput"
    record.write(_OUT.value, name, report, table)


if __name__ == "__main__":
    app.run(main)
