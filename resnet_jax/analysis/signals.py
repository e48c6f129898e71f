"""Do signals and gradients vanish? Responses, gradients and updates of every layer.

    python -m resnet_jax.analysis.signals --workdir=runs/r56 [--noinitial] [--images=128]

Takes one batch of a run's training images through its net in training mode and back, before the
first step and at the last checkpoint. A run of some length does so by itself while it trains, every
`log.signals_interval` steps. Both write RUN/analysis/signals.json, which
`python -m resnet_jax.report RUNS` draws.

Exit codes: 0, 2 for bad input.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from resnet_jax import command, run_folder, terminal
from resnet_jax.analysis import recorders
from resnet_jax.analysis.trained import Trained, given, keep
from resnet_jax.models import registry
from resnet_jax.models.resnet import ResNet
from resnet_jax.train import optimizer
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState
from resnet_jax.train.step import classified

RESULT = "signals.json"
# Images that a run looks at while it trains.
IMAGES = 128

Moment = dict[str, Any]


def recorder(
    model: ResNet,
    tx: optax.GradientTransformationExtraArgs,
    *,
    auxiliary_weight: float = 0.0,
) -> Callable[..., Moment]:
    """A function that measures one step's signals, compiled once; it changes nothing.

    Args:
        model: the net, built for one device.
        tx: makes a gradient an update.
        auxiliary_weight: of the losses of auxiliary heads, if the net has any.

    Returns:
        (params, stats, opt_state, images, labels, progress=0.0) -> moment: values as in training's
        state, float images [batch, height, width, channels], normalised, int labels [batch], and
        the share of the run that is done. A moment is the mean loss, and for each layer
        (`recorders.layers`) its name; `response`, `activation` and `dead` of its batch norm
        (`recorders.RecordedNorm`); `activation_gradient`, the root mean square of the mean loss's
        gradient at what its BN makes, times the batch size (so that it is that of one image's
        loss); `gradient`, `weight` and `update`: the norms of the convolution's gradient, of its
        weights, and of what the optimizer would add to them.
    """
    net = registry.functional(recorders.recorded(model))
    found = recorders.layers(net.params)

    @jax.jit
    def signals(
        params: Any,
        stats: Any,
        opt_state: Any,
        images: jax.Array,
        labels: jax.Array,
        progress: jax.Array,
    ) -> Any:
        # What a net with dropout draws; the same masks whenever it is measured.
        keys = jax.random.split(jax.random.key(0), len(images))

        def loss(recorded: Any) -> tuple[jax.Array, Any]:
            logits, noted = net.apply(
                recorded,
                recorders.put_in(net.stats, stats),
                images,
                True,
                keys=keys,
                progress=progress,
            )
            logits, _, losses = classified(logits, labels, auxiliary_weight)
            return losses.mean(), (noted, (logits.argmax(-1) != labels).mean())

        (value, (noted, wrong)), gradients = jax.value_and_grad(loss, has_aux=True)(
            recorders.put_in(net.params, params)
        )
        own = recorders.taken_out(gradients, params)
        updates, _ = tx.update(own, opt_state, params, train_error=100 * wrong)
        rows = []
        for _, norm, conv in found:
            seen = recorders.at(noted, norm)
            rows.append(
                {
                    **{name: seen[name] for name in ("response", "activation", "dead")},
                    "activation_gradient": recorders.at(gradients, norm)["tap"] * len(images),
                    **{
                        name: optax.tree.norm(recorders.at(tree, conv))
                        for name, tree in (
                            ("gradient", own),
                            ("weight", params),
                            ("update", updates),
                        )
                    },
                }
            )
        return value, rows

    def measure(
        params: Any,
        stats: Any,
        opt_state: Any,
        images: jax.Array,
        labels: jax.Array,
        progress: float = 0.0,
    ) -> Moment:
        done = jnp.asarray(progress, jnp.float32)
        value, rows = jax.device_get(signals(params, stats, opt_state, images, labels, done))
        layers = [
            {"layer": name, **{key: float(number) for key, number in row.items()}}
            for (name, _, _), row in zip(found, rows, strict=True)
        ]
        return {"loss": float(value), "layers": layers}

    return measure


class Recorder:
    """Looks at a run's signals while it trains: at step 0 and after each interval.

    What is measured is one batch of fixed images, not augmented, so that moments can be compared.

    Args:
        experiment: the run's parts.
        workdir: the run's folder; what an earlier attempt recorded stays.
        start: the step that this attempt begins at.
    """

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, start: int):
        trained, config = Trained.before_training(experiment), experiment.config
        self.workdir, self.steps = workdir, config.train.steps
        self.interval = config.log.signals_interval
        self.batch = trained.training_images(IMAGES)
        self.about = trained.about("train", IMAGES)
        # A moment after the checkpoint belongs to steps that are made again.
        self.moments = [m for m in _kept(workdir, self.about) if m["step"] <= start]
        self.measure = recorder(
            trained.model,
            optimizer.build(config.optimizer, self.steps),
            auxiliary_weight=config.model.auxiliary_weight,
        )

    def is_due(self, step: int) -> bool:
        """Whether a step's signals are wanted, and not yet known."""
        known = (moment["step"] for moment in self.moments)
        return step % self.interval == 0 and step not in known

    def record(self, step: int, state: TrainState) -> None:
        """Measures and writes.

        Args:
            step: that the state is at.
            state: as checkpoints have it, on the host.
        """
        values = jax.tree.map(jnp.asarray, (state.params, state.stats, state.opt_state))
        moment = self.measure(*values, *self.batch, step / self.steps)
        self.moments = _merged(self.moments, [{"step": step, **moment}])
        keep(self.workdir, RESULT, {**self.about, "step": step, "moments": self.moments})


def _kept(workdir: pathlib.Path, about: dict[str, Any]) -> list[Moment]:
    """The moments of an earlier recording, if it was of the same images."""
    earlier = run_folder.read_json(workdir / run_folder.ANALYSIS / RESULT) or {}
    same = all(earlier.get(key) == about[key] for key in ("dataset", "split", "examples"))
    return list(earlier["moments"]) if same else []


def _merged(earlier: list[Moment], new: list[Moment]) -> list[Moment]:
    """All of them in order; a new one takes the place of an earlier one of its step."""
    by_step = {moment["step"]: moment for moment in (*earlier, *new)}
    return [by_step[step] for step in sorted(by_step)]


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
    batch = trained.training_images(images)
    tx = optimizer.build(config.optimizer, config.train.steps)
    signals = recorder(trained.model, tx, auxiliary_weight=config.model.auxiliary_weight)
    moments: list[Moment] = []
    if initial:
        first = registry.functional(trained.built())
        values = (first.params, first.stats, tx.init(first.params))
        moments.append({"step": 0, **signals(*values, *batch)})
    values = jax.tree.map(jnp.asarray, (state.params, state.stats, state.opt_state))
    progress = trained.step / config.train.steps
    moments.append({"step": trained.step, **signals(*values, *batch, progress)})
    return {**trained.about("train", images), "moments": moments}


def main(argv: list[str]) -> None:
    """Measures what the flags name."""
    del argv
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    report = measure(Trained.load(workdir), images=_IMAGES.value, initial=_INITIAL.value)
    for moment in report["moments"]:
        norms = [row["gradient"] for row in moment["layers"]]
        print(
            f"step {moment['step']}: loss {moment['loss']:.3f}; gradient norm of the first layer "
            f"{norms[0]:.3g}, of the last {norms[-1]:.3g}, lowest {min(norms):.3g}"
        )
    report["moments"] = _merged(_kept(workdir, report), report["moments"])
    print(keep(workdir, RESULT, report))


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _INITIAL = flags.DEFINE_bool("initial", True, "Also before the first step.")
    _IMAGES = flags.DEFINE_integer("images", IMAGES, "Training images, the first ones.", 2)
    command.run(main)
