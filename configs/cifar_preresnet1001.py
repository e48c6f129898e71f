"""Pre-activation ResNet-1001. Paper: 4.92 % test error, 4.62 % at batch 64 (He 2016, Table 4).

python -m resnet_jax.main --config=configs/cifar_preresnet1001.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return cifar.preactivation_recipe(depth=1001, block="bottleneck")
