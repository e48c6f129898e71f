"""Plain-20, the twin of ResNet-20 without shortcuts. Paper, Fig. 6: about 9 % by eye.

python -m resnet_jax.main --config=configs/cifar_plain20.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=20, residual=False)
