"""Frozen backbones on the same footing: what a head learns on each, at several input sizes.

    python -m experiments.transfer --workdir=runs/transfer --sizes=32
    python -m experiments.transfer --sizes=32,64,96,128,224 --weights=published
    python -m experiments.transfer --weights=resnet50=r50.safetensors,swin_tiny=swin.safetensors

Every backbone at every size with every seed, by configs/transfer.py: each image goes through the
frozen parts once, and a head is trained on what comes out. Without weights the backbones are drawn
at random, which shows what the comparison makes of nets that know nothing. When all runs are done,
each backbone's cost is measured, one after another, and the report is written: docs/transfer.md.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from configs import transfer
from experiments import command_line, costs
from experiments.grid import Row, seeded
from resnet_jax.errors import InputError
from resnet_jax.models import published_weights

BACKBONES = ("resnet50", "mobilenet_v3_large", "swin_tiny")
SIZES = (32, 64, 96, 128, 224)
SEEDS = (0, 1, 2)
LEAST = 8  # pixels
# Features that seeds share lie here, in the sweep's folder; reports leave hidden folders out.
FEATURES = ".features"


def rows(
    *,
    backbones: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    weights: dict[str, str],
    features_dir: str = "",
) -> list[Row]:
    """Every backbone at every size with every seed.

    Args:
        backbones: names in `configs.transfer.BACKBONES`.
        sizes: of the images, in pixels.
        seeds: one run each.
        weights: as `config.model.weights` by backbone; the others are drawn at random.
        features_dir: as `config.transfer.features_dir`.

    Raises:
        InputError: if a backbone is not known, weights are given for none of them, or a size is too
            small.
    """
    if too_small := [size for size in sizes if size < LEAST]:
        raise InputError(
            f"--sizes must be {LEAST} pixels or more, got {too_small[0]}; these nets leave nothing "
            "of smaller images"
        )
    if unused := sorted(set(weights) - set(backbones)):
        raise InputError(
            f"--weights names {unused[0]!r}, which is not among --backbones="
            f"{','.join(backbones)}; add it there"
        )
    found = []
    for size in sizes:
        for name in backbones:
            given = weights.get(name, "")
            net: dict[str, Any] = {
                **{f"model.{field}": value for field, value in transfer.backbone(name).items()},
                "model.weights": given,
                "transfer.new_head": bool(given),
                "transfer.features_dir": features_dir,
                "data.resize": size,
            }
            found += seeded(f"{name}-{size}px", seeds, net)
    return found


def read_weights(text: str, backbones: Sequence[str]) -> dict[str, str]:
    """The value of --weights: 'random', 'published', or BACKBONE=WEIGHTS with commas.

    Raises:
        InputError: if it is none of these.
    """
    if text == "random":
        return {}
    if text == "published":
        return {name: published(name) for name in backbones}
    found = {}
    for part in text.split(","):
        name, equals, given = part.partition("=")
        if not (name and equals and given):
            raise InputError(
                f"--weights={text!r} must be 'random', 'published', or BACKBONE=FILE with commas, "
                "for example resnet50=resnet50.safetensors"
            )
        found[name] = given
    return found


def published(name: str) -> str:
    """The name of a backbone's published weights; of several files, that of the first recipe.

    Raises:
        InputError: if there are none.
    """
    net = transfer.BACKBONES.get(name)
    for weights, known in published_weights.PUBLISHED.items():
        if known.model == net:
            return weights
    raise InputError(f"no published weights of {name!r} are known; give {name}=FILE in --weights")


def main() -> None:
    """The command line."""
    sweep = command_line.SweepCommand("transfer", "configs/transfer.py", SEEDS)
    backbones = flags.DEFINE_list(
        "backbones", list(BACKBONES), f"Any of {', '.join(transfer.BACKBONES)}."
    )
    sizes = flags.DEFINE_list("sizes", [str(size) for size in SIZES], "Input sizes, in pixels.")
    weights = flags.DEFINE_string(
        "weights", "random", "random, published, or BACKBONE=FILE with commas."
    )

    def grid(seeds: Sequence[int]) -> list[Row]:
        return rows(
            backbones=backbones.value,
            sizes=command_line.numbers("sizes", sizes.value),
            seeds=seeds,
            weights=read_weights(weights.value, backbones.value),
            features_dir=str(sweep.workdir / FEATURES),
        )

    sweep.launch(grid, afterwards=costs.measure)


if __name__ == "__main__":
    main()
