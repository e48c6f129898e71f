"""As configs/search_plain56.py, on scikit-learn's 8x8 digits: minutes on a CPU.

    python -m experiments.search --search=configs/search_digits.py --workdir=runs/search_digits

Val has 144 digits, so one of them is 0.7 points of error: it is averaged over the last two
evaluations, and nothing is pruned before the rate has dropped, for till then low rates look better.
"""

from typing import Any

from configs import search_plain56


def get_search() -> dict[str, Any]:
    """The search, as plain data."""
    search = search_plain56.get_search()
    search["base"] = "configs/digits.py"
    search["space"]["optimizer.warmup_steps"] = {"int": (0, 40)}
    search["sampler"]["n_startup_trials"] = 6
    search["pruner"]["n_warmup_steps"] = 90
    return {**search, "evaluations": 2, "trials": 16}
