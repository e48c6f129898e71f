"""The CIFAR-10 recipe of He et al. 2015 (arXiv 1512.03385), Sec. 4.2.

SGD with momentum 0.9 and weight decay 1e-4, batch 128, learning rate 0.1 divided by 10 at 32k and
48k iterations, stop at 64k; 4-pixel padding, random crop and flip; per-pixel mean subtracted;
45,000 images for training, 5,000 held out.
"""

import ml_collections

from resnet_jax.config import default_config


def recipe(depth: int, *, residual: bool = True) -> ml_collections.ConfigDict:
    """A net of the v1 family with basic blocks and option A shortcuts, or its plain twin."""
    config = default_config()
    config.model.depth = depth
    config.model.residual = residual
    config.data.name = "cifar10"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.milestones = (32_000, 48_000)
    config.train.steps = 64_000
    config.train.batch_size = 128
    return config


def preactivation_recipe(depth: int, *, block: str) -> ml_collections.ConfigDict:
    """He et al. 2016 (arXiv 1603.05027): full pre-activation, warm-up of 400 iterations at 0.01.

    Bottlenecks change the width where stage one begins, so their shortcuts project (option B).
    """
    config = recipe(depth)
    config.model.block = block
    config.model.activation_order = "full_preactivation"
    config.model.shortcut = "B" if block == "bottleneck" else "A"
    config.optimizer.warmup = "constant"
    config.optimizer.warmup_steps = 400
    config.optimizer.warmup_learning_rate = 0.01
    return config
