"""Several seeds of one net on one device: one after the other, or in one program, or by threads.

    python -m benchmarks.seeds_at_once [--seeds=2,4] [--depth=20]

`one by one` makes a step of each seed in turn; `vmap` and `map` (`lax.map`) are one program for all
seeds, with and without batching their operations; `threads` calls the program of one seed from a
thread for each. Processes, which the runner of sweeps uses, are `benchmarks.sweep_throughput`'s.
All by XLA alone, for the CPU extension has no batched operations.
"""

import concurrent.futures
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks import record, worker
from resnet_jax import native
from resnet_jax.config import validate

_SEEDS = flags.DEFINE_list("seeds", ["2", "4"], "How many at once.")
_DEPTH = flags.DEFINE_integer("depth", 20, "Of the net.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in each step of one seed.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps in each measurement.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: which way this process measures.")

WAYS = ("one by one", "threads", "map", "vmap")


def measure(way: str, seeds: int) -> list[float]:
    """Images a second of all seeds together, in this process, by rounds."""
    config = validate(
        {
            "model": {"depth": _DEPTH.value},
            "data": {"name": "synthetic"},
            "train": {"batch_size": _BATCH.value, "steps_per_call": 1},
            "parallel": {"devices": 1},
        }
    )
    os.environ[native.SWITCH] = "0"
    worker.prepare(config)
    import jax
    import numpy as np

    from resnet_jax.data.order import TrainingOrder
    from resnet_jax.parallel import AXIS
    from resnet_jax.train import optimizer
    from resnet_jax.train.setup import Experiment
    from resnet_jax.train.step import training_program

    experiment = Experiment.prepare(config)
    tx = optimizer.build(config.optimizer, config.train.steps)
    function = training_program(config, experiment.apply, tx)
    named = jax.vmap(function, in_axes=None, out_axes=None, axis_name=AXIS, axis_size=1)
    count = experiment.feed.sizes["train"]
    orders = [TrainingOrder(count, _BATCH.value, seed) for seed in range(seeds)]
    place = experiment.devices.replicate
    arrays = [{**experiment.arrays, "seed": place(np.uint32(seed))} for seed in range(seeds)]
    states = [experiment.placed(experiment.state) for _ in range(seeds)]
    turns = [np.stack([o.batches(step, 1) for o in orders]) for step in range(_STEPS.value)]
    steps: Callable[[], None]

    if way in ("map", "vmap"):
        together = place(jax.tree.map(lambda *values: np.stack(values), *states))
        shared = {name: value for name, value in arrays[0].items() if name != "seed"}
        numbers = place(np.arange(seeds, dtype=np.uint32))

        def one(seed: Any, state: Any, batch: Any) -> Any:
            return named(state, {**shared, "seed": seed}, batch)[0]

        mapped = jax.vmap(one) if way == "vmap" else lambda *xs: jax.lax.map(lambda x: one(*x), xs)
        program = jax.jit(mapped, donate_argnums=1)

        def steps() -> None:
            nonlocal together
            for batches in turns:
                together = program(numbers, together, batches)
            jax.block_until_ready(together)

    else:
        program = jax.jit(named, donate_argnums=0)

        def of_seed(seed: int) -> None:
            for batches in turns:
                (states[seed],) = program(states[seed], arrays[seed], batches[seed])
            jax.block_until_ready(states[seed])

        if way == "threads":
            pool = concurrent.futures.ThreadPoolExecutor(seeds)

            def steps() -> None:
                list(pool.map(of_seed, range(seeds)))

        else:

            def steps() -> None:
                for seed in range(seeds):
                    of_seed(seed)

    rates = []
    for turn in range(_ROUNDS.value + 1):
        start = time.perf_counter()
        steps()
        if turn:  # the first one compiles
            images = _STEPS.value * seeds * _BATCH.value
            rates.append(images / (time.perf_counter() - start))
    return rates


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    counts = [int(text) for text in _SEEDS.value]
    if _WORKER.value:
        print(json.dumps(measure(_WORKER.value, counts[0])))
        return
    own = [f"--{flag.name}={flag.value}" for flag in (_DEPTH, _BATCH, _ROUNDS, _STEPS)]
    rows: list[dict[str, Any]] = []
    for count in counts:
        for way in WAYS:
            printed = worker.output(
                "benchmarks.seeds_at_once", f"--worker={way}", f"--seeds={count}", *own
            )
            rates = json.loads(printed.splitlines()[-1])
            rows.append({"seeds": count, "way": way, "rates": rates})
    first = {r["seeds"]: statistics.median(r["rates"]) for r in rows if r["way"] == WAYS[0]}
    report = {**record.about("flax"), "depth": _DEPTH.value, "ways": rows}
    table = record.markdown(
        f"Seeds of ResNet-{_DEPTH.value} at once, batch {_BATCH.value} each, median of "
        f"{_ROUNDS.value} times {_STEPS.value} steps.",
        report,
        {"seeds": "d", "way": "s", "images/s together": ".0f", "of one by one": ".2f"},
        [
            [r["seeds"], r["way"], median, median / first[r["seeds"]]]
            for r in rows
            for median in [statistics.median(r["rates"])]
        ],
    )
    record.write(_OUT.value, "seeds_at_once", report, table)


if __name__ == "__main__":
    app.run(main)
