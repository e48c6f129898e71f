"""Plain-44, the twin of ResNet-44 without shortcuts. Paper, Fig. 6: no digits printed.

python -m resnet_jax.main --config=configs/cifar_plain44.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=44, residual=False)
