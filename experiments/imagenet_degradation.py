"""He et al. 2015, Table 2 and Fig. 4: plain and residual nets of 18 and 34 layers on ImageNet.

    python -m experiments.imagenet_degradation --workdir=runs/table2
    python -m experiments.imagenet_degradation --config=configs/imagenet64_resnet34.py

The paper, 10-crop top-1 error: plain-18 27.94 %, plain-34 28.54, ResNet-18 27.88, ResNet-34 25.03,
with option A shortcuts, so that all nets of a depth have the same parameters. The second command is
for smaller budgets: 64x64 pixels, a twelfth of the cost. With --config.data.name=image_folder and
--config.data.data_dir the images come from folders.
"""

import functools

from experiments import command_line
from experiments.grid import Grid, of_depth, twins

GRID = Grid(
    name="imagenet_degradation",
    base="configs/imagenet_he2015_resnet34.py",
    rows=functools.partial(twins, of_depth),
    depths=(18, 34),
    seeds=(0,),
)

if __name__ == "__main__":
    command_line.launch(GRID)
