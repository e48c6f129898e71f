"""Depths on scikit-learn's 8x8 digits, which ship with it: minutes on a CPU.

    python -m resnet_jax.main --config=configs/digits.py --config.model.depth=56

A run of a few hundred steps is too short for a learning rate of 0.1 at depth 56 and more, plain or
residual; 0.01 for all nets tells them apart.
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    config = cifar.recipe(depth=20)
    config.data.name = "digits"
    config.data.crop_padding = 1
    config.data.flip = False  # a mirrored digit is another sign
    config.optimizer.learning_rate = 0.01
    config.optimizer.milestones = (80, 100)
    config.train.steps = 120
    config.train.eval_interval = 20
    config.train.eval_batch_size = 180
    config.train.checkpoint_interval = 40
    config.log.interval = 5
    return config
