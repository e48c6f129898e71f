"""ResNet-1202. Paper: 7.93 % test error (He et al. 2015, Table 6).

python -m resnet_jax.main --config=configs/cifar_resnet1202.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    config = cifar.recipe(depth=1202)
    # He 2015, Sec. 4.2: 0.1 is slightly too large to start; 0.01 until the error is below 80 %.
    config.optimizer.warmup = "until_error"
    return config
