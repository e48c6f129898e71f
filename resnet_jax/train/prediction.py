"""A trained run's classes for images it has never seen, from the run's folder alone."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from resnet_jax import run_folder
from resnet_jax.config import ParallelConfig, load_json
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import checkpoint
from resnet_jax.train.setup import initial_state
from resnet_jax.train.step import prediction_program

# Images in one call of the program; fewer are filled up, so that it is compiled once.
BATCH = 16


def predict(
    workdir: pathlib.Path, images: Sequence[pathlib.Path], *, which: str = "last", top: int = 5
) -> dict[str, Any]:
    """Classifies image files.

    Args:
        workdir: a run's folder.
        images: files, see `Preprocessing.image`.
        which: 'last' checkpoint, or 'best' on val.
        top: how many classes to tell for each image; all, if there are fewer.

    Returns:
        The checkpoint's step, and for each image its path and its most probable classes with their
        probabilities, the most probable first.

    Raises:
        InputError: if the folder is no trained run's, or an image cannot be read.
    """
    config = load_json(workdir / run_folder.CONFIG)
    checkpoints, step = checkpoint.of_run(workdir, which)
    preprocessing = Preprocessing.load(workdir / run_folder.PREPROCESSING)
    # All files are read before anything is compiled: a mistake is told at once.
    pixels = np.stack([preprocessing.image(path) for path in images])
    names = preprocessing.class_names
    apply, _, state = initial_state(
        config, channels=preprocessing.image_shape[-1], num_classes=len(names)
    )
    state = checkpoints.restore(step, like=state)
    devices = DeviceMap(ParallelConfig(devices=1))
    program = devices.compile(
        prediction_program(apply), inputs=(None, None, 0, None, None), outputs=(0,)
    )
    statistics = preprocessing.normalization
    logits = []
    for first in range(0, len(pixels), BATCH):
        part = pixels[first : first + BATCH]
        filled = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)])
        (scores,) = program(state.params, state.stats, filled, statistics.mean, statistics.std)
        logits.append(np.asarray(scores, np.float64)[: len(part)])
    probabilities = scipy.special.softmax(np.concatenate(logits), axis=1)
    return {
        "step": step,
        "images": [
            {
                "image": str(path),
                "classes": [
                    {"class": names[label], "probability": float(row[label])}
                    for label in np.argsort(-row, kind="stable")[:top]
                ],
            }
            for path, row in zip(images, probabilities, strict=True)
        ],
    }
