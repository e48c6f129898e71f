"""A trained run's classes for images it has never seen, from the run's folder alone."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from resnet_jax import run_folder
from resnet_jax.config import ParallelConfig, RunConfig, load_json
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.models import registry
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import checkpoint
from resnet_jax.train.inference import prediction_program
from resnet_jax.train.initial import initial_state
from resnet_jax.train.state import TrainState

# Images in one call of the program; fewer are filled up, so that it is compiled once.
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Request:
    """A trained run and images for its net; no net is built yet.

    Attributes:
        config: of the run.
        step: of the checkpoint.
        preprocessing: what the net expects of an image, and its classes.
        pixels: the images, uint8 [images, height, width, channels].
        checkpoints: of the run.
    """

    config: RunConfig
    step: int
    preprocessing: Preprocessing
    pixels: np.ndarray
    checkpoints: checkpoint.Checkpoints

    @classmethod
    def read(cls, workdir: pathlib.Path, images: Sequence[pathlib.Path], which: str) -> "Request":
        """Reads all that the user can be wrong about, before anything is compiled.

        Args:
            workdir: a run's folder.
            images: files, see `Preprocessing.image`.
            which: 'last' checkpoint, or 'best' on val.

        Raises:
            InputError: if the folder is no trained run's, or an image cannot be read.
        """
        config = load_json(workdir / run_folder.CONFIG)
        checkpoints, step = checkpoint.of_run(workdir, which)
        preprocessing = Preprocessing.load(workdir / run_folder.PREPROCESSING)
        pixels = np.stack([preprocessing.image(path) for path in images])
        return cls(config, step, preprocessing, pixels, checkpoints)

    def restored(self) -> tuple[registry.Apply, TrainState]:
        """The net as a pure function, and the checkpoint's state.

        Raises:
            InputError: if JAX is not set to the net's precision.
        """
        net, _, state = initial_state(
            self.config,
            channels=self.preprocessing.image_shape[-1],
            num_classes=len(self.preprocessing.class_names),
        )
        return net.apply, self.checkpoints.restore(self.step, like=state)


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
    request = Request.read(workdir, images, which)
    pixels, names = request.pixels, request.preprocessing.class_names
    apply, state = request.restored()
    devices = DeviceMap(ParallelConfig(devices=1))
    program = devices.compile(
        prediction_program(request.config.data, apply),
        inputs=(None, None, 0, None, None),
        outputs=(0,),
    )
    statistics = request.preprocessing.normalization
    logits = []
    for first in range(0, len(pixels), BATCH):
        part = pixels[first : first + BATCH]
        filled = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)])
        (scores,) = program(*state.evaluated, filled, statistics.mean, statistics.std)
        logits.append(np.asarray(scores, np.float64)[: len(part)])
    probabilities = scipy.special.softmax(np.concatenate(logits), axis=1)
    return {
        "step": request.step,
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
