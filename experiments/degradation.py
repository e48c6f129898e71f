"""He et al. 2015, Fig. 6: plain and residual nets of growing depth, one recipe for all.

    python -m experiments.degradation --workdir=runs/fig6 --depths=20,56,110 --seeds=0,1,2

The paper: plain nets' training error rises with depth (plain-110 "higher than 60%"), residual nets'
does not; test errors of ResNet-20/32/44/56/110 are 8.75, 7.51, 7.17, 6.97 and 6.61 %.
"""

import functools

from experiments import command_line
from experiments.grid import Grid, he_2015, twins

GRID = Grid(
    name="degradation",
    base="configs/cifar_resnet20.py",
    rows=functools.partial(twins, he_2015),
)

if __name__ == "__main__":
    command_line.launch(GRID)
