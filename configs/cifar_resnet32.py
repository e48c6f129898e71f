"""ResNet-32. Paper: 7.51 % test error (He et al. 2015, Table 6).

python -m resnet_jax.main --config=configs/cifar_resnet32.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.recipe(depth=32)
