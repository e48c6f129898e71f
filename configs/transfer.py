"""A head on frozen parts: airplane against automobile, ten epochs of AdamW at 1e-4, batch 32.

python -m resnet_jax.main --config=configs/transfer.py:swin_tiny    (a random backbone)
python -m resnet_jax.main --config=configs/transfer.py --config.model.weights=resnet50.safetensors

The protocol of comparisons that train a head alone on each of several published nets. What these
leave open is set here, in the open: images of CIFAR-10, brought to 224 pixels (`data.resize`),
normalised as the nets were trained, not augmented, 1,000 of them held out as val; PyTorch's weight
decay; automobile counts as positive. docs/transfer.md.
"""

from typing import Any

import ml_collections

from resnet_jax.config import default_config, torchvision
from resnet_jax.errors import InputError

# Fields of `model` by name.
BACKBONES = {name: net for name, net in torchvision.NETS.items() if net["family"] != "vgg"}
STEPS = 2_812  # ten epochs of 9,000 images are 2,812.5 batches
# All but the backbone and the input size.
RECIPE: dict[str, Any] = {
    "data.classes": ("airplane", "automobile"),
    "data.positive_class": "automobile",
    "data.normalization": "imagenet",
    "data.crop_padding": 0,
    "data.flip": False,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.weight_decay": 0.01,
    "optimizer.schedule": "constant",
    "train.steps": STEPS,
    "train.batch_size": 32,
    "train.eval_interval": STEPS // 4,
    "train.checkpoint_interval": STEPS,
    "log.interval": STEPS // 76,
}
HEAD = {"transfer.trained_from": "head", "transfer.cached_features": True}


def backbone(name: str) -> dict[str, Any]:
    """The fields of `model` that make a backbone, with the defaults of what only others set.

    Raises:
        InputError: if there is none of this name.
    """
    if name not in BACKBONES:
        raise InputError(f"{name!r} is no backbone; use one of {', '.join(BACKBONES)}")
    defaults = default_config().model.to_dict()
    others = {field: defaults[field] for fields in BACKBONES.values() for field in fields}
    return others | BACKBONES[name]


def get_config(name: str = "resnet50") -> ml_collections.ConfigDict:
    """The run's configuration; `:swin_tiny` behind the file's name chooses the backbone."""
    config = default_config()
    config.model.update(backbone(name))
    config.update_from_flattened_dict({**RECIPE, **HEAD})
    config.data.name = "cifar10"
    config.data.resize = 224
    config.train.eval_batch_size = 100
    return config
