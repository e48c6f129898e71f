"""Which examples a batch holds: a pure function of (seed, step), so resuming needs no iterator."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data.augment import Normalization
from resnet_jax.data.datasets import Dataset


@dataclasses.dataclass(frozen=True)
class Resident:
    """All splits behind one another in one array, so that every split uses the same program.

    Attributes:
        arrays: what the compiled programs read: images uint8 [examples, height, width, channels],
            labels int32 [examples], and the normalisation's mean and std.
        starts: where each split begins in them.
        sizes: how many examples each split has.
    """

    arrays: dict[str, np.ndarray]
    starts: dict[str, int]
    sizes: dict[str, int]

    @classmethod
    def of(cls, dataset: Dataset, config: DataConfig) -> "Resident":
        """Lays out a data set; statistics are those of its training split.

        They are fitted after resampling: what is subtracted is the mean of the images that the net
        is trained on, as it would be if the data set had been published that way.
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
        return cls(arrays, starts, sizes)

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


class TrainingOrder:
    """An endless stream of examples: one random permutation of the training split after another.

    Args:
        count: examples in the split.
        batch_size: examples in a step.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """The examples of one step, int32 [batch]; epochs join without dropping any."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.count)
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        parts = [self._orders[epoch][places[epochs == epoch]] for epoch in self._orders]
        return np.concatenate(parts).astype(np.int32)

    def batches(self, step: int, steps: int) -> np.ndarray:
        """The examples of `steps` steps from `step` on, int32 [steps, batch]."""
        return np.stack([self.batch(s) for s in range(step, step + steps)])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch in self._orders:
            return self._orders[epoch]
        # RandomState's stream is frozen by NumPy's policy (NEP 19); Generator's may change.
        return np.random.RandomState([self.seed, epoch]).permutation(self.count)
