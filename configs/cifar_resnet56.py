"""ResNet-56. Paper: 6.97 % test error (He et al. 2015, Table 6).

python -m resnet_jax.main --config=configs/cifar_resnet56.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=56)
