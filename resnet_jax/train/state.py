"""Everything that changes while a net is trained, as one tree of arrays."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax.metrics.accumulate import Window


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
    def create(cls, params: Any, stats: Any, tx: optax.GradientTransformation) -> "TrainState":
        """The state before the first update."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=stats,
            opt_state=tx.init(params),
            window=Window.zero(),
            first_nonfinite_step=jnp.full((), -1, jnp.int32),
        )
