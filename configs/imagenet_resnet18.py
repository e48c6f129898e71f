"""ResNet-18, 90 epochs. Published: 30.43 % top-1 error, one crop (fb.resnet.torch).

python -m resnet_jax.main --config=configs/imagenet_resnet18.py
python -m resnet_jax.main --config=configs/imagenet_resnet18.py:1024    (batch 1024, rate 0.4)

Cost: 6.2e+17 multiply-adds (1.8 G an image, three times for a step, 115 million images).
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(18, batch_size)
