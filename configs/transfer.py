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

from resnet_jax.config import default_config
from resnet_jax.errors import InputError


def _resnet(depth: int) -> dict[str, Any]:
    """As torchvision has it: v1.5, option B."""
    bottlenecks = depth >= 50
    return {
        "family": "imagenet_resnet",
        "depth": depth,
        "block": "bottleneck" if bottlenecks else "basic",
        "bottleneck_stride": "3x3" if bottlenecks else "1x1",
        "shortcut": "B",
    }


def _mobilenet(variant: str) -> dict[str, Any]:
    return {"family": "mobilenet_v3", "variant": variant, "batch_norm_epsilon": 1e-3}


def _swin(variant: str) -> dict[str, Any]:
    return {"family": "swin", "variant": variant, "batch_norm": "none"}


# Fields of `model` by name.
BACKBONES: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": _resnet(depth) for depth in (18, 34, 50, 101, 152)},
    **{f"mobilenet_v3_{variant}": _mobilenet(variant) for variant in ("large", "small")},
    **{f"swin_{variant}": _swin(variant) for variant in ("tiny", "small", "base")},
}
STEPS = 2_812  # ten epochs of 9,000 images are 2,812.5 batches


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
    config.data.name = "cifar10"
    config.data.classes = ("airplane", "automobile")
    config.data.positive_class = "automobile"
    config.data.normalization = "imagenet"
    config.data.crop_padding = 0
    config.data.flip = False
    config.data.resize = 224
    config.transfer.trained_from = "head"
    config.transfer.cached_features = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.schedule = "constant"
    config.train.steps = STEPS
    config.train.batch_size = 32
    config.train.eval_interval = STEPS // 4
    config.train.eval_batch_size = 100
    config.train.checkpoint_interval = STEPS
    config.log.interval = STEPS // 76
    return config
