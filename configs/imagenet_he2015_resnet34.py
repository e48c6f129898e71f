"""ResNet-34 with option A, as in He et al. 2015, Table 2: 25.03 % top-1 error on ten crops.

python -m resnet_jax.main --config=configs/imagenet_he2015_resnet34.py
python -m experiments.imagenet_degradation               (beside ResNet-18, plain-18 and plain-34)

Cost: 1.7e18 multiply-adds (3.6 G an image, three times for a step, 154 million images).
"""

import ml_collections

from configs import imagenet


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return imagenet.he_2015(34)
