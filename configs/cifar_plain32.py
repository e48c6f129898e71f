"""Plain-32, the twin of ResNet-32 without shortcuts. Paper, Fig. 6: no digits printed.

python -m resnet_jax.main --config=configs/cifar_plain32.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=32, residual=False)
