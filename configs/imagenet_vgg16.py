"""VGG-16 without BN, 90 epochs. Published: 28.41 % top-1 error, one crop (torchvision's weights).

python -m resnet_jax.main --config=configs/imagenet_vgg16.py

Cost: 5.4e+18 multiply-adds (15.5 G an image), five times ResNet-34's.
"""

import ml_collections

from configs import imagenet


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return imagenet.vgg(16, batch_norm=False)
