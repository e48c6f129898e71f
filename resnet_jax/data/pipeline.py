"""Images that lie on the devices, as a run uses them."""

import dataclasses
import math
from collections.abc import Generator, Iterator

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data.augment import Normalization
from resnet_jax.data.datasets import Dataset
from resnet_jax.data.feed import ALONE, EvaluationBatch, Host
from resnet_jax.data.order import TrainingOrder


@dataclasses.dataclass(frozen=True)
class Resident:
    """All splits behind one another in one array, so that every split uses the same program.

    A feed (`feed.Feed`) of indices.

    Attributes:
        arrays: what the compiled programs read: images uint8 [examples, height, width, channels],
            labels int32 [examples], and the normalisation's mean and std.
        starts: where each split begins in them.
        sizes: how many examples each split has.
        ids: the example ids of each split.
        unreadable: none; what is in memory has been read.
        made_per_second: NaN; nothing is made.
        host: whose share of each batch is given.
    """

    arrays: dict[str, np.ndarray]
    starts: dict[str, int]
    sizes: dict[str, int]
    ids: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    made_per_second: float = math.nan
    host: Host = ALONE

    @classmethod
    def of(cls, dataset: Dataset, config: DataConfig, *, host: Host = ALONE) -> "Resident":
        """Lays out a data set; statistics are those of its training split.

        They are fitted after resampling: what is subtracted is the mean of the images that the net
        is trained on, as it would be if the data set had been published that way.

        Args:
            dataset: all of it, on every host: a share of each batch is other images at each step.
            config: how it is normalised.
            host: whose share of each batch is given.
        """
        statistics = Normalization.fit(config.normalization, dataset.train)
        splits = dataset.splits
        sizes = {name: len(split) for name, split in splits.items()}
        ends = np.cumsum(list(sizes.values()))
        starts = {
            name: int(end - size) for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        arrays = {
            "images": np.concatenate([split.images for split in splits.values()]),
            "labels": np.concatenate([split.labels for split in splits.values()]),
            "mean": statistics.mean,
            "std": statistics.std,
        }
        ids = {name: split.ids for name, split in splits.items()}
        return cls(arrays, starts, sizes, ids, host=host)

    def training(
        self, order: TrainingOrder, first: int, steps: int, per_call: int
    ) -> Generator[np.ndarray]:
        """As `feed.Feed`."""
        for step in range(first, steps, per_call):
            yield self._share(order.batches(step, per_call))

    def evaluation(self, split: str, batch_size: int) -> Generator[EvaluationBatch]:
        """As `feed.Feed`."""
        start = self.starts[split]
        for whole, mask in self.padded_batches(split, batch_size):
            examples, mask = self._share(whole), self._share(mask)
            ids = self.ids[split][examples - start]
            yield EvaluationBatch(examples, mask, self.arrays["labels"][examples], ids)

    def _share(self, batch: np.ndarray) -> np.ndarray:
        index, count = self.host
        return np.split(batch, count, axis=-1)[index]

    def images(self, split: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `feed.Feed`."""
        rows = self.starts[split] + examples
        return self.arrays["images"][rows], self.arrays["labels"][rows]

    def at_most(self, split: str, examples: int) -> "Resident":
        """As `feed.Feed`."""
        sizes = {**self.sizes, split: min(examples, self.sizes[split])}
        return dataclasses.replace(self, sizes=sizes)

    def padded_batches(
        self, split: str, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every example of a split once, in order, the last batch filled up.

        Yields:
            Indices int32 [batch] into `arrays`, and a mask bool [batch], False for filling.
        """
        start, size = self.starts[split], self.sizes[split]
        for first in range(0, size, batch_size):
            positions = np.arange(first, first + batch_size)
            yield (start + np.minimum(positions, size - 1)).astype(np.int32), positions < size
