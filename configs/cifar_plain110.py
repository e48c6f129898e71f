"""Plain-110, the twin of ResNet-110 without shortcuts. Paper, Fig. 6: "higher than 60 %".

python -m resnet_jax.main --config=configs/cifar_plain110.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    config = cifar.recipe(depth=110, residual=False)
    # The same start as its residual twin.
    config.optimizer.warmup = "until_error"
    return config
