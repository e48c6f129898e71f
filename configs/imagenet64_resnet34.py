"""ResNet-34 with option A at 64x64 pixels: the paper's recipe for a twelfth of the cost.

python -m resnet_jax.main --config=configs/imagenet64_resnet34.py
python -m experiments.imagenet_degradation --config=configs/imagenet64_resnet34.py

No published number: the paper's nets see 224x224 pixels. The original images are decoded, so that
nothing has to be prepared; the last feature map has 2x2 pixels.
"""

import ml_collections

from configs import imagenet


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return imagenet.downsampled(imagenet.he_2015(34))
