"""Nets of all families for ImageNet, built in a moment."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.models import registry


def resnet(depth, **fields):
    block = "basic" if depth < 50 else "bottleneck"
    return ModelConfig(**{"family": "imagenet_resnet", "depth": depth, "block": block, **fields})


def vgg(depth, *, normalized=False, **fields):
    batch_norm = "synced" if normalized else "none"
    return ModelConfig(
        **{"family": "vgg", "depth": depth, "residual": False, "batch_norm": batch_norm, **fields}
    )


def mobilenet_v3(variant, **fields):
    return ModelConfig(**{"family": "mobilenet_v3", "variant": variant, **fields})


def swin(variant, **fields):
    return ModelConfig(**{"family": "swin", "variant": variant, "batch_norm": "none", **fields})


def build(config, *, channels=3, num_classes=7, axis_name=None):
    """A net whose kernels are drawn by NumPy: JAX would compile a program for each of their shapes.

    Their deviation is He's, by fan in; all else is as the net has it, zeros or ones.
    """
    random = np.random.RandomState(0)

    def value(path, leaf):
        name = path[-2].key  # of the variable, whose array is what it holds
        if name == "kernel":
            deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return jnp.asarray(random.normal(0, deviation, leaf.shape), leaf.dtype)
        filled = np.ones if name in ("scale", "variance") else np.zeros
        return jnp.asarray(filled(leaf.shape, leaf.dtype))

    shapes = nnx.eval_shape(
        lambda: registry.build(
            config, channels=channels, num_classes=num_classes, axis_name=axis_name
        )
    )
    graphdef, state = nnx.split(shapes)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(value, state))
