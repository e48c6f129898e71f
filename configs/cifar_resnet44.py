"""ResNet-44. Paper: 7.17 % test error (He et al. 2015, Table 6).

python -m resnet_jax.main --config=configs/cifar_resnet44.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=44)
