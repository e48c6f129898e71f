"""He et al. 2015, Table 3: shortcuts of options A, B and C at 34 layers on ImageNet.

    python -m experiments.imagenet_shortcuts --workdir=runs/table3
    python -m experiments.imagenet_shortcuts --config=configs/imagenet64_resnet34.py

The paper, 10-crop top-1 error: plain-34 28.54 %, A 25.03, B 24.52, C 24.19. The second command is
for smaller budgets: 64x64 pixels, a twelfth of the cost.
"""

import functools

from experiments import command_line
from experiments.grid import Grid, of_depth
from experiments.shortcuts import options

GRID = Grid(
    name="imagenet_shortcuts",
    base="configs/imagenet_he2015_resnet34.py",
    rows=functools.partial(options, of_depth),
    depths=(34,),
    seeds=(0,),
)

if __name__ == "__main__":
    command_line.launch(GRID)
