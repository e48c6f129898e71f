"""What nets cost: parameters, multiply-adds, and what a training step keeps in memory.

    python -m resnet_jax.analysis.complexity [--family=imagenet]    # the published nets
    python -m resnet_jax.analysis.complexity --config=configs/digits.py [--config.model.depth=56]

Everything is read from traced programs (`models/complexity.py`): no data set is read, nothing is
compiled and nothing is written. Published parameters stand beside the counted ones.

Exit codes: 0, 2 for bad input.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import rich.console
import rich.table
from absl import flags
from ml_collections import config_flags

from resnet_jax import command, terminal
from resnet_jax import config as run_config
from resnet_jax.analysis import expected
from resnet_jax.config import ModelConfig, RunConfig

BATCH = 128  # He et al. 2015, Sec. 4.2
IMAGENET = ((224, 224, 3), 1000)
VGG_DEPTHS = (11, 13, 16, 19)  # Simonyan and Zisserman 2015, Table 1
COLUMNS = ("net", "parameters", "published", "multiply-adds", "kept", "recomputed")


class Cost(NamedTuple):
    """What a net costs.

    Attributes:
        net: its name.
        parameters: trained values.
        published: the same as the paper prints it; "" where it prints none.
        multiply_adds: for one image.
        activations: bytes that a step keeps for its backward pass.
        recomputed: the same where blocks are computed anew (`train.recompute_blocks`).
    """

    net: str
    parameters: int
    published: str
    multiply_adds: int
    activations: int
    recomputed: int


def cost(config: ModelConfig, image: tuple[int, int, int], classes: int, batch: int) -> Cost:
    """Counts what a net costs.

    Args:
        config: the net.
        image: (height, width, channels) of its images.
        classes: that it tells apart.
        batch: images in a step.

    Raises:
        InputError: if the net cannot be built.
    """
    # Imported here because it starts JAX, before which mistakes in flags are to be told.
    from resnet_jax.models import complexity, registry

    model = registry.build(config, channels=image[-1], num_classes=classes)
    net = registry.functional(model)
    kept = (
        complexity.activation_bytes(model, image, batch=batch, recompute=recompute)
        for recompute in (False, True)
    )
    return Cost(
        name(config),
        registry.count_parameters(net.params),
        expected.printed_parameters(config, image[-1], classes),
        complexity.multiply_adds(net.apply, net.params, net.stats, (1, *image)),
        *kept,
    )


def name(config: ModelConfig) -> str:
    """A net in words; what is usual is left out."""
    residual = f"ResNet-{config.depth} {config.shortcut}"
    words = [residual if config.residual else f"plain-{config.depth}"]
    usual = ModelConfig()
    if not config.has_blocks:
        words = [config.net]
        usual = ModelConfig(batch_norm="synced" if config.family == "mobilenet_v3" else "none")
    if config.family == "imagenet_resnet":  # whose blocks follow from the depth
        usual = ModelConfig(block=config.block)
        words += ["v1.5"] if config.bottleneck_stride == "3x3" else []
    for field in ("block", "activation_order", "shortcut_transform", "dtype"):
        value = getattr(config, field)
        if value != getattr(usual, field):
            words.append(value.replace("_", " "))
    if config.batch_norm != usual.batch_norm:
        words.append("without BN" if config.batch_norm == "frozen" else f"{config.batch_norm} BN")
    if config.width != usual.width:
        words.append(f"width {config.width:g}")
    return ", ".join(words)


def family(name: str = "cifar") -> Iterator[ModelConfig]:
    """Published nets by depth.

    Args:
        name: "cifar" for those of He et al. 2015, Sec. 4.2, plain and with options A, B and C;
            "imagenet" for those of its Table 1 likewise, bottlenecks with option B, for VGG nets
            without and with BN, and for those that have variants instead of depths.
    """
    if name == "cifar":
        for depth in expected.PARAMETERS:
            yield ModelConfig(depth=depth, residual=False)
            for option in "ABC":
                yield ModelConfig(depth=depth, shortcut=option)
        return
    for depth, published in expected.IMAGENET_PARAMETERS.items():
        block = "basic" if "A" in published else "bottleneck"
        net = ModelConfig(family="imagenet_resnet", depth=depth, block=block)
        if block == "basic":
            yield dataclasses.replace(net, residual=False)
        for option in published:
            yield dataclasses.replace(net, shortcut=option)
    for depth in VGG_DEPTHS:
        for batch_norm in ("none", "synced"):
            yield ModelConfig(family="vgg", depth=depth, residual=False, batch_norm=batch_norm)
    for other, variant in expected.VARIANTS_PRINTED:
        batch_norm = "none" if other == "swin" else "synced"
        yield ModelConfig(family=other, variant=variant, batch_norm=batch_norm)


def table(costs: list[Cost], title: str) -> rich.table.Table:
    """One row a net; multiply-adds in millions, bytes in MiB."""
    found = rich.table.Table(title=title, pad_edge=False)
    for heading in COLUMNS:
        found.add_column(heading, justify="left" if heading == "net" else "right")
    for row in costs:
        found.add_row(
            row.net,
            f"{row.parameters:,}",
            row.published or "-",
            f"{row.multiply_adds / 1e6:,.1f}",
            *(f"{size / 2**20:,.1f}" for size in (row.activations, row.recomputed)),
        )
    return found


def main(argv: list[str]) -> None:
    """Prints what the nets that the flags name cost."""
    del argv
    terminal.set_up_logging()
    one = None if _CONFIG.value is None else run_config.validate(command.read_config(_CONFIG))
    config = one or RunConfig()
    batch = _BATCH.value or (config.train.batch_size if one else BATCH)
    chosen = [config.model] if one else list(family(_FAMILY.value))
    image, classes = expected.image(config.data)
    if one is None and _FAMILY.value == "imagenet":
        image, classes = IMAGENET
    costs = []
    with terminal.CONSOLE.status("counting") as status:
        for model in chosen:
            status.update(f"counting {name(model)}")
            costs.append(cost(model, image, classes, batch))
    height, width, channels = image
    title = (
        f"millions of multiply-adds for one image of {height}x{width}x{channels}; MiB that a step "
        f"of {batch} keeps, and keeps if blocks are recomputed"
    )
    rich.console.Console().print(table(costs, title))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "A run's config file.")
    _FAMILY = flags.DEFINE_enum("family", "cifar", ["cifar", "imagenet"], "Without --config.")
    _BATCH = flags.DEFINE_integer("batch", None, "Images in a step; None is the config's.", 1)
    command.run(main)
