"""He et al. 2015, Table 3: shortcuts of options A, B and C beside the plain net.

    python -m experiments.shortcuts --workdir=runs/shortcuts --depths=20,56,110

A pads new channels with zeros, B projects where the shape changes, C projects everywhere. The
paper, on ImageNet, 10-crop top-1 error: plain-34 28.54 %, ResNet-34 A 25.03, B 24.52, C 24.19. On
CIFAR-10 it used option A alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

from experiments import command_line
from experiments.grid import Grid, Recipe, Row, he_2015, seeded

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"plain": {"model.residual": False}},
    "residual": {
        option: {"model.residual": True, "model.shortcut": option} for option in ("A", "B", "C")
    },
}


def options(
    recipe: Recipe, *, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]
) -> list[Row]:
    """The plain net and each option at every depth, under one recipe for all of a depth."""
    return [
        row
        for depth in depths
        for family in families
        for label, changes in CASES[family].items()
        for row in seeded(f"{label}-{depth}", seeds, {**recipe(depth), **changes})
    ]


GRID = Grid(
    name="shortcuts", base="configs/cifar_resnet20.py", rows=functools.partial(options, he_2015)
)

if __name__ == "__main__":
    command_line.launch(GRID)
