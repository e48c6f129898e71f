"""Which net a state dict is of, by the names and shapes of its arrays alone."""

import re
from collections.abc import Mapping

from resnet_jax.config import ModelConfig
from resnet_jax.config.families import CIFAR_CONVOLUTIONS, IMAGENET, SWIN_WIDTH, VARIANTS, VGG
from resnet_jax.models.mobilenet_v3 import ROWS, STEM_WIDTH
from resnet_jax.models.torch_names import NO_WEIGHTS
from resnet_jax.models.torch_names_mobilenet_v3 import timm_places
from resnet_jax.models.windows import WINDOW

UNKNOWN = "no net known here"
# All names that nets of a family have, whatever their head is like. Others have more: ResNets with
# squeeze and excitation, EfficientNets, Swin Transformers of the second version.
RESNET = re.compile(
    r"(conv1|bn1|bn|layer\d+\.\d+\.(conv\d|bn\d|gate|(downsample|shortcut)\.[01]))\.\w+"
    r"|(fc|linear)\..+"
)
VGG_NAMES = re.compile(r"(features\.\d+|pre_logits\.fc[12])\.\w+|(classifier|head)\..+")

Shapes = Mapping[str, tuple[int, ...]]


def recognise(shapes: Shapes) -> str:
    """What a state dict looks like.

    Args:
        shapes: of its arrays, by PyTorch name.

    Returns:
        For example "ResNet-50 (torchvision's names)", "VGG-16 with BN, width 0.5 (timm's names)",
        "a CIFAR ResNet of depth 56 (akamaster's names)" (which a plain net's file cannot be told
        from, nor one of option A), or "no net known here".
    """
    weights = {name: shape for name, shape in shapes.items() if not name.endswith(NO_WEIGHTS)}
    for of_family in (_resnet, _vgg, _mobilenet_v3, _swin):
        if found := of_family(weights):
            return found
    return UNKNOWN


def _resnet(shapes: Shapes) -> str:
    sizes = _sizes(shapes, r"layer(\d+)\.(\d+)\.conv1\.weight")
    if not sizes or "conv1.weight" not in shapes or not all(map(RESNET.fullmatch, shapes)):
        return ""
    width = shapes["conv1.weight"][0]
    # Wide ResNets and ResNeXts have another number of inner channels, or groups of them.
    if shapes.get("layer1.0.conv2.weight", ())[:2] != (width, width):
        return ""
    block = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    order = ", pre-activated" if "bn.weight" in shapes else ""
    known = any("downsample" in name or name.startswith("fc.") for name in shapes)
    naming = "torchvision" if known else "akamaster"
    if len(sizes) == 3 and len(set(sizes)) == 1:
        depth = CIFAR_CONVOLUTIONS[block] * sizes[0] + 2
        return f"a CIFAR ResNet of depth {depth}{order}{_scaled(width / 16)} ({naming}'s names)"
    depths = [depth for depth, kind in IMAGENET.items() if kind == (block, sizes)]
    return f"ResNet-{depths[0]}{order}{_scaled(width / 64)} ({naming}'s names)" if depths else ""


def _vgg(shapes: Shapes) -> str:
    convolutions = [
        shape
        for name, shape in shapes.items()
        if re.fullmatch(r"features\.\d+\.weight", name) and len(shape) == 4
    ]
    depth = len(convolutions) + 3
    square = all(shape[2:] == (3, 3) for shape in convolutions)
    if depth not in VGG or not square or not all(map(VGG_NAMES.fullmatch, shapes)):
        return ""
    normalized = " with BN" if any("running" in name for name in shapes) else ""
    timm = any(name.startswith("pre_logits") for name in shapes)
    width = _scaled(convolutions[0][0] / 64)
    return f"VGG-{depth}{normalized}{width} ({'timm' if timm else 'torchvision'}'s names)"


def _mobilenet_v3(shapes: Shapes) -> str:
    flat = _sizes(shapes, r"features\.(\d+)\.block\.0\.0\.weight")
    staged = _sizes(shapes, r"blocks\.(\d+)\.(\d+)\.conv_dw\.weight")
    squeezed = sum(name.endswith((".fc1.weight", ".conv_reduce.weight")) for name in shapes)
    for variant, rows in ROWS.items():
        places = timm_places(variant)
        stages = tuple(sum(s == stage for s, _ in places) for stage in range(places[-1][0] + 1))
        if squeezed != sum(row.squeezed for row in rows):
            continue
        naming = "torchvision" if len(flat) == len(rows) else "timm" if staged == stages else ""
        stem = shapes.get({"torchvision": "features.0.0.weight"}.get(naming, "conv_stem.weight"))
        # EfficientNets of timm have a BN there, and no bias.
        if not naming or not stem or (naming == "timm" and "conv_head.bias" not in shapes):
            continue
        width = "" if stem[0] == STEM_WIDTH else ", another width"
        net = ModelConfig(family="mobilenet_v3", variant=variant).net
        return f"{net}{width} ({naming}'s names)"
    return ""


def _swin(shapes: Shapes) -> str:
    if any(name.endswith("logit_scale") for name in shapes):
        return ""
    naming, sizes = "torchvision", _sizes(shapes, r"features\.(\d+)\.(\d+)\.attn\.qkv\.weight")
    stem = shapes.get("features.0.0.weight", ())
    if not sizes:
        sizes = _sizes(shapes, r"layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv\.weight")
        stem = shapes.get("patch_embed.proj.weight", ())
        first = any(name.startswith("layers.0.downsample") for name in shapes)
        naming = "microsoft" if first else "timm"
    tables = {shape[0] for name, shape in shapes.items() if name.endswith("bias_table")}
    variants = [variant for variant, known in VARIANTS["swin"].items() if known == sizes]
    if not variants or not stem or tables != {(2 * WINDOW - 1) ** 2}:
        return ""
    variant = min(variants, key=lambda one: SWIN_WIDTH[one] != stem[0])
    net = ModelConfig(family="swin", variant=variant).net
    return f"{net}{_scaled(stem[0] / SWIN_WIDTH[variant])} ({naming}'s names)"


def _sizes(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """How many names have each of the first numbers that a pattern finds, in order of these."""
    numbers = [int(found[1]) for name in shapes if (found := re.fullmatch(pattern, name))]
    return tuple(numbers.count(number) for number in sorted(set(numbers)))


def _scaled(width: float) -> str:
    return "" if width == 1 else f", width {width:g}"
