"""Plain-34, 90 epochs: the twin of ResNet-34. The paper, by its own recipe: 28.54 % on ten crops.

python -m resnet_jax.main --config=configs/imagenet_plain34.py

He et al. 2015, Table 2. Cost: as imagenet_resnet34.
"""

import ml_collections

from configs import imagenet


def get_config(batch_size: str = "") -> ml_collections.ConfigDict:
    """The run's configuration; `:1024` behind the file name sets the batch size."""
    return imagenet.ninety_epochs(34, batch_size, residual=False)
