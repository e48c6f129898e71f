"""SGD as in the papers, AdamW, and a learning rate that is read back from the state it lives in."""

import functools
import operator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from resnet_jax.config import OptimizerConfig

# Smooths the batch's training error for warm-up 'until_error': about the last 20 batches.
ERROR_DECAY = 0.95


class LearningRateState(NamedTuple):
    """Where the schedule stands.

    Attributes:
        updates: made so far.
        learning_rate: as applied by the last update.
        running_error: smoothed training error, percent.
        warming: still in the warm-up.
    """

    updates: jax.Array
    learning_rate: jax.Array
    running_error: jax.Array
    warming: jax.Array


class PlateauState(NamedTuple):
    """How long the error on val has not fallen, for the schedule 'plateau'.

    Attributes:
        plateau_scale: what the rate is multiplied by.
        best_error: lowest error on val so far, percent.
        fruitless: evaluations since.
    """

    plateau_scale: jax.Array
    best_error: jax.Array
    fruitless: jax.Array


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate over iterations, warm-up and plateaus apart.

    Args:
        config: 'step' multiplies by `decay_factor` at each milestone (He 2015, Sec. 4.2),
            'cosine' ends at zero after `steps`, 'constant' stays, and so does 'plateau', whose
            drops come from `after_evaluation`.
        steps: of the whole run.
    """
    if config.schedule == "step":
        drops = {milestone: config.decay_factor for milestone in config.milestones}
        return optax.piecewise_constant_schedule(config.learning_rate, drops)
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, steps)
    return optax.constant_schedule(config.learning_rate)


def scale_by_learning_rate(
    config: OptimizerConfig, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the scheduled learning rate, warm-up included.

    The update takes `train_error`, the batch's error in percent, which ends the warm-up
    'until_error' (He 2015, Sec. 4.2: "until the training error is below 80%").
    """
    planned = schedule(config, steps)

    def init(params: Any) -> LearningRateState:
        del params
        return LearningRateState(
            updates=jnp.zeros((), jnp.int32),
            learning_rate=jnp.zeros(()),
            # Typed, for a weak type would change after the first step and compile it again.
            running_error=jnp.full((), 100.0, jnp.zeros(()).dtype),
            warming=jnp.array(config.warmup != "none"),
        )

    def update(
        updates: Any, state: LearningRateState, params: Any = None, *, train_error: Any, **_: Any
    ) -> tuple[Any, LearningRateState]:
        del params
        running_error = ERROR_DECAY * state.running_error + (1 - ERROR_DECAY) * train_error
        if config.warmup == "until_error":
            warming = state.warming & (running_error >= config.warmup_error)
        else:
            warming = state.warming & (state.updates < config.warmup_steps)
        updates_made = state.updates.astype(state.learning_rate.dtype)
        start = jnp.asarray(config.warmup_learning_rate)
        if config.warmup == "linear":
            share = updates_made / max(config.warmup_steps, 1)
            start = start + share * (config.learning_rate - start)
        rate = jnp.where(warming, start, planned(updates_made))
        scaled = jax.tree.map(lambda u: u * rate.astype(u.dtype), updates)
        return scaled, LearningRateState(state.updates + 1, rate, running_error, warming)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_plateau() -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the scale that `after_evaluation` has left in the state."""

    def init(params: Any) -> PlateauState:
        del params
        one = jnp.ones((), jnp.zeros(()).dtype)
        return PlateauState(one, one * jnp.inf, jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: PlateauState, params: Any = None, **_: Any
    ) -> tuple[Any, PlateauState]:
        del params
        scale = state.plateau_scale
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def after_evaluation(config: OptimizerConfig, opt_state: Any, val_error: float) -> Any:
    """Lowers the rate if val's error has not fallen for a while ("when the error plateaus").

    Args:
        config: with `plateau_patience` and `decay_factor`.
        opt_state: one copy of it.
        val_error: percent.

    Returns:
        The state for the next step. Unchanged, unless the schedule is 'plateau'.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 3.4.
    """

    def judged(state: Any) -> Any:
        if not isinstance(state, PlateauState):
            return state
        better = val_error < state.best_error - config.plateau_improvement
        fruitless = jnp.where(better, 0, state.fruitless + 1)
        over = fruitless >= config.plateau_patience
        lower = jnp.where(over, state.plateau_scale * config.decay_factor, state.plateau_scale)
        values = (
            lower,
            jnp.where(better, val_error, state.best_error),
            jnp.where(over, 0, fruitless),
        )
        # Of the same types as before, or the step would be compiled again.
        typed = (jnp.asarray(v, old.dtype) for v, old in zip(values, state, strict=True))
        return PlateauState(*typed)

    return jax.tree.map(judged, opt_state, is_leaf=lambda node: isinstance(node, PlateauState))


def build(
    config: OptimizerConfig, steps: int, *, begins: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The configured optimizer.

    SGD is the papers' and Caffe's: v = momentum * v + lr * (g + weight_decay * w), w = w - v. At a
    constant rate this equals PyTorch's form, which multiplies by lr last.

    Args:
        config: of the run.
        steps: of the whole run.
        begins: of each parameter, how many updates leave it as it is at first: a tree of the
            parameters' structure. AdamW's averages begin after them. None: of none.
    """
    decay = optax.add_decayed_weights(
        config.weight_decay, mask=None if config.decay_batch_norm else _kernels
    )
    first = [optax.scale_by_adam(), decay] if config.name == "adamw" else [decay]
    if begins is not None:
        first = [_beginning_late(optax.chain(*first), begins)]
    rate = scale_by_learning_rate(config, steps)
    if config.schedule == "plateau":
        rate = optax.chain(rate, scale_by_plateau())
    if config.name == "adamw":
        return optax.chain(*first, rate, optax.scale(-1.0))
    momentum = optax.trace(config.momentum, nesterov=config.nesterov)
    return optax.chain(*first, rate, momentum, optax.scale(-1.0))


def _beginning_late(
    inner: optax.GradientTransformation, begins: Any
) -> optax.GradientTransformationExtraArgs:
    """Zero for each parameter until its time has come; its part of the state stays as it is."""
    labels = jax.tree.map(lambda updates: f"after {updates}", begins)
    late = {
        f"after {updates}": optax.transforms.conditionally_mask(
            inner, functools.partial(operator.le, updates)
        )
        for updates in sorted(set(jax.tree.leaves(begins)))
    }
    return optax.partition(late, labels)


def _kernels(params: Any) -> Any:
    """True for weights of convolutions and of the head; False for BN's parameters and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def learning_rate(opt_state: Any) -> jax.Array:
    """The rate that the last update applied, out of the optimizer's own state."""
    rate = optax.tree.get(opt_state, "learning_rate")
    return cast(jax.Array, rate * optax.tree.get(opt_state, "plateau_scale", 1))
