"""One training step and one evaluation step: pure, written for one device of the axis `data`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from resnet_jax.config import RunConfig
from resnet_jax.data import augment
from resnet_jax.metrics.accumulate import ClassificationMetrics, Window
from resnet_jax.models.partial import WHOLE, Cut, join
from resnet_jax.models.registry import Apply
from resnet_jax.parallel import AXIS
from resnet_jax.train.state import AveragedState, TrainState, Weights, follow

# What stands on each device of a batch: as `data.feed.Inputs`, its share.
Inputs = jax.Array | dict[str, jax.Array]

# Of the arrays on the devices: what frozen parts have made of each image, if that is cached.
FEATURES = "features"

# Folded into a step's key where an example's number would be; no data set has as many examples.
DROPOUT = 2**32 - 1


def train_step(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    apply: Apply,
    tx: optax.GradientTransformationExtraArgs,
    keys: jax.Array | None = None,
    progress: jax.Array | None = None,
    class_weights: jax.Array | None = None,
    auxiliary_weight: float = 0.0,
    label_smoothing: float = 0.0,
    average_decay: float = 0.0,
    cut: Cut = WHOLE,
) -> TrainState:
    """Updates the state with one batch, of which each device sees its share.

    Args:
        state: the same on every device.
        images: float [share, height, width, channels], normalised and augmented.
        labels: int [share].
        apply: the net.
        tx: the optimizer.
        keys: one for each image [share], for dropout.
        progress: share of the run's steps that is done, for annealing.
        class_weights: float [classes]; the loss that is descended is then sum(w l) / sum(w) over
            the whole batch, as `torch.nn.CrossEntropyLoss(weight)` has it.
        auxiliary_weight: of the losses of auxiliary heads, if the net has any.
        label_smoothing: as in `classified`.
        average_decay: of the weights' moving average, if the state has one; see `state.follow`.
        cut: between what stays as it is, to the bit, and what is trained.

    Returns:
        The next state, the same on every device; `window` holds this step alone, its loss and
        error unweighted. If loss, gradient or statistics are not finite, parameters, statistics
        and optimizer keep their last finite values for good.
    """
    params, frozen = cut.divide(state.params)

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        params = join(params, frozen)
        logits, stats = apply(params, state.stats, images, True, keys=keys, progress=progress)
        logits, losses, descended = classified(logits, labels, auxiliary_weight, label_smoothing)
        if class_weights is None:
            return descended.mean(), (losses, logits, stats)
        weights = class_weights[labels].astype(losses.dtype)
        # Devices' shares differ in weight: each is divided by the mean over all of them, so that
        # the mean of the devices' losses is the weighted mean of the whole batch.
        loss = (weights * descended).mean() / lax.pmean(weights.mean(), AXIS)
        return loss, (losses, logits, stats)

    (_, (losses, logits, stats)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
    # Local batch norm leaves each device its own running statistics; their mean is kept.
    gradients, stats = lax.pmean((gradients, stats), AXIS)
    metrics = lax.psum(
        ClassificationMetrics.single_from_model_output(logits=logits, labels=labels, loss=losses),
        AXIS,
    )
    norm = optax.tree.norm(gradients)
    error = metrics.error.total / metrics.error.count.astype(metrics.error.total.dtype)
    updates, opt_state = tx.update(gradients, state.opt_state, params, train_error=error)

    # A variance that overflows scales its activations to zero, which leaves the loss finite.
    finite = jnp.isfinite(metrics.loss.total) & jnp.isfinite(norm + optax.tree.norm(stats))
    alive = finite & (state.first_nonfinite_step < 0)
    step = state.step + 1
    new = {
        "params": join(optax.apply_updates(params, updates), frozen),
        "stats": cut.merged(stats, state.stats),
        "opt_state": opt_state,
    }
    if isinstance(state, AveragedState):
        weights = Weights(new["params"], new["stats"])
        moved = follow(state.average, weights, state.step, average_decay)
        new["average"] = Weights(*map(cut.merged, moved, state.average))
    old = {name: getattr(state, name) for name in new}
    new = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, old)
    first = jnp.where(finite | (state.first_nonfinite_step >= 0), state.first_nonfinite_step, step)
    return dataclasses.replace(
        state, step=step, window=Window.of_step(metrics, norm), first_nonfinite_step=first, **new
    )


def classified(
    logits: jax.Array,
    labels: jax.Array,
    auxiliary_weight: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy of a net's output in training.

    Args:
        logits: [batch, classes], or [batch, heads, classes] with auxiliary heads.
        labels: int [batch].
        auxiliary_weight: of these heads' losses.
        label_smoothing: e; the target of what is descended is 1 - e for the label, and e / classes
            more for each class (Szegedy et al. 2016, arXiv 1512.00567, Sec. 7).

    Returns:
        The net's own logits [batch, classes], their losses [batch], and the losses that are
        descended [batch].
    """
    every = logits if logits.ndim == 3 else logits[:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        every, jnp.broadcast_to(labels[:, None], every.shape[:2])
    )
    smooth = losses
    if label_smoothing:
        uniform = -jax.nn.log_softmax(every).mean(-1)
        smooth = (1 - label_smoothing) * losses + label_smoothing * uniform
    descended = smooth[:, 0]
    if every.shape[1] > 1:
        descended = descended + auxiliary_weight * smooth[:, 1:].sum(1)
    return every[:, 0], losses[:, 0], descended


def dropout_keys(key: jax.Array, examples: jax.Array) -> jax.Array:
    """Keys of a step's images [batch], other than those of their augmentation.

    Like those they depend on the step and the example alone, not on how many devices there are.
    """
    key = jax.random.fold_in(key, DROPOUT)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, examples)


def progress_at(step: jax.Array, steps: int) -> jax.Array:
    """Share of a run that is done before update `step`: 0 at its first, 1 at its last."""
    last = max(steps - 1, 1)
    # Compiled, a division by a constant is a multiplication that may miss 1 by a rounding.
    return jnp.where(step < last, step / last, 1.0)


def training_batch(
    config: RunConfig, arrays: dict[str, jax.Array], batch: Inputs, step: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The batch of a step as the net sees it.

    Args:
        config: of the run.
        arrays: as in `training_program`.
        batch: [share].
        step: how many were made before this one.

    Returns:
        Images float [share, height, width, channels], normalised and augmented, or their cached
        features [share, width]; labels [share]; and a key for each image's dropout [share].
    """
    key = jax.random.fold_in(jax.random.key(arrays["seed"]), step)
    examples = batch["examples"] if isinstance(batch, dict) else batch
    if FEATURES in arrays:
        images = arrays[FEATURES][examples]
    else:
        images = augment.training_images(
            config.data, key, images_of(arrays, batch), examples, arrays["mean"], arrays["std"]
        )
    return images, labels_of(arrays, batch), dropout_keys(key, examples)


def training_program(
    config: RunConfig,
    apply: Apply,
    tx: optax.GradientTransformationExtraArgs,
    cut: Cut = WHOLE,
) -> Callable[..., Any]:
    """Several steps in one call: pick, augment, update.

    Returns:
        (state, arrays, batch [steps, share]) -> (state,), to be compiled by `parallel.DeviceMap`.
        `arrays` are the resident data, the run's seed and, if the loss is weighted,
        `class_weights`; `batch` is as `data.feed.Inputs`. The state's window restarts after each
        multiple of `log.interval`.
    """

    def one_step(state: TrainState, arrays: dict[str, jax.Array], batch: Inputs) -> TrainState:
        images, labels, keys = training_batch(config, arrays, batch, state.step)
        new = train_step(
            state,
            images,
            labels,
            apply=apply,
            tx=tx,
            keys=keys,
            progress=progress_at(state.step, config.train.steps),
            class_weights=arrays.get("class_weights"),
            auxiliary_weight=config.model.auxiliary_weight,
            label_smoothing=config.train.label_smoothing,
            average_decay=config.train.average_decay,
            cut=cut,
        )
        logged = state.step % config.log.interval == 0
        return dataclasses.replace(new, window=state.window.add(new.window, restart=logged))

    def program(
        # Inputs, though mypy knows no common type of a mapping and an array.
        state: TrainState,
        arrays: dict[str, jax.Array],
        batch: Any,
    ) -> tuple[TrainState]:
        if len(jax.tree.leaves(batch)[0]) == 1:
            # A loop of one would still be a loop, which CPUs are slow at.
            return (one_step(state, arrays, jax.tree.map(lambda rows: rows[0], batch)),)
        state, _ = lax.scan(lambda s, rows: (one_step(s, arrays, rows), None), state, batch)
        return (state,)

    return program


def images_of(arrays: dict[str, jax.Array], batch: Inputs) -> jax.Array:
    """The images of a batch, uint8 [share, height, width, channels]."""
    return batch["images"] if isinstance(batch, dict) else arrays["images"][batch]


def labels_of(arrays: dict[str, jax.Array], batch: Inputs) -> jax.Array:
    """The labels of a batch, int32 [share]."""
    return batch["labels"] if isinstance(batch, dict) else arrays["labels"][batch]
