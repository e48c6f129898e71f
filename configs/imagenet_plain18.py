"""Plain-18, 90 epochs: the twin of ResNet-18. The paper, by its own recipe: 27.94 % on ten crops.

python -m resnet_jax.main --config=configs/imagenet_plain18.py

He et al. 2015, Table 2. Cost: as imagenet_resnet18.
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(18, batch_size, residual=False)
