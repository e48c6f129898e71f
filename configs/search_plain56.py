"""How good can plain-56 be made by learning rate, weight decay and warm-up alone?

    python -m experiments.search --search=configs/search_plain56.py --workdir=runs/search

The recipe of He et al. 2015 is the first trial. The range of rates begins at a hundredth of the
paper's and ends at ten times it; the longest warm-up is a sixteenth of the run.
"""

from typing import Any


def get_search() -> dict[str, Any]:
    """The search, as plain data."""
    return {
        "base": "configs/cifar_plain56.py",
        # A linear warm-up of 0 steps is the paper's start, without one.
        "changes": {
            "optimizer.warmup": "linear",
            "optimizer.warmup_steps": 0,
            "optimizer.warmup_learning_rate": 0.0,
        },
        "space": {
            "optimizer.learning_rate": {"log_uniform": (0.001, 1.0)},
            "optimizer.weight_decay": {"log_uniform": (1e-5, 1e-2)},
            "optimizer.warmup_steps": {"int": (0, 4_000, 100)},
        },
        "sampler": {"name": "TPE", "n_startup_trials": 10, "multivariate": True},
        # Before the first drop of the rate, at 32,000, high rates look worse than they end.
        "pruner": {"name": "Median", "n_startup_trials": 5, "n_warmup_steps": 34_000},
        "evaluations": 1,
        "seed": 0,
        "trials": 40,
    }
