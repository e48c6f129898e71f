"""A trained run's net, ready to be taken apart."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import run_folder
from resnet_jax.analysis import gates
from resnet_jax.config import ModelConfig, RunConfig, load_json
from resnet_jax.data import augment
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.models.resnet import ResNet
from resnet_jax.train import checkpoint, initial, provenance
from resnet_jax.train.earlier import require_same_data
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.setup import Experiment

# Images whose gradients are taken at once.
GRADIENT_BATCH = 128


def given(workdir: str | None) -> pathlib.Path:
    """The run's folder that a command's flag names.

    Raises:
        InputError: if it names none.
    """
    if workdir is None:
        raise InputError("--workdir is missing, for example --workdir=runs/r56")
    return pathlib.Path(workdir)


def keep(workdir: pathlib.Path, name: str, report: dict[str, Any]) -> pathlib.Path:
    """Writes what was found into the run's folder, where the report looks for it."""
    path = workdir / run_folder.ANALYSIS / name
    path.parent.mkdir(exist_ok=True)
    run_folder.write_json(path, report)
    return path


def described(model: ModelConfig) -> dict[str, Any]:
    """What a reader needs to know of a net before its numbers."""
    return {
        "family": "residual" if model.residual else "plain",
        "depth": model.depth,
        "activation_order": model.activation_order,
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A net and the data that it was trained on.

    Attributes:
        config: of the run.
        step: of the checkpoint.
        experiment: the run's parts; its state is the checkpoint's.
        model: the net, with the checkpoint's values.
    """

    config: RunConfig
    step: int
    experiment: Experiment
    model: ResNet

    @classmethod
    def load(cls, workdir: pathlib.Path, which: str = "last") -> "Trained":
        """Reads a run's checkpoint.

        Args:
            workdir: the run's folder.
            which: 'last' checkpoint, or 'best' on val.

        Raises:
            InputError: if the folder is no trained run's, its net has no blocks, or its data are
                not at hand.
        """
        config = load_json(workdir / run_folder.CONFIG)
        # Nothing is trained here: blocks need no loops, in which they could not be told apart, and
        # the whole net is looked at, not a head on features.
        once = dataclasses.replace(config.train, block_loop="never", recompute_blocks=False)
        whole = dataclasses.replace(config.transfer, cached_features=False, features_dir="")
        config = dataclasses.replace(config, train=once, transfer=whole)
        checkpoints, step = checkpoint.of_run(workdir, which)
        experiment = Experiment.prepare(config)
        require_same_data(experiment.dataset, workdir)
        state = checkpoints.restore(step, like=experiment.state)
        model = _build(experiment)
        registry.update(model, *jax.tree.map(jnp.asarray, tuple(state.evaluated)))
        return cls(config, step, dataclasses.replace(experiment, state=state), model)

    @classmethod
    def before_training(cls, experiment: Experiment) -> "Trained":
        """The net of a run whose parts are at hand, with the weights that it was drawn with."""
        return cls(experiment.config, 0, experiment, _build(experiment))

    def built(self) -> ResNet:
        """The net as it was before the first step."""
        model = _build(self.experiment)
        if self.config.model.weights:
            initial.load_into(model, self.config.model.weights, self.config)
        return model

    def training_images(self, count: int) -> tuple[jax.Array, jax.Array]:
        """The first training images, normalised and not augmented, and their labels.

        Args:
            count: how many; all, if there are fewer.
        """
        feed = self.experiment.feed
        stored, labels = feed.images("train", np.arange(min(count, feed.sizes["train"])))
        inputs = (stored, feed.arrays["mean"], feed.arrays["std"])
        images = augment.evaluation_images(self.config.data, *map(jnp.asarray, inputs))
        return images, jnp.asarray(labels)

    def about(self, split: str, examples: int) -> dict[str, Any]:
        """What a reader of figures on this net needs to know."""
        return {
            "net": {**described(self.config.model), "seed": self.config.train.seed},
            "step": self.step,
            "dataset": self.experiment.dataset["name"],
            "split": split,
            "examples": min(examples, self.experiment.feed.sizes[split]),
            **provenance.circumstances(),
        }

    def gated(self, split: str, examples: int) -> tuple[Any, Any, Callable[[Any, Any], float]]:
        """The net with gates, and a function that measures its error, compiled once.

        Args:
            split: whose images are classified.
            examples: how many of them, at most; the first ones.

        Returns:
            Parameters, statistics, and (parameters, statistics) -> error in percent.

        Raises:
            InputError: if the split is empty.
        """
        feed = self.experiment.feed
        if not feed.sizes[split]:
            raise InputError(
                f"--split={split}: the run has no {split} images; give --split=test, or train with "
                "config.data.train_on='train' and a config.data.val_fraction above 0"
            )
        net = registry.functional(gates.gated(self.model, self.config.model))
        evaluator = Evaluator(
            dataclasses.replace(
                self.experiment,
                apply=net.apply,
                feed=feed.at_most(split, examples),
            )
        )

        def error(params: Any, stats: Any) -> float:
            state = dataclasses.replace(self.experiment.state, params=params, stats=stats)
            values, _ = evaluator.measure(self.experiment.devices.replicate(state), split)
            return values["error"]

        params, stats = jax.device_get((net.params, net.stats))
        return params, stats, error

    def gradient_at_stem(self) -> tuple[Any, Callable[[Any], float]]:
        """The net with gates for gradients alone, and the gradient that reaches its stem.

        Returns:
            Parameters, and a function of them: the norm of the mean loss's gradient at what the
            stem's batch norm makes (before a max-pool, if there is one), over the first training
            images, in evaluation mode; compiled once.
        """
        images, labels = self.training_images(GRADIENT_BATCH)
        model = gates.gated(self.model, self.config.model, gradient_only=True)
        shape = jax.eval_shape(model.stem_conv, images).shape
        model.stem_norm = gates.Probed(model.stem_norm, shape)  # type: ignore[assignment]
        net = registry.functional(model)

        @jax.jit
        def norm(params: Any) -> Any:
            def loss(probe: jax.Array) -> Any:
                probed = params | {"stem_norm": params["stem_norm"] | {"probe": probe}}
                logits, _ = net.apply(probed, net.stats, images, False)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            return optax.tree.norm(jax.grad(loss)(jnp.zeros(shape)))

        return jax.device_get(net.params), lambda params: float(norm(params))


def _build(experiment: Experiment) -> ResNet:
    """The run's net with the weights that it was drawn with."""
    model = registry.build(
        experiment.config.model,
        channels=experiment.preprocessing.image_shape[-1],
        num_classes=len(experiment.class_names),
        seed=experiment.config.train.seed,
    )
    return registry.of_blocks(model)
