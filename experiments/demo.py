"""`make demo`: the degradation grid on scikit-learn's digits, two seeds, minutes on a CPU.

python -m experiments.demo [--workdir=runs/demo]
"""

from experiments import degradation, run

GRID = degradation.GRID._replace(name="demo", base="configs/digits.py", seeds=(0, 1))

if __name__ == "__main__":
    run.launch(GRID)
