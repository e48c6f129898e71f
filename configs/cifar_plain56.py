"""Plain-56, the twin of ResNet-56 without shortcuts. Paper, Fig. 6: about 13 % by eye.

python -m resnet_jax.main --config=configs/cifar_plain56.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=56, residual=False)
