"""What depth costs before the first step: tracing, program size, compilation, peak memory.

    python -m benchmarks.compilation [--depths=20,56,110,1202] [--compile_up_to=110]

Each net is a process of its own, without a compilation cache. Unrolled, and with the blocks that
are alike as a loop (`train.block_loop`), whose program has one size for any depth; loops are for
accelerators, so on CPU the second is traced and lowered but compiled only up to --compile_up_to.
"""

import json
import resource
import time
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import record, worker
from resnet_jax import environment
from resnet_jax.config import validate

_DEPTHS = flags.DEFINE_list("depths", ["20", "56", "110", "1202"], "Nets, each of depth 6n + 2.")
_COMPILE = flags.DEFINE_integer("compile_up_to", 110, "Deeper programs are only lowered.")
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: which loop this process measures.")


def measure(depth: int, loop: str) -> dict[str, Any]:
    """One net's program, in this process."""
    config = validate(
        {
            "model": {"depth": depth},
            "data": {"name": "synthetic"},
            "train": {"block_loop": loop},
            "parallel": {"devices": 1},
        }
    )
    worker.prepare(config)
    from resnet_jax.train.setup import Experiment

    start = time.perf_counter()
    experiment = Experiment.prepare(config)
    prepared = time.perf_counter()
    examples = np.zeros((1, config.train.batch_size), np.int32)
    program: Any = experiment.train_program
    traced = program.trace(experiment.placed(experiment.state), experiment.arrays, examples)
    at_traced = time.perf_counter()
    lowered = traced.lower()
    at_lowered = time.perf_counter()
    row: dict[str, Any] = {
        "depth": depth,
        "loop": loop == "always",
        "build_seconds": prepared - start,
        "trace_seconds": at_traced - prepared,
        "lower_seconds": at_lowered - at_traced,
        "program_lines": lowered.as_text().count("\n"),
        "compile_seconds": None,
    }
    if depth <= _COMPILE.value:
        compile_start = time.perf_counter()
        lowered.compile()
        row["compile_seconds"] = time.perf_counter() - compile_start
    row["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    if _WORKER.value:
        print(json.dumps(measure(int(_DEPTHS.value[0]), _WORKER.value)))
        return
    rows = []
    for depth in _DEPTHS.value:
        for loop in ("never", "always"):
            printed = worker.output(
                "benchmarks.compilation",
                f"--worker={loop}",
                f"--depths={depth}",
                f"--compile_up_to={_COMPILE.value}",
                variables={environment.CACHE: ""},  # an empty name: no cache
            )
            rows.append(json.loads(printed))
    report = {**record.about("flax"), "nets": rows}
    columns = {
        "depth": "d",
        "blocks": "s",
        "build s": ".1f",
        "trace s": ".1f",
        "lower s": ".1f",
        "lines of program": ",",
        "compile s": ".1f",
        "peak MB": ",.0f",
    }
    table = record.markdown(
        "Before the first step; ResNets of He et al. 2015, batch 128, one process each, no cache.",
        report,
        columns,
        [
            [
                row["depth"],
                "in a loop" if row["loop"] else "unrolled",
                *(row[f"{name}_seconds"] for name in ("build", "trace", "lower")),
                row["program_lines"],
                row["compile_seconds"],
                row["peak_megabytes"],
            ]
            for row in rows
        ],
    )
    record.write(_OUT.value, "compilation", report, table)


if __name__ == "__main__":
    app.run(main)
