"""What the training loop costs over the bare compiled step, on the same machine.

    python -m benchmarks.loop_overhead [--config=configs/cifar_resnet20.py] [--rounds=5]

Runs the two in turn, so that a machine whose speed drifts slows both alike: some bare steps, which
read nothing back and write nothing, then a whole run of as many, with its batches, and records,
event files and checkpoints as often as the config has them. Evaluations are left out of the loop's
time, as in the speed that a run shows. Medians, and of the ratio.
"""

import pathlib
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

from absl import app
from absl import flags as absl_flags
from ml_collections import config_flags

from benchmarks import record, worker
from resnet_jax import config as run_config

if TYPE_CHECKING:  # it imports JAX, before which the environment is prepared
    from resnet_jax.train.setup import Experiment

_CONFIG = config_flags.DEFINE_config_file("config", "configs/digits.py", "The run's config file.")
_STEPS = absl_flags.DEFINE_integer("steps", 100, "Steps in each measurement.", lower_bound=1)
_ROUNDS = absl_flags.DEFINE_integer("rounds", 5, "Measurements of each.", lower_bound=1)
_OUT = absl_flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def bare_step_rate(experiment: "Experiment", steps: int) -> float:
    """Images per second of the compiled step alone, its batches chosen beforehand."""
    import jax

    from resnet_jax.data.order import TrainingOrder

    train = experiment.config.train
    order = TrainingOrder(experiment.feed.sizes["train"], train.batch_size, train.seed)
    per_call = experiment.steps_per_call
    batches = [order.batches(first, per_call) for first in range(0, steps, per_call)]
    state = experiment.placed(experiment.state)
    (state,) = experiment.train_program(state, experiment.arrays, batches[0])
    jax.block_until_ready(state)
    start = time.perf_counter()
    for examples in batches:
        (state,) = experiment.train_program(state, experiment.arrays, examples)
    jax.block_until_ready(state)
    return len(batches) * per_call * train.batch_size / (time.perf_counter() - start)


def loop_rate(experiment: "Experiment") -> float:
    """Images per second of a whole run: batches, records, event files, checkpoints."""
    from resnet_jax.train.loop import Attempt

    with tempfile.TemporaryDirectory() as folder:
        attempt = Attempt(experiment, pathlib.Path(folder))
        attempt.finish()
    train = experiment.config.train
    return train.steps * train.batch_size / attempt.progress.seconds


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    config = _CONFIG.value
    config.train.steps = config.train.eval_interval = _STEPS.value
    config.log.progress = False
    valid = run_config.validate(config)
    worker.prepare(valid)
    from resnet_jax.train.setup import Experiment

    experiment = Experiment.prepare(valid)
    bare_step_rate(experiment, experiment.steps_per_call)  # compiles
    bare, loop = [], []
    for _ in range(_ROUNDS.value):
        bare.append(bare_step_rate(experiment, _STEPS.value))
        loop.append(loop_rate(experiment))
    ratios = [b / a for a, b in zip(bare, loop, strict=True)]
    values = {"bare step, img/s": bare, "whole loop, img/s": loop, "loop / bare": ratios}
    report = {**record.about("flax"), "steps": _STEPS.value, **values}
    table = record.markdown(
        f"The training loop over the bare step, {_ROUNDS.value} rounds of {_STEPS.value} steps.",
        report,
        {"": "s", "median": ".3f", "lowest": ".3f", "highest": ".3f"},
        [[name, statistics.median(v), min(v), max(v)] for name, v in values.items()],
    )
    record.write(_OUT.value, "loop_overhead", report, table)


if __name__ == "__main__":
    app.run(main)
