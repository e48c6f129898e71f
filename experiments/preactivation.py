"""He et al. 2016, Table 2: where BN and ReLU stand relative to the addition.

    python -m experiments.preactivation --workdir=runs/table2 --depths=110,164

The paper, CIFAR-10 test error in percent, median of 5 runs:

    order                       ResNet-110  ResNet-164
    original                          6.61        5.93
    BN after addition                 8.17        6.50
    ReLU before addition              7.84        6.14
    ReLU-only pre-activation          6.71        5.91
    full pre-activation               6.37        5.46

Without shortcuts all five are the same net, so `--families=plain,residual` adds one plain net.
"""

from collections.abc import Sequence

from experiments import command_line
from experiments.grid import Grid, Row, variants

ORDERS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)
CASES = {order: {"model.activation_order": order} for order in ORDERS}


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every order at every depth with every seed."""
    return variants(CASES, depths=depths, families=families, seeds=seeds)


GRID = Grid(
    name="preactivation",
    base="configs/cifar_resnet110.py",
    rows=rows,
    depths=(110, 164),
    families=("residual",),
)

if __name__ == "__main__":
    command_line.launch(GRID)
