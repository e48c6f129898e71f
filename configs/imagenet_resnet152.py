"""ResNet-152 v1.5, 90 epochs. Published: 22.16 % top-1 error, one crop (fb.resnet.torch).

python -m resnet_jax.main --config=configs/imagenet_resnet152.py
python -m resnet_jax.main --config=configs/imagenet_resnet152.py:1024    (batch 1024, rate 0.4)

Cost: 4.0e+18 multiply-adds (11.5 G an image, three times for a step, 115 million images).
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(152, batch_size)
