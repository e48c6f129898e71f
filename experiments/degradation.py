"""He et al. 2015, Fig. 6: plain and residual nets of growing depth, one recipe for all.

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56,110 --seeds=0,1,2

The paper: plain nets' training error rises with depth (plain-110 "higher than 60%"), residual nets'
does not; test errors of ResNet-20/32/44/56/110 are 8.75, 7.51, 7.17, 6.97 and 6.61 %.
"""

from collections.abc import Sequence

from experiments import run
from experiments.grid import FAMILY_LABELS, Grid, Row, he_2015, seeded


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every family at every depth with every seed; twins differ in `model.residual` alone."""
    return [
        row
        for depth in depths
        for family in families
        for row in seeded(
            f"{FAMILY_LABELS[family]}-{depth}",
            seeds,
            {**he_2015(depth), "model.residual": family == "residual"},
        )
    ]


GRID = Grid(name="degradation", base="configs/cifar_resnet20.py", rows=rows)

if __name__ == "__main__":
    run.launch(GRID)
