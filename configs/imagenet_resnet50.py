"""ResNet-50 v1.5, 90 epochs. Published: 24.01 % top-1 error, one crop (fb.resnet.torch).

python -m resnet_jax.main --config=configs/imagenet_resnet50.py
python -m resnet_jax.main --config=configs/imagenet_resnet50.py:1024    (batch 1024, rate 0.4)

Goyal et al. 2017, Table 1, have 23.60 +- 0.12 %.
Cost: 1.4e+18 multiply-adds (4.1 G an image, three times for a step, 115 million images).
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(50, batch_size)
