"""Blocks that are alike but for their weights, traced once or run as a loop.

Python traces one of them and repeats its program (depth 110: 1.2 s instead of 4.9). As a loop, with
their weights stacked, the program has one size for any depth, optimizer included, so that a
compiler has no more to read at depth 1202 than at 20; but loops are slow on XLA:CPU (35 times), so
that is for accelerators. Checkpoints have the layout without loops, whatever trains.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Repetition(NamedTuple):
    """How blocks that are alike become a program; it changes nothing that they compute.

    Attributes:
        loop: one program text for all of them.
        recompute: keep only each block's input for the backward pass, see `jax.checkpoint`.
    """

    loop: bool = False
    recompute: bool = False


UNROLLED = Repetition()


class Loop(nnx.Module):
    """Blocks that are alike as one whose weights have a first axis more.

    Args:
        blocks: alike but for the values of their weights; they stay as they are.
    """

    def __init__(self, blocks: Sequence[Any]):
        self.block = nnx.clone(blocks[0])
        states = [nnx.state(block) for block in blocks]
        nnx.update(self.block, jax.tree.map(lambda *values: jnp.stack(values), *states))


def through(
    blocks: Sequence[Any], x: jax.Array, *, recompute: bool, train: bool, **more: Any
) -> jax.Array:
    """Maps x through blocks, updating their statistics as calling one after the other would.

    Args:
        blocks: alike but for the values of their weights, or a loop of such.
        x: the first one's input; if there are several, of the shape of each one's output.
        recompute: as in `Repetition`.
        train: as in `Block`.
        **more: what else the blocks are called with, the same for all.
    """
    loop = isinstance(blocks[0], Loop)
    if not loop and not isinstance(x, jax.core.Tracer):  # there is no program to be kept short
        for block in blocks:
            x = block(x, train=train, **more)
        return x
    members = [blocks[0].block] if isinstance(blocks[0], Loop) else blocks
    kind = nnx.graphdef(members[0])

    def one(x: jax.Array, weights: tuple[Any, Any]) -> tuple[jax.Array, Any]:
        block = nnx.merge(kind, *weights, copy=True)
        x = block(x, train=train, **more)
        return x, nnx.state(block, nnx.BatchStat)

    step = jax.checkpoint(one) if recompute else jax.jit(one)
    for block in members:
        weights = (nnx.state(block, nnx.Param), nnx.state(block, nnx.BatchStat))
        x, stats = jax.lax.scan(step, x, weights) if loop else step(x, weights)
        nnx.update(block, stats)
    return x


def with_loops(state: Any) -> Any:
    """A tree that holds nets' values (as `registry.functional` gives them), laid out for loops."""

    def stage(blocks: dict[int, Any]) -> dict[int, Any]:
        first, *rest = (blocks[i] for i in sorted(blocks))
        if not rest:
            return {0: first}
        return {0: first, 1: {"block": jax.tree.map(lambda *values: np.stack(values), *rest)}}

    return _in_nets(stage, state)


def without_loops(state: Any) -> Any:
    """The inverse of `with_loops`."""

    def stage(blocks: dict[int, Any]) -> dict[int, Any]:
        if "block" not in blocks.get(1, {}):
            return blocks
        loop = blocks[1]["block"]
        count = len(jax.tree.leaves(loop)[0])
        rest = [jax.tree.map(lambda values, i=i: values[i], loop) for i in range(count)]
        return {0: blocks[0], **dict(enumerate(rest, 1))}

    return _in_nets(stage, state)


def _in_nets(stage: Callable[[dict[int, Any]], dict[int, Any]], state: Any) -> Any:
    def is_net(tree: Any) -> bool:
        return isinstance(tree, dict) and "stages" in tree

    def changed(tree: Any) -> Any:
        if not is_net(tree):
            return tree
        return tree | {"stages": {i: stage(blocks) for i, blocks in tree["stages"].items()}}

    return jax.tree.map(changed, state, is_leaf=is_net)
