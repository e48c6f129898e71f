"""The families of nets: which depths each has, and which fields say something of it.

What one of their nets would ignore is refused, for it would stand in the run's record all the same.
"""

from resnet_jax.config.effects import require_default
from resnet_jax.config.schema import ModelConfig, RunConfig
from resnet_jax.errors import InputError

# Convolutions of a CIFAR net's three stages together, for each of a stage's n blocks: the depth is
# 6n + 2 (He et al. 2015, arXiv 1512.03385, Sec. 4.2) or 9n + 2 (He et al. 2016, arXiv 1603.05027).
CIFAR_CONVOLUTIONS = {"basic": 6, "bottleneck": 9}
# Kind of block and blocks in each stage by depth: He 2015, Table 1. 200 is of He 2016, Table 5; its
# stages are those of the published code (resnet-1k-layers, fb.resnet.torch).
IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# 3x3 convolutions in each stage by depth, three fully connected layers not among them: Simonyan and
# Zisserman 2015 (arXiv 1409.1556), Table 1, columns A, B, D and E.
VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# Filters of the first stage where `width` is 1; all other numbers are multiples of it.
FIRST_WIDTH = {"cifar_resnet": 16, "imagenet_resnet": 64, "vgg": 64}
# Fully connected layers between the last feature map and the head.
HIDDEN = {"vgg": 2}
# Fields that a family does not read, beside `residual`, which has to be False in a VGG net.
UNREAD = {
    "cifar_resnet": ("stem",),
    "imagenet_resnet": (),
    "vgg": (
        *("block", "activation_order", "shortcut", "zero_padding", "bottleneck_stride", "stem"),
        "auxiliary_weight",
    ),
}


def stage_sizes(config: ModelConfig) -> tuple[int, ...]:
    """How many blocks each stage of a net has; of a VGG net, how many convolutions.

    Raises:
        InputError: if the family has no net of this depth, or none with these blocks.
    """
    if config.family == "vgg":
        if config.depth not in VGG:
            raise InputError(_no_depth(config, tuple(VGG)))
        return VGG[config.depth]
    if config.family == "imagenet_resnet":
        return _imagenet_stages(config)
    convolutions = CIFAR_CONVOLUTIONS[config.block]
    n, rest = divmod(config.depth - 2, convolutions)
    if n < 1 or rest:
        low = max(n, 1) * convolutions + 2
        raise InputError(
            f"config.model.depth must be {convolutions}n + 2 with {config.block} blocks, got "
            f"{config.depth}; the nearest are {low} and {low + convolutions}"
        )
    return (n, n, n)


def part_names(config: ModelConfig) -> tuple[str, ...]:
    """The parts of a net that training can begin at, in order; before them there is a stem at most.

    Raises:
        InputError: as `stage_sizes`.
    """
    stages = [f"stage {number}" for number in range(1, len(stage_sizes(config)) + 1)]
    hidden = [f"hidden layer {number}" for number in range(1, HIDDEN.get(config.family, 0) + 1)]
    return (*stages, *hidden, "head")


def _imagenet_stages(config: ModelConfig) -> tuple[int, ...]:
    if config.depth not in IMAGENET:
        raise InputError(_no_depth(config, tuple(IMAGENET)))
    block, sizes = IMAGENET[config.depth]
    if config.block != block:
        raise InputError(
            f"config.model.block={config.block!r} does not go with config.model.depth="
            f"{config.depth} of 'imagenet_resnet', which is made of {block} blocks; use {block!r}"
        )
    return sizes


def _no_depth(config: ModelConfig, depths: tuple[int, ...]) -> str:
    nearest = min(depths, key=lambda depth: (abs(depth - config.depth), depth))
    return (
        f"config.model.depth must be one of {', '.join(map(str, depths))} with "
        f"config.model.family={config.family!r}, got {config.depth}; the nearest is {nearest}"
    )


def check(run: RunConfig) -> None:
    """Compares the fields of a run's net with its family.

    Raises:
        InputError: if the family has no such net, or a field would have no effect.
    """
    model = run.model
    stage_sizes(model)
    for name in UNREAD[model.family]:
        require_default(model, "model", name, f"config.model.family={model.family!r}")
    first = FIRST_WIDTH[model.family]
    if (first * model.width) % 1:
        raise InputError(
            f"config.model.width={model.width:g} gives {first * model.width:g} filters in the "
            f"first stage; use a multiple of 1/{first}"
        )
    if model.family == "vgg":
        _check_vgg(run)
    elif model.batch_norm == "none":
        raise InputError(
            "config.model.batch_norm='none' is for config.model.family='vgg'; use 'frozen', which "
            "scales and shifts and normalises nothing"
        )


def _check_vgg(run: RunConfig) -> None:
    model = run.model
    if model.residual:
        raise InputError(
            "config.model.residual=True, but a VGG net has no shortcuts; use False with "
            "config.model.family='vgg'"
        )
    if model.batch_norm == "none":
        for name in ("batch_norm_decay", "batch_norm_epsilon"):
            require_default(model, "model", name, "config.model.batch_norm='none'")
    reason = "config.model.family='vgg', whose stages are not made of blocks"
    require_default(run.train, "train", "recompute_blocks", reason)
    if run.train.block_loop == "always":
        raise InputError(
            f"config.train.block_loop='always' has no effect with {reason}; use 'auto' or 'never'"
        )
