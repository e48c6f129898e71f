"""H(x) = F(x) + s x between the plain (s = 0) and the residual net (s = 1): how much is enough?

    python -m experiments.shortcut_strength --workdir=runs/strength --depths=20,56,110

Ours, after the constant scaling of He et al. 2016, Table 1: ResNet-110 with s = 0 and 0.5 fails
(more than 20 % test error), with s = 1 it has 6.61 %. Here s is fixed, or moves evenly over the
run: from 0 to 1, a plain net that becomes residual, and from 1 to 0, which ends as a plain one.
"""

from collections.abc import Sequence
from typing import Any

from experiments import command_line
from experiments.grid import Grid, Row, variants


def fixed(s: float) -> dict[str, Any]:
    """The same s throughout."""
    return {"model.shortcut_transform": "constant_scaling", "model.shortcut_scale": s}


def annealed(start: float, end: float) -> dict[str, Any]:
    """From one s at the first step to another at the last."""
    return {
        "model.shortcut_transform": "annealed_scaling",
        "model.shortcut_scale": start,
        "model.shortcut_scale_end": end,
    }


CASES = {
    **{f"s={s:g}": fixed(s) for s in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "s=0to1": annealed(0.0, 1.0),
    "s=1to0": annealed(1.0, 0.0),
}


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every strength at every depth with every seed; all start as He et al. 2016 does."""
    return variants(CASES, depths=depths, families=families, seeds=seeds)


GRID = Grid(
    name="shortcut_strength",
    base="configs/cifar_resnet20.py",
    rows=rows,
    families=("residual",),
)

if __name__ == "__main__":
    command_line.launch(GRID)
