"""What a config says that each block computes, written down a second time.

Nothing here calls the code of `models`: widths, strides, shortcuts, sums and what follows them come
from the config and the papers (He et al. 2015, arXiv 1512.03385; He et al. 2016, arXiv 1603.05027)
alone, so that a mistake in a block cannot be a mistake here too.
"""

import math
from typing import NamedTuple

from resnet_jax.config import DataConfig, ModelConfig, stage_sizes

# Of the published data sets: (height, width, channels) and the number of classes.
IMAGES = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "digits": ((8, 8, 1), 10)}
# He 2015, Table 6, gives 0.27M to 19.4M; the exact values follow from its Sec. 4.2. By depth, for
# options A, B and C on CIFAR-10; a plain net has A's.
PARAMETERS = {
    20: (269_722, 272_474, 283_962),
    32: (464_154, 466_906, 489_594),
    44: (658_586, 661_338, 695_226),
    56: (853_018, 855_770, 900_858),
    110: (1_727_962, 1_730_714, 1_826_202),
    1202: (19_421_274, 19_424_026, 20_538_714),
}
# As He 2015, Table 6, prints them; of option A, which is that of all nets in the table.
PRINTED = {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.7M", 1202: "19.4M"}
# He 2016, Table 4: full pre-activation, bottlenecks, option B.
PREACTIVATION_PARAMETERS = {164: 1_703_258, 1001: 10_327_706}
PREACTIVATION_PRINTED = {164: "1.7M", 1001: "10.2M"}
# The nets of He 2015, Table 1, for 1,000 classes, as for options A, B and C where the paper has
# them; it prints no counts, and these are widely published ones (torchvision's, of option B).
IMAGENET_PARAMETERS = {
    18: {"A": 11_515_688, "B": 11_689_512},
    34: {"A": 21_623_848, "B": 21_797_672, "C": 22_716_840},
    50: {"B": 25_557_032},
    101: {"B": 44_549_160},
    152: {"B": 60_192_808},
}
# Billions of multiply-adds for an image of 224x224: He 2015, Table 1, and Sec. 3.3 for VGG-19. The
# paper has two digits, and bottlenecks that stride in their 1x1 convolution.
IMAGENET_MULTIPLY_ADDS = {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.6, 152: 11.3}
# Howard et al. 2019 (arXiv 1905.02244), Table 3; Liu et al. 2021 (arXiv 2103.14030), Table 1.
VARIANTS_PRINTED = {
    ("mobilenet_v3", "large"): "5.4M",
    ("mobilenet_v3", "small"): "2.5M",
    ("swin", "tiny"): "29M",
    ("swin", "small"): "50M",
    ("swin", "base"): "88M",
}


class Place(NamedTuple):
    """One block of a net as the config describes it; stages and blocks are counted from 1."""

    stage: int
    block: int
    position: int
    in_width: int
    width: int
    stride: int

    def __str__(self) -> str:
        """As failures name it."""
        return f"stage {self.stage}, block {self.block}"

    @property
    def changes_shape(self) -> bool:
        """Whether its output is of another shape than its input."""
        return self.stride != 1 or self.in_width != self.width

    @property
    def kind(self) -> "Place":
        """The same for all blocks that compute alike."""
        # Only where the shape changes does the very first one differ (`activates_first`).
        position = min(self.position, 1) if self.changes_shape else 1
        return self._replace(stage=0, block=0, position=position)


class Stem(NamedTuple):
    """What comes before the first block.

    Attributes:
        width: its filters.
        kernel: their side, in pixels.
        reduction: by how much it divides the image's side.
    """

    width: int
    kernel: int
    reduction: int


def stem(config: ModelConfig) -> Stem:
    """He 2015, Table 1: "7x7, 64, stride 2" and "3x3 max pool, stride 2"; Sec. 4.2: 3x3, 16."""
    if config.family == "cifar_resnet":
        return Stem(round(16 * config.width), 3, 1)
    width = round(64 * config.width)
    return Stem(width, 3, 1) if config.stem == "3x3" else Stem(width, 7, 4)


def places(config: ModelConfig) -> list[Place]:
    """All blocks from the stem to the head (He 2015, Table 1 and Sec. 4.2)."""
    found: list[Place] = []
    first = stem(config).width
    before = first
    for stage, count in enumerate(stage_sizes(config), 1):
        width = first * 2 ** (stage - 1) * (4 if config.block == "bottleneck" else 1)
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            found.append(Place(stage, block, len(found), before, width, stride))
            before = width
    return found


def image(config: DataConfig) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) and the number of classes of the configured data set."""
    if config.name == "synthetic":
        size = config.synthetic
        shape, classes = (size.image_size, size.image_size, size.channels), size.classes
    elif config.is_streamed:
        # How many classes a folder has is not known before it is read; nets are alike but for that.
        shape, classes = (config.image_size, config.image_size, 3), 1_000
    else:
        shape, classes = IMAGES[config.name]
    return shape, len(config.classes) or classes


def published_parameters(config: ModelConfig, channels: int, num_classes: int) -> int | None:
    """The published number of parameters of this net, or None if it is not a published one."""
    if not (config.has_blocks and _is_of_papers_size(config, channels, num_classes)):
        return None
    if config.family == "imagenet_resnet":
        published = IMAGENET_PARAMETERS.get(config.depth, {})
        original = config.activation_order == "original"
        return published.get(config.shortcut if config.residual else "A") if original else None
    if config.block == "basic" and config.activation_order == "original":
        option = "ABC".index(config.shortcut) if config.residual else 0
        return PARAMETERS.get(config.depth, (None,) * 3)[option]
    return PREACTIVATION_PARAMETERS.get(config.depth) if _is_deep(config) else None


def printed_parameters(config: ModelConfig, channels: int, num_classes: int) -> str:
    """The number of parameters as a paper prints it beside this net; "" if none does."""
    if not _is_of_papers_size(config, channels, num_classes):
        return ""
    if config.family != "cifar_resnet":
        return VARIANTS_PRINTED.get((config.family, config.variant), "")
    net = (config.block, config.activation_order, config.shortcut, config.residual)
    if net == ("basic", "original", "A", True):
        return PRINTED.get(config.depth, "")
    return PREACTIVATION_PRINTED.get(config.depth, "") if _is_deep(config) else ""


def _is_of_papers_size(config: ModelConfig, channels: int, num_classes: int) -> bool:
    net = (channels, config.width, config.stem, config.shortcut_transform, config.auxiliary_weight)
    classes = 10 if config.family == "cifar_resnet" else 1000
    return net == (3, 1, "", "identity", 0) and num_classes == classes


def _is_deep(config: ModelConfig) -> bool:
    """Whether it is of the kind of He 2016, Table 4."""
    net = (config.block, config.activation_order, config.shortcut, config.residual)
    return net == ("bottleneck", "full_preactivation", "B", True)


def shortcut_kind(config: ModelConfig, place: Place) -> str:
    """'none', 'identity', 'zero-pad' or 'projection' (He 2015, Sec. 4.1, options A, B and C)."""
    # He 2016, Table 1, of scaling by (0, 1): "This is a plain net".
    scaled_away = config.shortcut_transform == "constant_scaling" and (
        (config.shortcut_scale, config.branch_scale) == (0, 1)
    )
    if not config.residual or scaled_away:
        return "none"
    if config.shortcut == "C" or (config.shortcut == "B" and place.changes_shape):
        return "projection"
    return "zero-pad" if place.changes_shape else "identity"


def is_gated(config: ModelConfig) -> bool:
    """Whether gates scale the shortcuts (He 2016, Fig. 2c and 2d)."""
    return config.shortcut_transform in ("exclusive_gating", "shortcut_only_gating")


def is_identity(config: ModelConfig, place: Place) -> bool:
    """Whether the block gives back a positive x where its branch is zero."""
    one = config.shortcut_scale == config.branch_scale == 1
    unscaled = config.shortcut_transform in ("identity", "dropout") or (
        config.shortcut_transform == "constant_scaling" and one
    )
    plain_after = config.activation_order != "bn_after_addition"
    return shortcut_kind(config, place) == "identity" and unscaled and plain_after


def passes_gradient(config: ModelConfig) -> bool:
    """Whether gradient passes through a block whose branch lets none through."""
    annihilated = config.shortcut_transform == "constant_scaling" and config.shortcut_scale == 0
    return config.residual and not annihilated


def plain_parameters(config: ModelConfig, place: Place) -> int:
    """Parameters of the block's plain twin: kernels (He 2015, Fig. 5), two a channel of each BN."""
    before, width = place.in_width, place.width
    if config.block == "basic":
        kernels, within = 9 * before * width + 9 * width * width, width
    else:
        inner = width // 4
        kernels, within = before * inner + 9 * inner * inner + inner * width, 2 * inner
    if config.activation_order == "full_preactivation":
        # The first block's first BN is the stem's.
        return kernels + 2 * (within + before * (place.position > 0))
    return kernels + 2 * (within + width)


def parameters_outside_blocks(config: ModelConfig, channels: int, num_classes: int) -> int:
    """Parameters of stem and heads, and of the last BN of a fully pre-activated net."""
    blocks, (first, kernel, _) = places(config), stem(config)
    last = blocks[-1].width
    widths = {place.stage: place.width for place in blocks}.values()
    read = [width for width in widths if width == last or config.auxiliary_weight]
    before = kernel**2 * channels * first + 2 * first
    heads = sum((width + 1) * num_classes for width in read)
    return before + heads + 2 * last * (config.activation_order == "full_preactivation")


def more_parameters(config: ModelConfig, place: Place) -> int:
    """How many more a block has than its plain twin: none but for projections and gates."""
    kind = shortcut_kind(config, place)
    if kind == "none":
        return 0
    matrix = place.in_width * place.width
    projection = matrix + 2 * place.width * branch_ends_in_norm(config)
    gate = matrix + place.width
    return projection * (kind == "projection") + gate * is_gated(config)


def formula(config: ModelConfig, place: Place) -> str:
    """What the block computes, in the papers' letters."""
    start = "x"
    if activates_first(config, place):
        start = "ReLU(BN(x))" if config.activation_order == "full_preactivation" else "ReLU(x)"
    names = {
        "identity": start,
        "zero-pad": start
        + (" at every 2nd pixel" if place.stride == 2 else "")
        + " with zeros for new channels",
        "projection": f"W {start}",
    }
    kind = shortcut_kind(config, place)
    h = names.get(kind, "")
    s, b = config.shortcut_scale, config.branch_scale
    total = {
        "identity": f"F + {h}",
        "constant_scaling": f"F + {h}" if s == b == 1 else f"{b:g} F + {s:g} {h}",
        "annealed_scaling": f"{b:g} F + s {h}",
        "exclusive_gating": f"g F + (1 - g) {h}",
        "shortcut_only_gating": f"F + (1 - g) {h}",
        "dropout": f"F + dropout({h})",
    }[config.shortcut_transform]
    total = "F" if kind == "none" else total
    after = {"original": "ReLU({})", "bn_after_addition": "ReLU(BN({}))"}
    return after.get(config.activation_order, "{}").format(total)


def branch_ends_in_norm(config: ModelConfig) -> bool:
    """Whether F is what a BN makes, with or without a ReLU (He 2016, Fig. 4a, c and d)."""
    return config.activation_order not in ("bn_after_addition", "full_preactivation")


def activates_first(config: ModelConfig, place: Place) -> bool:
    """He 2016, appendix: where a pre-activated block changes the shape, but for the first one."""
    preactivated = config.activation_order in ("relu_only_preactivation", "full_preactivation")
    return preactivated and place.changes_shape and place.position > 0


def stage_shapes(config: ModelConfig, height: int, width: int) -> list[tuple[int, int, int]]:
    """(height, width, channels) of the stages' feature maps (He 2015, Table 1 and Sec. 4.2)."""
    widths = {place.stage: place.width for place in places(config)}
    found = []
    for stage in sorted(widths):
        by = stem(config).reduction * 2 ** (stage - 1)
        found.append((math.ceil(height / by), math.ceil(width / by), widths[stage]))
    return found
