"""What He et al. 2015, Sec. 4.2, leaves open, and what each reading of it is worth.

    python -m experiments.ambiguities --workdir=runs/ambiguities
    python -m experiments.reproduce --table=ambiguities --iterations=4000

ResNet-20 is this project's reading: the run that `--table=he2015_table6` has too, so its folder may
be copied. The others change one thing each:

    trained_on_val     "a 45k/5k train/val split" chose the schedule; were the final nets trained on
                       all 50k? 64k iterations are 182 or 164 epochs
    black_padding      4 pixels are padded: black ones before the mean is subtracted, or zeros, the
                       mean's own value, after
    no_decay_on_bn     a weight decay of 0.0001: of BN's scales and shifts, and of biases, too?
    exact_statistics   BN's statistics "over a large batch" after training (the authors' README), or
                       moving averages while training
"""

from collections.abc import Sequence
from typing import Any

from experiments import command_line
from experiments.grid import Grid, Row, he_2015, nets, seeded

CASES: dict[str, dict[str, Any]] = {
    "": {},
    "trained_on_val-": {"data.train_on": "train+val"},
    "black_padding-": {"data.crop_fill": "black"},
    "no_decay_on_bn-": {"optimizer.decay_batch_norm": False},
    "exact_statistics-": {"train.reestimation_batches": 100},
}


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every reading for every net with every seed."""
    return [
        row
        for net, own in nets(he_2015, depths=depths, families=families).items()
        for case, changes in CASES.items()
        for row in seeded(case + net, seeds, own | changes)
    ]


GRID = Grid(
    name="ambiguities",
    base="configs/cifar_resnet20.py",
    rows=rows,
    depths=(20,),
    families=("residual",),
)

if __name__ == "__main__":
    command_line.launch(GRID)
