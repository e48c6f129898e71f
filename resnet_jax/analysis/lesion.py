"""What does each block do? Blocks taken out, put in another order, and the way gradients take.

    python -m resnet_jax.analysis.lesion --workdir=runs/r56 [--split=val] [--examples=2000]

Works on a trained run's net, plain or residual, by one compiled program: blocks are taken out by
gates and reordered by exchanging their weights (Veit et al. 2016, arXiv 1605.06431). Writes
RUN/analysis/lesion.json, which `python -m resnet_jax.report.lesion RUN [RUN ...]` draws.

Exit codes: 0, 2 for bad input.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats
from absl import flags

from resnet_jax import command, terminal
from resnet_jax.analysis import gates
from resnet_jax.analysis.gates import Place
from resnet_jax.analysis.trained import Trained, given, keep

RESULT = "lesion.json"

Error = Callable[[Any, Any], float]


def single(error: Error, params: Any, stats: Any) -> list[dict[str, Any]]:
    """Each block taken out alone (Veit 2016, Fig. 3).

    Args:
        error: of a gated net's parameters and statistics, in percent.
        params: of the gated net.
        stats: of the gated net.

    Returns:
        For each block its stage and block (from 1), whether it changes the shape, and the error.
    """
    return [
        {
            "stage": stage + 1,
            "block": block + 1,
            "changes_shape": gates.changes_shape(params, (stage, block)),
            "error": error(gates.with_gates(params, [(stage, block)]), stats),
        }
        for stage, block in gates.places(params)
    ]


def several(
    error: Error, params: Any, stats: Any, *, counts: Sequence[int], draws: int, seed: int
) -> list[dict[str, Any]]:
    """Several blocks at once, drawn among those that keep the shape (Veit 2016, Fig. 5a).

    Args:
        error: as in `single`.
        params: of the gated net.
        stats: of the gated net.
        counts: how many blocks are taken out.
        draws: how often for each count.
        seed: of the draws.

    Returns:
        For each count the errors.
    """
    dice, free = np.random.RandomState(seed), _of_equal_shape(params)
    return [
        {
            "removed": count,
            "errors": [
                error(
                    gates.with_gates(
                        params, [free[i] for i in dice.choice(len(free), count, replace=False)]
                    ),
                    stats,
                )
                for _ in range(draws)
            ],
        }
        for count in counts
    ]


def truncated(error: Error, params: Any, stats: Any) -> list[dict[str, Any]]:
    """The last blocks of every stage taken out, one more each time, down to the first ones."""
    places, found = gates.places(params), []
    for kept in range(max(block for _, block in places) + 1, 0, -1):
        out = [place for place in places if place[1] >= kept]
        found.append(
            {
                "blocks_per_stage": kept,
                "error": error(gates.with_gates(params, out), stats),
            }
        )
    return found


def reordered(
    error: Error, params: Any, stats: Any, *, swaps: Sequence[int], draws: int, seed: int
) -> list[dict[str, Any]]:
    """Pairs of blocks of equal shape exchanged (Veit 2016, Fig. 5b).

    Args:
        error: as in `single`.
        params: of the gated net.
        stats: of the gated net.
        swaps: how many exchanges.
        draws: how often for each number.
        seed: of the draws.

    Returns:
        For each draw the number of exchanges, Kendall's tau between the new order of those blocks
        and the old one (the mean over stages, weighted by their pairs), and the error.
    """
    dice, found = np.random.RandomState(seed), []
    stages = [
        [place for place in _of_equal_shape(params) if place[0] == stage]
        for stage in sorted(params["stages"])
    ]
    stages = [places for places in stages if len(places) > 1]
    for count in swaps:
        for _ in range(draws if count else 1):
            orders = [np.arange(len(places)) for places in stages]
            for _ in range(count):
                order = orders[dice.choice(len(orders), p=_shares(orders))]
                i, j = dice.choice(len(order), 2, replace=False)
                order[[i, j]] = order[[j, i]]
            changed = [gates.with_own_dicts(tree) for tree in (params, stats)]
            for places, order in zip(stages, orders, strict=True):
                for place, other in zip(places, order, strict=True):
                    for new, old in zip(changed, (params, stats), strict=True):
                        new["stages"][place[0]][place[1]] = old["stages"][place[0]][
                            places[other][1]
                        ]
            found.append(
                {"swaps": count, "kendall_tau": kendall_tau(orders), "error": error(*changed)}
            )
    return found


def kendall_tau(orders: Sequence[np.ndarray]) -> float:
    """Kendall's tau of several permutations against their sorted order, weighted by their pairs."""
    taus = [scipy.stats.kendalltau(np.arange(len(o)), o).statistic for o in orders]
    return float(np.dot(taus, _shares(orders)))


def path_gradients(
    gradient_norm: Callable[[Any], float],
    params: Any,
    *,
    draws: int,
    seed: int,
    lengths: Sequence[int],
) -> list[dict[str, Any]]:
    """How much gradient paths of each length carry to the stem (Veit 2016, Sec. 4.2, Fig. 6).

    Gradient goes through the branches of k blocks, drawn at random, and through the shortcuts of
    the others. There are n over k such paths.

    Args:
        gradient_norm: of parameters of a net gated by `gradient_only`, the norm of the loss's
            gradient at the stem's output.
        params: of that net.
        draws: paths of each length.
        seed: of the draws.
        lengths: k.

    Returns:
        For each length the share of all paths that have it, the mean norm of one path's gradient,
        and the share of the sum over all paths that these give.
    """
    places, dice = gates.places(params), np.random.RandomState(seed)
    found: list[dict[str, Any]] = []
    for length in lengths:
        norms = []
        for _ in range(draws):
            chosen = {places[i] for i in dice.choice(len(places), length, replace=False)}
            norms.append(gradient_norm(_along(params, chosen)))
        share = float(scipy.stats.binom.pmf(length, len(places), 0.5))
        found.append({"length": length, "share_of_paths": share, "norm": float(np.mean(norms))})
    total = sum(row["share_of_paths"] * row["norm"] for row in found)
    for row in found:
        product = row["share_of_paths"] * row["norm"]
        row["share_of_gradient"] = product / total if total else 0.0
    return found


def _along(params: Any, branches: set[Place]) -> Any:
    changed = gates.with_own_dicts(params)
    for stage, block in gates.places(params):
        through_branch = (stage, block) in branches
        addition = changed["stages"][stage][block]["addition"]
        addition[gates.BRANCH] = np.float32(through_branch)
        addition[gates.SHORTCUT] = np.float32(not through_branch)
    return changed


def _shares(orders: Sequence[np.ndarray]) -> np.ndarray:
    pairs = np.array([len(order) * (len(order) - 1) / 2 for order in orders])
    return np.asarray(pairs / pairs.sum())


def _of_equal_shape(params: Any) -> list[Place]:
    """Blocks that another one of their stage could replace, weight by weight."""
    shapes = {
        (s, b): jax.tree.map(np.shape, params["stages"][s][b])
        for s, b in gates.places(params)
        if not gates.changes_shape(params, (s, b))
    }
    return [
        place
        for place, shape in shapes.items()
        if any(p != place and p[0] == place[0] and shapes[p] == shape for p in shapes)
    ]


def measure(
    trained: Trained, *, split: str, examples: int, draws: int, seed: int
) -> dict[str, Any]:
    """All of the above for one trained net.

    Args:
        trained: the net.
        split: whose images are classified.
        examples: how many of them, at most.
        draws: random choices of blocks, orders and paths each.
        seed: of the choices.

    Returns:
        What lesion.json holds.
    """
    params, stats, error = trained.gated(split, examples)
    free = len(_of_equal_shape(params))
    counts = [n for n in (1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50) if n <= free]
    swaps = [n for n in (0, 1, 2, 4, 8, 16, 32, 64) if n <= 4 * free]
    chosen = {"draws": draws, "seed": seed}
    report: dict[str, Any] = {
        **trained.about(split, examples),
        **chosen,
        "error": error(params, stats),
        "single": single(error, params, stats),
        "several": several(error, params, stats, counts=counts, **chosen),
        "truncated": truncated(error, params, stats),
        "reordered": reordered(error, params, stats, swaps=swaps, **chosen) if free else [],
    }
    blocks = len(gates.places(params))
    if trained.config.model.residual:
        params, gradient_norm = trained.gradient_at_stem()
        lengths = sorted({round(x) for x in np.linspace(0, blocks, min(blocks + 1, 28))})
        report["paths"] = path_gradients(gradient_norm, params, lengths=lengths, **chosen)
    return report


def main(argv: list[str]) -> None:
    """Measures what the flags name."""
    del argv
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    trained = Trained.load(workdir)
    report = measure(
        trained, split=_SPLIT.value, examples=_EXAMPLES.value, draws=_DRAWS.value, seed=_SEED.value
    )
    path = keep(workdir, RESULT, report)
    worst = max(report["single"], key=lambda row: row["error"])
    print(
        f"error {report['error']:.2f} %; the block whose removal costs most: stage "
        f"{worst['stage']}, block {worst['block']}: {worst['error']:.2f} %; "
        f"{path}"
    )


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _SPLIT = flags.DEFINE_enum("split", "val", ["val", "test"], "Which images are classified.")
    _EXAMPLES = flags.DEFINE_integer("examples", 2000, "How many of them, at most.", 1)
    _DRAWS = flags.DEFINE_integer("draws", 5, "Random choices of blocks, orders and paths each.", 1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the choices.")
    command.run(main)
