"""What a run's net costs when it is used: multiply-adds and time for one image.

    python -m resnet_jax.analysis.inference --workdir=runs/transfer/swin_tiny-224px-seed0
    python -m resnet_jax.analysis.inference --workdir=RUN --batch=1

Times the compiled forward pass in evaluation mode, from stored pixels to logits, on one device:
normalised, resized if the run does so, and through all parts of the net. Neither data set nor
checkpoint is read, for time does not depend on the weights. Nothing else should be computed
meanwhile. Writes RUN/analysis/inference.json, which reports read.

Exit codes: 0, 2 for bad input.
"""

import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from resnet_jax import command, environment, run_folder, terminal
from resnet_jax.analysis.trained import given, keep
from resnet_jax.config import ParallelConfig, load_json
from resnet_jax.data import augment
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.models import complexity, registry
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import provenance
from resnet_jax.train.inference import prediction_program
from resnet_jax.train.initial import initial_state

# Calls that are timed: as many as fit into this time, and no fewer.
SECONDS, LEAST_CALLS = 3.0, 5
BATCH = 32


def measure(workdir: pathlib.Path, *, batch: int = BATCH) -> dict[str, Any]:
    """Counts and times a run's net.

    Args:
        workdir: the run's folder.
        batch: images in a call.

    Returns:
        parameters, of these trained_parameters; multiply_adds for one image; input, the height,
        width and channels that the net sees; milliseconds_per_image, the median over calls, with
        the smallest and largest; batch, calls; and the circumstances.

    Raises:
        InputError: if the folder is no trained run's.
    """
    config = load_json(workdir / run_folder.CONFIG)
    preprocessing = Preprocessing.load(workdir / run_folder.PREPROCESSING)
    shape = preprocessing.image_shape
    net, _, state = initial_state(
        config, channels=shape[-1], num_classes=len(preprocessing.class_names)
    )
    trained, _ = net.cut.divide(state.params)
    seen = augment.seen_shape(config.data, shape)
    devices = DeviceMap(ParallelConfig(devices=1))
    program = devices.compile(
        prediction_program(config.data, net.apply),
        inputs=(None, None, 0, None, None),
        outputs=(0,),
    )
    pixels = np.random.RandomState(0).randint(0, 256, (batch, *shape)).astype(np.uint8)
    normalization = preprocessing.normalization
    arguments = devices.replicate((*state.evaluated, pixels, normalization.mean, normalization.std))
    jax.block_until_ready(program(*arguments))  # compiles
    times: list[float] = []
    while len(times) < LEAST_CALLS or sum(times) < SECONDS:
        begun = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - begun)
    median, least, most = (
        1e3 * seconds / batch for seconds in (statistics.median(times), min(times), max(times))
    )
    return {
        "parameters": registry.count_parameters(state.params),
        "trained_parameters": registry.count_parameters(trained),
        "multiply_adds": complexity.multiply_adds(net.apply, state.params, state.stats, (1, *seen)),
        "input": list(seen),
        "milliseconds_per_image": median,
        "milliseconds_range": [least, most],
        "device": devices.devices[0].device_kind,
        "batch": batch,
        "calls": len(times),
        **provenance.circumstances(),
    }


def main(argv: list[str]) -> None:
    """Measures the run that the flags name, prints and writes it."""
    del argv
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    environment.prepare(load_json(workdir / run_folder.CONFIG))
    report = measure(workdir, batch=_BATCH.value)
    path = keep(workdir, run_folder.INFERENCE, report)
    low, high = report["milliseconds_range"]
    terminal.CONSOLE.print(
        f"{report['multiply_adds'] / 1e6:,.1f} M multiply-adds and "
        f"{report['milliseconds_per_image']:.3g} ms an image ({low:.3g} to {high:.3g}, "
        f"{report['calls']} calls of {report['batch']}); {path}",
        highlight=False,
    )


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _BATCH = flags.DEFINE_integer("batch", BATCH, "Images in a call.", 1)
    command.run(main)
