"""Training steps over several devices of this machine, with each way of mapping them.

    python -m benchmarks.scaling [--devices=1,2,4,8] [--depth=20]

On CPU the devices are virtual: they share the cores, so this tells what mapping costs, not what
more hardware would gain. The global batch is the same for all.
"""

import json
import os
import statistics
import time
from typing import Any

from absl import app, flags

from benchmarks import record, worker
from resnet_jax.config import validate

_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "How many.")
_DEPTH = flags.DEFINE_integer("depth", 20, "Of the net.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in each step, over all devices.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in each measurement.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: which mapping this process measures.")


def measure(mapping: str, devices: int) -> list[float]:
    """Images per second of the compiled step, in this process."""
    config = validate(
        {
            "model": {"depth": _DEPTH.value},
            "data": {"name": "synthetic"},
            "train": {"batch_size": _BATCH.value},
            "parallel": {"mapping": mapping, "devices": devices},
        }
    )
    worker.prepare(config)
    # Added to what a run sets, which leaves flags that were there before alone.
    flag = f"--xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax

    from resnet_jax.data.order import TrainingOrder
    from resnet_jax.train.setup import Experiment

    experiment = Experiment.prepare(config)
    order = TrainingOrder(experiment.feed.sizes["train"], _BATCH.value, 0)
    per_call = experiment.steps_per_call
    state = experiment.placed(experiment.state)
    rates = []
    for turn in range(_ROUNDS.value + 1):
        calls = [order.batches(call * per_call, per_call) for call in range(_STEPS.value)]
        start = time.perf_counter()
        for examples in calls:
            (state,) = experiment.train_program(state, experiment.arrays, examples)
        jax.block_until_ready(state)
        if turn:  # the first one compiles
            images = _STEPS.value * per_call * _BATCH.value
            rates.append(images / (time.perf_counter() - start))
    return rates


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    counts = [int(text) for text in _DEVICES.value]
    if _WORKER.value:
        print(json.dumps(measure(_WORKER.value, counts[0])))
        return
    rows: list[dict[str, Any]] = []
    for count in counts:
        for mapping in ("shard_map", "pmap") if count > 1 else ("shard_map",):
            printed = worker.output(
                "benchmarks.scaling",
                f"--worker={mapping}",
                f"--devices={count}",
                *(f"--{flag.name}={flag.value}" for flag in (_DEPTH, _BATCH, _ROUNDS, _STEPS)),
            )
            name = "jit" if count == 1 else mapping
            rows.append({"devices": count, "mapping": name, "rates": json.loads(printed)})
    one = statistics.median(rows[0]["rates"])
    report = {**record.about("flax"), "depth": _DEPTH.value, "mappings": rows}
    table = record.markdown(
        f"ResNet-{_DEPTH.value}, global batch {_BATCH.value}, median of {_ROUNDS.value} times "
        f"{_STEPS.value} calls.",
        report,
        {"devices": "d", "mapping": "s", "images/s": ".0f", "of the first row": ".2f"},
        [
            [r["devices"], r["mapping"], median, median / one]
            for r in rows
            for median in [statistics.median(r["rates"])]
        ],
    )
    record.write(_OUT.value, "scaling", report, table)


if __name__ == "__main__":
    app.run(main)
