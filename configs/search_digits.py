"""As configs/search_plain56.py, on scikit-learn's 8x8 digits: minutes on a CPU.

    python -m experiments.search --search=configs/search_digits.py --workdir=runs/search_digits

Val has 144 digits, so one of them is 0.7 points of error: it is averaged over the last two
evaluations, and nothing is pruned before the rate has dropped, for till then low rates look better.
"""

from typing import Any


def get_search() -> dict[str, Any]:
    """The search, as plain data."""
    return {
        "base": "configs/digits.py",
        # A linear warm-up of 0 steps is none.
        "changes": {
            "optimizer.warmup": "linear",
            "optimizer.warmup_steps": 0,
            "optimizer.warmup_learning_rate": 0.0,
        },
        "space": {
            "optimizer.learning_rate": {"log_uniform": (0.001, 1.0)},
            "optimizer.weight_decay": {"log_uniform": (1e-5, 1e-2)},
            "optimizer.warmup_steps": {"int": (0, 40)},
        },
        "sampler": {"name": "TPE", "n_startup_trials": 6, "multivariate": True},
        "pruner": {"name": "Median", "n_startup_trials": 5, "n_warmup_steps": 90},
        "evaluations": 2,
        "seed": 0,
        "trials": 16,
    }
