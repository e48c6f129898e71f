"""VGG-19 with BN, 90 epochs. Published: 25.78 % top-1 error, one crop (torchvision's weights).

python -m resnet_jax.main --config=configs/imagenet_vgg19_bn.py

Cost: 6.8e+18 multiply-adds (19.6 G an image), five times ResNet-34's.
"""

import ml_collections

from configs import imagenet


def get_config() -> ml_collections.ConfigDict:
    """The run's configuration."""
    return imagenet.vgg(19, batch_norm=True)
