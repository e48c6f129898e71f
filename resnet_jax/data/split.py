"""Examples in a fixed order: what data sets are made of."""

import dataclasses
import hashlib

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

    def sha256(self) -> str:
        """Of shapes, images, labels and ids, in hexadecimal."""
        digest = hashlib.sha256(repr((self.images.shape, list(self.ids))).encode())
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
