"""What the data pipeline costs: each part alone, beside the training step that it belongs to.

    python -m benchmarks.data_pipeline [--depth=20] [--images=50000] [--steps=20] [--rounds=5]

On random images of CIFAR's size and number. On the device: gather, crop, flip and normalise, as
the training step does, in a program of their own that also writes the batch out. On the host: the
order of an epoch, its permutation included, and an evaluation's batches; the host works while the
device computes, so its time adds to a step's only where it is longer. The parts take turns, so
that a machine whose speed drifts slows all alike. Medians of images/s, and the time for one image
as a share of the training step's.
"""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags

from benchmarks import record, worker
from resnet_jax.config import validate

if TYPE_CHECKING:  # it imports JAX, before which the environment is prepared
    from resnet_jax.train.setup import Experiment

_DEPTH = flags.DEFINE_integer("depth", 20, "Of the net whose step is compared with.")
_IMAGES = flags.DEFINE_integer("images", 50_000, "In the training split.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in each step.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps in each, on the device.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")

STEP = "training step"


def parts(experiment: "Experiment") -> dict[str, Callable[[], int]]:
    """What is measured: functions that work and tell for how many images."""
    import jax

    from resnet_jax.data import augment
    from resnet_jax.data.order import TrainingOrder
    from resnet_jax.data.pipeline import Resident

    config, per_call = experiment.config, experiment.steps_per_call
    size, count = config.train.batch_size, _IMAGES.value
    random = np.random.RandomState(0)
    images: dict[str, np.ndarray] = {
        "images": random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8),
        "labels": random.randint(0, 10, count).astype(np.int32),
    }
    arrays = {**experiment.arrays, **experiment.devices.replicate(images)}
    resident = Resident(images, starts={"train": 0}, sizes={"train": count})
    order = TrainingOrder(count, size, seed=0)
    batches = [order.batches(first, per_call) for first in range(0, _STEPS.value, per_call)]
    steps = len(batches) * per_call
    state = experiment.placed(experiment.state)

    @jax.jit
    def augmented(arrays: dict[str, jax.Array], examples: jax.Array) -> jax.Array:
        def one_batch(examples: jax.Array) -> jax.Array:
            # Training folds the step in too, so that its keys are never the same again.
            key = jax.random.key(arrays["seed"])
            batch = arrays["images"][examples]
            mean, std = arrays["mean"], arrays["std"]
            return augment.training_images(config.data, key, batch, examples, mean, std)

        return one_batch(examples[0]) if per_call == 1 else jax.lax.map(one_batch, examples)

    def on_device() -> int:
        jax.block_until_ready([augmented(arrays, examples) for examples in batches])
        return steps * size

    def an_epochs_order() -> int:
        fresh, calls = TrainingOrder(count, size, seed=0), max(count // (size * per_call), 1)
        for call in range(calls):
            fresh.batches(call * per_call, per_call)
        return calls * per_call * size

    def evaluation_batches() -> int:
        for _ in resident.padded_batches("train", config.train.eval_batch_size):
            pass
        return count

    def training_steps() -> int:
        nonlocal state
        for examples in batches:
            (state,) = experiment.train_program(state, arrays, examples)
        jax.block_until_ready(state)
        return steps * size

    return {
        "gather, crop, flip, normalise": on_device,
        "order of an epoch (host)": an_epochs_order,
        f"evaluation's batches of {config.train.eval_batch_size} (host)": evaluation_batches,
        STEP: training_steps,
    }


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    config = validate(
        {
            "model": {"depth": _DEPTH.value},
            "data": {"name": "synthetic"},
            "train": {"batch_size": _BATCH.value},
            "parallel": {"devices": 1},
        }
    )
    worker.prepare(config)
    from resnet_jax.train.setup import Experiment

    measured = parts(Experiment.prepare(config))
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(_ROUNDS.value + 1):
        for name, part in measured.items():
            start = time.perf_counter()
            images = part()
            if turn:  # the first one compiles
                rates[name].append(images / (time.perf_counter() - start))
    rows: list[dict[str, Any]] = [
        {
            "part": name,
            "images_per_second": values,
            "share_of_step": statistics.median(
                step / rate for step, rate in zip(rates[STEP], values, strict=True)
            ),
        }
        for name, values in rates.items()
    ]
    settings = {"depth": _DEPTH.value, "images": _IMAGES.value, "batch_size": _BATCH.value}
    report = {**record.about("flax"), **settings, "parts": rows}
    table = record.markdown(
        f"The data pipeline beside a step of ResNet-{_DEPTH.value}: {_IMAGES.value:,} images of "
        f"32x32x3, batch {_BATCH.value}, median of {_ROUNDS.value}.",
        report,
        {"part": "s", "images/s": ",.0f", "lowest": ",.0f", "highest": ",.0f"}
        | {"time, of a step's": ".2%"},
        [
            [row["part"], statistics.median(v), min(v), max(v), row["share_of_step"]]
            for row in rows
            for v in [row["images_per_second"]]
        ],
    )
    record.write(_OUT.value, "data_pipeline", report, table)


if __name__ == "__main__":
    app.run(main)
