"""Pre-activation ResNet-164. Paper: 5.46 % test error (He et al. 2016, Tables 2 to 4).

python -m resnet_jax.main --config=configs/cifar_preresnet164.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.preactivation_recipe(depth=164, block="bottleneck")
