"""The parts that a net is made of, in order: its forward pass is these and nothing else."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from flax import nnx

from resnet_jax.models.layers import Numerics

# The part whose input is the last feature map (VGG has none), and the one that ends every net.
POOLING, HEAD = "global average pooling", "head"


class Part(NamedTuple):
    """One part of a net.

    Attributes:
        name: "stem", "stage 1", "head"; of a block "stage 1, block 2", counted from 1.
        run: maps the part's input to its output.
    """

    name: str
    run: Callable[[jax.Array], jax.Array]


def compose(parts: Iterable[Part], x: jax.Array) -> jax.Array:
    """Maps x through parts, one after the other."""
    for part in parts:
        x = part.run(x)
    return x


def of_stages(
    stages: Iterable[Any], through: Callable[[list[Any], jax.Array], jax.Array], *, blocks: bool
) -> list[Part]:
    """A net's stages as parts.

    Args:
        stages: each a list of blocks.
        through: maps an input through blocks of one stage.
        blocks: list each block of a stage instead of the stage.
    """
    found = []
    for number, stage in enumerate(stages, 1):
        name = f"stage {number}"
        if blocks:
            found += [
                Part(f"{name}, block {i}", functools.partial(through, [block]))
                for i, block in enumerate(stage, 1)
            ]
        else:
            found.append(Part(name, functools.partial(through, list(stage))))
    return found


class PartedNet(nnx.Module):
    """A net that is its parts, one after the other.

    Attributes:
        numerics: shared by its layers.
        has_dropout: whether layers draw masks of their own in training.
    """

    numerics: Numerics
    has_dropout: bool

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        keys: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> jax.Array:
        """Classifies images.

        Args:
            x: float [batch, height, width, channels], normalised.
            train: compute as in training: drop what dropout drops, normalise with the batch's
                statistics and update the running ones.
            keys: one for each image [batch]; a net with dropout needs them in training.
            progress: share of the run's steps that is done, 0 at the first and 1 at the last; a
                net whose shortcuts are annealed needs it in training.

        Returns:
            Logits [batch, classes], in float32 (float64 if the net is).

        Raises:
            ValueError: if keys or progress are needed and not given.
            InputError: if the images are too small for the net.
        """
        return compose(self.parts(train=train, keys=keys, progress=progress), x)

    def parts(
        self,
        *,
        train: bool = False,
        keys: jax.Array | None = None,
        progress: jax.Array | None = None,
        blocks: bool = False,
    ) -> list[Part]:
        """What the net does, in order; the last but one gives features [batch, width].

        Args:
            train: as in `__call__`.
            keys: likewise.
            progress: likewise.
            blocks: list each block of a stage instead of the stage, where stages have blocks.

        Raises:
            ValueError: as in `__call__`.
        """
        if train and self.has_dropout and keys is None:
            raise ValueError("a net with dropout is trained with a key for each image, got None")
        keys = keys if train else None
        return self._parts(train=train, keys=keys, progress=progress, blocks=blocks)

    def _parts(
        self,
        *,
        train: bool,
        keys: jax.Array | None,
        progress: jax.Array | None,
        blocks: bool,
    ) -> list[Part]:
        """As `parts`; keys are None in evaluation."""
        raise NotImplementedError
