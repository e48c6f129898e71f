"""Examples in a fixed order: what data sets are made of."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples in a fixed order.

    Attributes:
        images: uint8 [examples, height, width, channels].
        labels: int32 [examples], in 0..classes-1.
        ids: str [examples], stable names that predictions are filed under.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices], self.ids[indices])

    def class_sizes(self, num_classes: int) -> np.ndarray:
        """How many examples each class has, int [classes]."""
        return np.bincount(self.labels, minlength=num_classes)


def split_indices(count: int, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides the published training set into train and val, at random but always alike.

    Args:
        count: of examples.
        val_fraction: share of `count` held out, rounded to a whole number.
        seed: of the draw.

    Returns:
        Sorted indices of train and of val; together they hold each of 0..count-1 once.
    """
    # RandomState's stream is frozen by NumPy's policy (NEP 19); Generator's may change.
    order = np.random.RandomState(seed).permutation(count)
    held_out = round(count * val_fraction)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
