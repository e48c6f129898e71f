"""BN's statistics measured anew with a trained net's final weights.

Running statistics trail behind the weights: they average what earlier weights made of the images.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resnet_jax.config import RunConfig
from resnet_jax.models.registry import Apply
from resnet_jax.parallel import AXIS
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState
from resnet_jax.train.step import training_batch

# BN's running statistics by name; nets keep other things from step to step too.
BATCH_STATISTICS = ("mean", "variance")


def reestimated(
    experiment: Experiment, state: TrainState, *, between: Callable[[], None] = lambda: None
) -> TrainState:
    """Gives what is evaluated the mean statistics of some batches, all with its present weights.

    The batches are those that training would have gone on with, augmented alike, so the result is
    the same however often the run was interrupted.

    Args:
        experiment: with `train.reestimation_batches`.
        state: on the devices.
        between: called between two batches; what it raises ends the measurement.

    Returns:
        The state, on the devices.

    Reference: He et al. 2015 (arXiv 1512.03385), appendix A, who compute them "on the ImageNet
    training set" before the weights are used elsewhere; Izmailov et al. 2018 (arXiv 1803.05407),
    Sec. 3.2, for averaged weights, which have no running statistics of their own.
    """
    config, devices = experiment.config, experiment.devices
    program = devices.compile(
        statistics_program(config, experiment.apply), inputs=(None,) * 4 + (1,), outputs=(None,)
    )
    first, count = config.train.steps, config.train.reestimation_batches
    params, stats = state.evaluated
    total = None
    with contextlib.closing(experiment.batches(first, first + count, 1)) as batches:
        for step, batch in enumerate(batches, first):
            made = devices.replicate(np.int32(step))
            (found,) = program(params, stats, experiment.arrays, made, batch)
            # Summed in double precision, so that it does not matter how many there are.
            found = jax.tree.map(np.float64, jax.device_get(devices.single_copy(found)))
            total = found if total is None else jax.tree.map(np.add, total, found)
            between()
    old = jax.device_get(devices.single_copy(stats))
    mean = jax.tree.map(lambda x, like: np.asarray(x / count, like.dtype), total, old)
    return state.with_evaluated_stats(devices.replicate(mean))


def statistics_program(config: RunConfig, apply: Apply) -> Callable[..., Any]:
    """What one training batch's statistics are.

    Returns:
        (params, stats, arrays, step, batch [1, share]) -> (stats,), with the batch's own statistics
        in place of the running ones.
    """
    taken = 1 - config.model.batch_norm_decay

    def program(
        params: Any, stats: Any, arrays: dict[str, jax.Array], step: jax.Array, batch: Any
    ) -> tuple[Any]:
        # From zero, running statistics become (1 - decay) times the batch's.
        start = _map_batch_statistics(lambda x: x * 0, stats)
        images, _, keys = training_batch(
            config, arrays, jax.tree.map(lambda rows: rows[0], batch), step
        )
        progress = jnp.ones(())
        _, stats = apply(params, start, images, True, keys=keys, progress=progress)
        return (lax.pmean(_map_batch_statistics(lambda x: x / taken, stats), AXIS),)

    return program


def _map_batch_statistics(function: Callable[[jax.Array], jax.Array], stats: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: function(x) if path[-1].key in BATCH_STATISTICS else x, stats
    )
