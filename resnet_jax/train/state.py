"""Everything that changes while a net is trained, as one tree of arrays."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from resnet_jax.metrics.accumulate import Window


class Weights(NamedTuple):
    """What a net computes with.

    Attributes:
        params: its parameters.
        stats: its running batch statistics.
    """

    params: Any
    stats: Any


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` updates.

    Random numbers need no place here: keys are derived from the run's seed and `step`.

    Attributes:
        step: updates made, int32.
        params: the net's parameters.
        stats: running batch statistics.
        opt_state: momentum and the learning rate's state.
        window: metrics since the last log line.
        first_nonfinite_step: the update (counted from 1) whose loss, gradient or statistics
            were not finite, or -1. From then on only `step` and `window` change.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    window: Window
    first_nonfinite_step: jax.Array

    @classmethod
    def create(cls, params: Any, stats: Any, opt_state: Any) -> "TrainState":
        """The state before the first update."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=stats,
            opt_state=opt_state,
            window=Window.zero(),
            first_nonfinite_step=jnp.full((), -1, jnp.int32),
        )

    @property
    def evaluated(self) -> Weights:
        """What is measured, and what stays of a run."""
        return Weights(self.params, self.stats)

    def with_evaluated_stats(self, stats: Any) -> "TrainState":
        """The state with other running statistics in what is measured."""
        return dataclasses.replace(self, stats=stats)


@flax.struct.dataclass
class AveragedState(TrainState):
    """A state with a moving average of the weights, which is measured in their place.

    A class of its own, so that the checkpoints of runs without an average stay as they are.

    Attributes:
        average: of `params` and `stats`.
    """

    average: Weights

    @classmethod
    def create(cls, params: Any, stats: Any, opt_state: Any) -> "AveragedState":
        """The state before the first update."""
        first = vars(TrainState.create(params, stats, opt_state))
        # A copy, for the same array cannot be donated twice.
        return cls(**first, average=jax.tree.map(jnp.copy, Weights(params, stats)))

    @property
    def evaluated(self) -> Weights:
        """The average."""
        return self.average

    def with_evaluated_stats(self, stats: Any) -> "AveragedState":
        """The state with other running statistics in its average."""
        return dataclasses.replace(self, average=Weights(self.average.params, stats))


def follow(average: Weights, new: Weights, updates: jax.Array, decay: float) -> Weights:
    """Moves an average towards new weights: d * average + (1 - d) * new.

    Args:
        average: so far.
        new: after this update.
        updates: made before this one.
        decay: d in the long run; after t updates it is min(decay, (1 + t) / (10 + t)), for the
            first weights are of no use (as TensorFlow's ExponentialMovingAverage has it).

    Reference: Szegedy et al. 2016 (arXiv 1512.00567), Sec. 8, of evaluation by averaged parameters.
    """
    made = updates.astype(jnp.zeros(()).dtype)
    kept = jnp.minimum(decay, (1 + made) / (10 + made))

    def moved(old: jax.Array, value: jax.Array) -> jax.Array:
        return old + (1 - kept).astype(old.dtype) * (value - old)

    return Weights(*jax.tree.map(moved, tuple(average), tuple(new)))
