"""What programs are fed with: indices of images on the devices, or the images themselves."""

import dataclasses
from collections.abc import Generator
from typing import Protocol

import numpy as np

from resnet_jax.data.order import TrainingOrder

# A host among those that train together: (index, count).
Host = tuple[int, int]
ALONE: Host = (0, 1)

# What a compiled program takes of a batch: indices int32 [..., batch] into the resident arrays, or
# a mapping with `images` uint8 [..., batch, height, width, channels], `labels` and `examples` int32
# [..., batch], the latter naming each image's random keys.
Inputs = np.ndarray | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """One batch of a split, in its order.

    Attributes:
        inputs: for the program.
        mask: bool [batch], False for filling, and for images that cannot be read.
        labels: int32 [batch].
        ids: str [batch].
    """

    inputs: Inputs
    mask: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class Feed(Protocol):
    """A data set as a run uses it: `pipeline.Resident` or `stream.Streamed`.

    Where several hosts train together, each has its equal share of every batch.
    """

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What every device has a copy of: `mean` and `std`; resident `images` and `labels`."""

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples each split has."""

    @property
    def unreadable(self) -> dict[str, dict[str, str]]:
        """Of each split, the ids of damaged images found so far, and what is wrong."""

    @property
    def made_per_second(self) -> float:
        """Images that could have been made, of late, in a second; NaN if none are."""

    def training(
        self, order: TrainingOrder, first: int, steps: int, per_call: int
    ) -> Generator[Inputs]:
        """Each call's batches from step `first` up to `steps`: inputs [per_call, batch].

        Raises:
            InputError: if images cannot be read, or too many are damaged.
        """

    def evaluation(self, split: str, batch_size: int) -> Generator[EvaluationBatch]:
        """Every example of a split once, in order, the last batch filled up."""

    def images(self, split: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A few images, as evaluation sees them, and their labels, by their places in a split."""

    def at_most(self, split: str, examples: int) -> "Feed":
        """The same with the first examples of one split alone."""
