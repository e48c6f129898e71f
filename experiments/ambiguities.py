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
from typing import Any, NamedTuple

from experiments import command_line
from experiments.grid import Grid, Row, he_2015, nets, seeded


class Reading(NamedTuple):
    """One way to read the paper.

    Attributes:
        label: before the net's, in the names of runs; "" of this project's own reading.
        words: what is read so.
        changes: to the config.
        same_training: whether its nets are trained as those of the own reading, to the bit.
    """

    label: str
    words: str
    changes: dict[str, Any]
    same_training: bool = False


READINGS = (
    Reading("", "as here", {}),
    Reading("trained_on_val-", "trained on val too", {"data.train_on": "train+val"}),
    Reading("black_padding-", "padded black", {"data.crop_fill": "black"}),
    Reading("no_decay_on_bn-", "no decay of BN and biases", {"optimizer.decay_batch_norm": False}),
    Reading(
        "exact_statistics-",
        "BN's statistics over 100 batches after training",
        {"train.reestimation_batches": 100},
        same_training=True,
    ),
)


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Every reading for every net with every seed."""
    return [
        row
        for net, own in nets(he_2015, depths=depths, families=families).items()
        for reading in READINGS
        for row in seeded(reading.label + net, seeds, own | reading.changes)
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
