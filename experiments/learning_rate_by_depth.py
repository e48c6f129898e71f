"""Where does degradation start? Plain and residual nets over learning rate and depth.

    python -m experiments.learning_rate_by_depth --workdir=runs/rates --depths=20,56,110

He et al. 2015 trained plain-110 at 0.1 to more than 60 % training error. Li et al. 2018
(arXiv 1712.09913), with another recipe and their deepest plain nets at 0.01, report test errors of
8.18, 13.31 and 16.44 % for plain-20, 56 and 110.
"""

from collections.abc import Sequence

from experiments import command_line
from experiments.grid import FAMILY_LABELS, Grid, Row, seeded

LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every rate for every net; twins differ in `model.residual` alone."""
    return [
        row
        for rate in LEARNING_RATES
        for depth in depths
        for family in families
        for row in seeded(
            f"lr={rate:g}-{FAMILY_LABELS[family]}-{depth}",
            seeds,
            {
                "model.depth": depth,
                "model.residual": family == "residual",
                "optimizer.learning_rate": rate,
                # At 0.01 for all rates it would be a rise for some and a fall for others.
                "optimizer.warmup": "none",
            },
        )
    ]


GRID = Grid(name="learning_rate_by_depth", base="configs/cifar_resnet20.py", rows=rows)

if __name__ == "__main__":
    command_line.launch(GRID)
