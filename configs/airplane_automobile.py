"""Two classes of CIFAR-10, as many of each: minutes on a CPU.

    python -m resnet_jax.main --config=configs/airplane_automobile.py

A short recipe to try evaluation with, not one of the papers'.
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    config = cifar.recipe(depth=20)
    config.data.classes = ("airplane", "automobile")
    config.data.positive_class = "automobile"
    config.optimizer.learning_rate = 0.05
    config.optimizer.milestones = (250, 350)
    config.train.steps = 400
    config.train.eval_interval = 100
    config.train.checkpoint_interval = 100
    config.log.interval = 10
    return config
