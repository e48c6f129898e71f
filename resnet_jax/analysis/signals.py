"""Do signals and gradients vanish? Responses, gradients and updates of every layer.

    python -m resnet_jax.analysis.signals --workdir=runs/r56 [--noinitial] [--images=128]

Before the first step and at the last checkpoint: takes one batch of the run's training images
through the net in training mode and back, and writes RUN/analysis/signals.json, which
`python -m resnet_jax.report RUNS` draws.

Exit codes: 0, 2 for bad input.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from resnet_jax import command, terminal
from resnet_jax.analysis import recorders
from resnet_jax.analysis.trained import Trained, given, keep
from resnet_jax.models import registry
from resnet_jax.models.resnet import CifarResNet
from resnet_jax.train import optimizer

RESULT = "signals.json"


def record(
    model: CifarResNet,
    images: jax.Array,
    labels: jax.Array,
    *,
    tx: optax.GradientTransformationExtraArgs,
    opt_state: Any = None,
) -> dict[str, Any]:
    """One step's signals, by layer; nothing of the net is changed.

    Args:
        model: the net.
        images: float [batch, height, width, channels], normalised.
        labels: int [batch].
        tx: makes a gradient an update.
        opt_state: of tx; None is that before the first step.

    Returns:
        The mean loss, and for each layer (`recorders.layers`) its name; `response`, `activation`
        and `dead` of its batch norm (`recorders.RecordedNorm`); `activation_gradient`, the root
        mean square of the mean loss's gradient at what its BN makes, times the batch size (so that
        it is that of one image's loss); `gradient`, `weight` and `update`: the norms of the
        convolution's gradient, of its weights, and of what the optimizer would add to them.
    """
    original = registry.functional(model)
    net = registry.functional(recorders.recorded(model))
    found = recorders.layers(net.params)
    if opt_state is None:
        opt_state = tx.init(original.params)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, stats = net.apply(params, net.stats, images, True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (stats, (logits.argmax(-1) != labels).mean())

    @jax.jit
    def signals(params: Any, opt_state: Any) -> Any:
        (value, (stats, wrong)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        own = _as_in(original.params, gradients)
        updates, _ = tx.update(own, opt_state, original.params, train_error=100 * wrong)
        rows = []
        for _, norm, conv in found:
            noted = recorders.at(stats, norm)
            rows.append(
                {
                    **{name: noted[name] for name in ("response", "activation", "dead")},
                    "activation_gradient": recorders.at(gradients, norm)["tap"] * len(images),
                    **{
                        name: optax.tree.norm(recorders.at(tree, conv))
                        for name, tree in (
                            ("gradient", own),
                            ("weight", original.params),
                            ("update", updates),
                        )
                    },
                }
            )
        return value, rows

    value, rows = jax.device_get(signals(net.params, opt_state))
    return {
        "loss": float(value),
        "layers": [
            {"layer": name, **{key: float(number) for key, number in row.items()}}
            for (name, _, _), row in zip(found, rows, strict=True)
        ],
    }


def _as_in(params: Any, gradients: Any) -> Any:
    """Gradients of a recorded net, as those of the net that was recorded."""
    if not isinstance(params, dict):
        return gradients
    if "norm" in gradients and "norm" not in params:
        gradients = gradients["norm"]
    return {key: _as_in(value, gradients[key]) for key, value in params.items()}


def measure(trained: Trained, *, images: int, initial: bool) -> dict[str, Any]:
    """The signals of a trained net, and of what it was before its first step.

    Args:
        trained: the net.
        images: how many of the training images; the first ones.
        initial: also before the first step.

    Returns:
        What signals.json holds.
    """
    config, state = trained.config, trained.experiment.state
    pixels, labels = trained.training_images(images)
    tx = optimizer.build(config.optimizer, config.train.steps)
    moments: list[dict[str, Any]] = []
    if initial:
        first = trained.built()
        moments.append({"step": 0, **record(first, pixels, labels, tx=tx)})
    now = record(
        trained.model,
        pixels,
        labels,
        tx=tx,
        opt_state=jax.tree.map(jnp.asarray, state.opt_state),
    )
    moments.append({"step": trained.step, **now})
    return {**trained.about("train", images), "moments": moments}


def main(argv: list[str]) -> None:
    """Measures what the flags name."""
    del argv
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    report = measure(Trained.load(workdir), images=_IMAGES.value, initial=_INITIAL.value)
    path = keep(workdir, RESULT, report)
    for moment in report["moments"]:
        norms = [row["gradient"] for row in moment["layers"]]
        print(
            f"step {moment['step']}: loss {moment['loss']:.3f}; gradient norm of the first layer "
            f"{norms[0]:.3g}, of the last {norms[-1]:.3g}, lowest {min(norms):.3g}"
        )
    print(path)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _INITIAL = flags.DEFINE_bool("initial", True, "Also before the first step.")
    _IMAGES = flags.DEFINE_integer("images", 128, "Training images, the first ones.", 2)
    command.run(main)
