"""ResNet-101 v1.5, 90 epochs. Published: 22.44 % top-1 error, one crop (fb.resnet.torch).

python -m resnet_jax.main --config=configs/imagenet_resnet101.py
python -m resnet_jax.main --config=configs/imagenet_resnet101.py:1024    (batch 1024, rate 0.4)

Cost: 2.7e+18 multiply-adds (7.8 G an image, three times for a step, 115 million images).
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(101, batch_size)
