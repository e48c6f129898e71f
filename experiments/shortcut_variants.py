"""He et al. 2016, Table 1: what impedes the shortcuts of ResNet-110.

    python -m experiments.shortcut_variants --workdir=runs/table1 --depths=110

The paper, CIFAR-10 test error in percent, median of 5 runs ("fail" is more than 20):

    case                    on the shortcut  on F  error
    original                              1     1   6.61
    constant scaling                      0     1   fail  "This is a plain net"
                                        0.5     1   fail
                                        0.5   0.5  12.35
    exclusive gating                  1 - g     g   fail  initial bias 0 to -5
                                      1 - g     g   8.70  -6
                                      1 - g     g   9.81  -7
    shortcut-only gating              1 - g     1  12.86  0
                                      1 - g     1   6.91  -6
    1x1 convolution                1x1 conv     1  12.22
    dropout                     dropout 0.5     1   fail
"""

from collections.abc import Sequence
from typing import Any

from experiments import command_line
from experiments.grid import Grid, Row, variants


def scaling(on_shortcut: float, on_branch: float) -> dict[str, Any]:
    """Fig. 2b."""
    return {
        "model.shortcut_transform": "constant_scaling",
        "model.shortcut_scale": on_shortcut,
        "model.branch_scale": on_branch,
    }


def gating(kind: str, bias: float) -> dict[str, Any]:
    """Fig. 2c and 2d, with the gates' initial bias."""
    return {"model.shortcut_transform": f"{kind}_gating", "model.gate_bias": bias}


CASES = {
    "original": {},
    "constant_scaling=0-F=1": scaling(0.0, 1.0),
    "constant_scaling=0.5-F=1": scaling(0.5, 1.0),
    "constant_scaling=0.5-F=0.5": scaling(0.5, 0.5),
    "exclusive_gating-bias=0": gating("exclusive", 0.0),
    "exclusive_gating-bias=-5": gating("exclusive", -5.0),
    "exclusive_gating-bias=-6": gating("exclusive", -6.0),
    "exclusive_gating-bias=-7": gating("exclusive", -7.0),
    "shortcut_only_gating-bias=0": gating("shortcut_only", 0.0),
    "shortcut_only_gating-bias=-6": gating("shortcut_only", -6.0),
    "conv_1x1": {"model.shortcut": "C"},
    "dropout=0.5": {"model.shortcut_transform": "dropout", "model.shortcut_dropout": 0.5},
}


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every case at every depth with every seed."""
    return variants(CASES, depths=depths, families=families, seeds=seeds)


GRID = Grid(
    name="shortcut_variants",
    base="configs/cifar_resnet110.py",
    rows=rows,
    depths=(110,),
    families=("residual",),
)

if __name__ == "__main__":
    command_line.launch(GRID)
