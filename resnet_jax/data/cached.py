"""What frozen parts of a net have made of each image, in place of the images."""

import dataclasses

import numpy as np

from resnet_jax.data.feed import Feed
from resnet_jax.data.pipeline import Resident


@dataclasses.dataclass(frozen=True)
class Cached(Resident):
    """A feed of features, which lie on the devices.

    Attributes:
        source: the feed of the images themselves.
        places: where in the source's splits each example stands.
    """

    source: Feed | None = None
    places: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def images(self, split: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `feed.Feed`: images, not features."""
        assert self.source is not None
        return self.source.images(split, self.places[split][examples])
