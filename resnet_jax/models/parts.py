"""The parts that a net is made of, in order: its forward pass is these and nothing else."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax

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
