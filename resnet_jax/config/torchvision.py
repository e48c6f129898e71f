"""The nets that torchvision has, as fields of `config.model`."""

from typing import Any


def _resnet(depth: int) -> dict[str, Any]:
    # Stride lies in the 3x3 convolutions of bottlenecks (v1.5); basic blocks have no choice.
    block, stride = ("basic", "1x1") if depth < 50 else ("bottleneck", "3x3")
    return {
        **{"family": "imagenet_resnet", "depth": depth, "block": block},
        **{"shortcut": "B", "bottleneck_stride": stride},
    }


def _vgg(depth: int, batch_norm: str) -> dict[str, Any]:
    return {"family": "vgg", "depth": depth, "residual": False, "batch_norm": batch_norm}


def _mobilenet_v3(variant: str) -> dict[str, Any]:
    return {"family": "mobilenet_v3", "variant": variant, "batch_norm_epsilon": 1e-3}


def _swin(variant: str) -> dict[str, Any]:
    return {"family": "swin", "variant": variant, "batch_norm": "none"}


NETS: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": _resnet(depth) for depth in (18, 34, 50, 101, 152)},
    **{f"mobilenet_v3_{variant}": _mobilenet_v3(variant) for variant in ("large", "small")},
    **{f"swin_{variant}": _swin(variant) for variant in ("tiny", "small", "base")},
    **{f"vgg{depth}": _vgg(depth, "none") for depth in (16, 19)},
    **{f"vgg{depth}_bn": _vgg(depth, "synced") for depth in (16, 19)},
}
