"""A deeper net that computes the same: blocks that pass their input on, put into a trained net.

    python -m resnet_jax.analysis.deepen --workdir=runs/plain20 --depth=56 [--out=FILE.safetensors]
    python -m resnet_jax.main --config=... --config.model.depth=56 --config.model.weights=FILE

He et al. 2015 (arXiv 1512.03385, Sec. 1): "There exists a solution by construction to the deeper
model: the added layers are identity mapping, and the other layers are copied from the learned
shallower model." The first command makes it, compares both nets' logits, and writes weights that
the second starts from, to train on.

Exit codes: 0, 2 for bad input.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from resnet_jax import command, run_folder, terminal
from resnet_jax.analysis.trained import Trained, given
from resnet_jax.config import ModelConfig, load_json, stage_sizes
from resnet_jax.errors import InputError
from resnet_jax.models import registry, torch_weights
from resnet_jax.models.blocks import ORDERS, Block
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import ProjectionShortcut

# Training images that the feature maps' statistics are taken from, and that the nets classify.
IMAGES = 512


class Moments(NamedTuple):
    """Mean and variance of each channel of a feature map, [channels]."""

    mean: jax.Array
    variance: jax.Array


def deepened(model: ResNet, deeper: ResNet, images: jax.Array) -> None:
    """Writes a net into a deeper one of its kind, whose further blocks then pass their input on.

    These come last in each stage. What is passed on is exact in evaluation; in training a plain
    net's blocks normalise by the batch instead, which their scales and shifts undo up to the
    difference between a batch's statistics and those of `images`.

    Args:
        model: the net; it stays as it is.
        deeper: of the same config but for the depth (see `require_possible`) and as it was drawn;
            changed in place.
        images: float [batch, height, width, channels], normalised.
    """
    deeper.stem_conv, deeper.stem_norm = model.stem_conv, model.stem_norm
    deeper.final_norm, deeper.head = model.final_norm, model.head
    parts = {part.name: part for part in model.parts()}
    x = parts["stem"].run(images)
    stages = zip(model.stages, deeper.stages, strict=True)
    for number, (stage, longer) in enumerate(stages, 1):
        x = parts[f"stage {number}"].run(x)
        moments = Moments(x.mean((0, 1, 2)), x.var((0, 1, 2)))
        for index, block in enumerate(longer):
            if index < len(stage):
                longer[index] = stage[index]
            else:
                _pass_on(block, moments)


def _pass_on(block: Block, moments: Moments) -> None:
    """Sets a block's values so that its output is its input, of these moments."""
    *_, last = block.convs
    if block.shortcut is None:
        for conv, norm in zip(block.convs, block.norms, strict=True):
            _as_identity(conv)
            _undo(norm, moments)
        return
    if isinstance(block.shortcut, ProjectionShortcut):
        _as_identity(block.shortcut.conv)
        if block.shortcut.norm is not None:
            _undo(block.shortcut.norm, moments)
    if "BN" in block.order.end:
        block.norms[-1].scale[...] = jnp.zeros_like(block.norms[-1].scale[...])
    else:
        last.kernel[...] = jnp.zeros_like(last.kernel[...])
    if "BN" in block.order.after:
        _undo(block.norms[-1], moments)


def _as_identity(conv: Any) -> None:
    """The convolution whose output is its input."""
    height, width, channels, _ = conv.kernel.shape
    kernel = np.zeros(conv.kernel.shape, conv.kernel.dtype)
    kernel[height // 2, width // 2] = np.eye(channels)
    conv.kernel[...] = jnp.asarray(kernel)


def _undo(norm: BatchNorm, moments: Moments) -> None:
    """A batch norm that gives a feature map of these moments back as it was."""
    norm.mean[...], norm.variance[...] = moments
    norm.bias[...] = moments.mean
    norm.scale[...] = jnp.sqrt(moments.variance + norm.numerics.epsilon)


def require_possible(config: ModelConfig, depth: int) -> None:
    """Refuses what cannot be deepened by blocks that pass their input on.

    Raises:
        InputError: if the depth is no greater, or such blocks cannot be had.
    """
    stage_sizes(dataclasses.replace(config, depth=depth))
    if depth <= config.depth:
        raise InputError(
            f"--depth={depth} must be above the run's {config.depth}{_example(config)}"
        )
    if not config.residual and (ORDERS[config.activation_order].start or config.block != "basic"):
        raise InputError(
            f"--workdir: a plain net of {config.block} blocks with activation_order="
            f"{config.activation_order!r} has no block that passes its input on: negative values "
            "or channels are lost; use basic blocks in the 'original' order, or a residual net"
        )
    if config.residual and config.shortcut_transform not in ("identity", "dropout"):
        raise InputError(
            f"--workdir: shortcut_transform={config.shortcut_transform!r} changes what a shortcut "
            "carries, so that no block passes its input on; use a net with 'identity'"
        )
    if config.residual and config.activation_order == "relu_before_addition":
        raise InputError(
            "--workdir: with activation_order='relu_before_addition' a branch that gives 0 gets no "
            "gradient and could never learn; use a net of another order"
        )


def _example(config: ModelConfig) -> str:
    """The next depth with these blocks, if the family has one."""
    for depth in range(config.depth + 1, 2 * config.depth + 9):
        try:
            stage_sizes(dataclasses.replace(config, depth=depth))
        except InputError:
            continue
        return f"; for example --depth={depth}"
    return ", which no net of its family with such blocks is"


def compare(model: ResNet, deeper: ResNet, images: jax.Array) -> tuple[Any, Any, float]:
    """Both nets' logits in evaluation mode, and the largest difference between them."""
    found = []
    for net in map(registry.functional, (model, deeper)):
        logits, _ = jax.jit(lambda p, s, x, net=net: net.apply(p, s, x, False))(
            net.params, net.stats, images
        )
        found.append(np.asarray(logits))
    return found[0], found[1], float(np.abs(found[0] - found[1]).max())


def main(argv: list[str]) -> None:
    """Deepens what the flags name."""
    del argv
    terminal.set_up_logging()
    workdir, depth = given(_WORKDIR.value), _DEPTH.value
    config = load_json(workdir / run_folder.CONFIG).model
    if depth is None:
        raise InputError("--depth is missing, for example --depth=56")
    require_possible(config, depth)
    path = pathlib.Path(_OUT.value or workdir / f"depth{depth}.safetensors")
    if path.suffix != ".safetensors" or not path.parent.is_dir():
        raise InputError(f"--out={path} must be a .safetensors file in a folder that exists")
    trained = Trained.load(workdir)
    built = registry.build(
        dataclasses.replace(config, depth=depth, weights=""),
        channels=trained.experiment.preprocessing.image_shape[-1],
        num_classes=len(trained.experiment.class_names),
        seed=trained.config.train.seed,
    )
    deeper = registry.of_blocks(built)
    images, labels = trained.training_images(IMAGES)
    deepened(trained.model, deeper, images)
    before, after, apart = compare(trained.model, deeper, images)
    torch_weights.write(deeper, path)
    wrong = [100 * float((logits.argmax(-1) != labels).mean()) for logits in (before, after)]
    print(
        f"depth {config.depth} -> {depth}: logits within {apart:.1e} on {len(images)} training "
        f"images (their largest is {np.abs(before).max():.3g}), error {wrong[0]:.2f} % -> "
        f"{wrong[1]:.2f} %"
    )
    print(f"--config.model.depth={depth} --config.model.weights={path}")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _DEPTH = flags.DEFINE_integer("depth", None, "Of the deeper net.")
    _OUT = flags.DEFINE_string("out", None, "Its weights; default RUN/depth<N>.safetensors.")
    command.run(main)
