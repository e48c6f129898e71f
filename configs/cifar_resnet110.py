"""ResNet-110. Paper: 6.61 % test error (He et al. 2015, Table 6), mean of 5 runs.

python -m resnet_jax.main --config=configs/cifar_resnet110.py
"""

import ml_collections

from configs import cifar


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    config = cifar.recipe(depth=110)
    # He 2015, Sec. 4.2: 0.1 is slightly too large to start; 0.01 until the error is below 80 %.
    config.optimizer.warmup = "until_error"
    return config
