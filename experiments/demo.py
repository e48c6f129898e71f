"""`make demo`: the degradation grid on scikit-learn's digits, three seeds, minutes on a CPU.

    python -m experiments.demo --workdir=runs/demo

The config's learning rate is low enough to start every depth at, so none has a warm-up and all
eighteen runs share one recipe to the letter.
"""

import functools

from experiments import command_line, degradation
from experiments.grid import of_depth, twins

GRID = degradation.GRID._replace(
    name="demo", base="configs/digits.py", rows=functools.partial(twins, of_depth), seeds=(0, 1, 2)
)

if __name__ == "__main__":
    command_line.launch(GRID)
