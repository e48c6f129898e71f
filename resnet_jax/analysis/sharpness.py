"""How curved is the loss? Extreme eigenvalues of its Hessian, its trace, and curvatures.

The Hessian is never formed: all is made of its products with vectors, forward over reverse
(Pearlmutter 1994), by one compiled program. ReLU's kinks have no part in it: it is that of the
smooth piece that the net is on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse.linalg
from jax import flatten_util

from resnet_jax.analysis import directions
from resnet_jax.analysis.objective import Objective
from resnet_jax.native import library

# Residual norms are at most this share of the eigenvalue, or of the spectrum's width (the lowest).
TOLERANCE = 1e-3
# Of Lanczos. A net that needs more has eigenvalues too close to be told apart in float32.
RESTARTS = 40
PROBES = 8


class Hessian:
    """The Hessian of a mean loss, as a linear map.

    Args:
        loss: (params, *batch) -> mean loss of one batch.
        params: where it is taken.
        batches: of equal size, so that the mean over them is that over examples.

    Attributes:
        size: the number of parameters.
        products: how many were made so far.
    """

    def __init__(
        self, loss: Callable[..., jax.Array], params: Any, batches: Sequence[tuple[Any, ...]]
    ):
        flat, unravel = flatten_util.ravel_pytree(params)
        self.size, self.products = flat.size, 0
        self._flat, self._batches = flat, batches

        def product(at: jax.Array, vector: jax.Array, *batch: Any) -> Any:
            gradient = jax.grad(lambda flat: loss(unravel(flat), *batch))
            return jax.jvp(gradient, (at,), (vector,))[1]

        self._product = jax.jit(product)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The product with a vector, float64 [size]."""
        self.products += 1
        tangent = np.asarray(vector, self._flat.dtype).reshape(-1)
        # The extension's operations have no forward-mode derivative.
        with library.left_out():
            parts = [self._product(self._flat, tangent, *batch) for batch in self._batches]
        return np.asarray(np.mean([np.asarray(part, np.float64) for part in parts], axis=0))


def largest(hessian: Hessian, count: int, *, seed: int) -> list[dict[str, float]]:
    """The largest eigenvalues, by Lanczos with implicit restarts (ARPACK).

    Args:
        hessian: of the loss.
        count: how many; all but one, if there are fewer.
        seed: of the vector to begin with.

    Returns:
        For each `value` and `residual`, the norm of H v - value v for its unit vector v: there is
        an eigenvalue at most that far away. The largest comes first. Those that did not converge
        are left out; none, if the Hessian is not finite.
    """
    return _extreme(hessian, count, seed, factor=1.0, shift=0.0)


def lowest(hessian: Hessian, *, top: float, seed: int) -> dict[str, float] | None:
    """The lowest eigenvalue, as the largest of `top` - H; arguments and result as in `largest`.

    So its tolerance is a share of the spectrum's width: one close to zero would never be found to
    a share of itself.

    Args:
        hessian: of the loss.
        top: the largest eigenvalue.
        seed: of the vector to begin with.
    """
    found = _extreme(hessian, 1, seed, factor=-1.0, shift=abs(top))
    return found[0] if found else None


def _extreme(
    hessian: Hessian, count: int, seed: int, *, factor: float, shift: float
) -> list[dict[str, float]]:
    """The eigenvalues of H that are the largest of factor H + shift."""
    begin = np.random.RandomState(seed).standard_normal(hessian.size)
    if not np.isfinite(hessian(begin)).all():
        return []
    operator = scipy.sparse.linalg.LinearOperator(
        (hessian.size, hessian.size),
        matvec=lambda v: factor * hessian(v) + shift * v.reshape(-1),
        dtype=np.float64,
    )
    try:
        values, vectors = scipy.sparse.linalg.eigsh(
            operator,
            k=min(count, hessian.size - 1),
            which="LA",
            v0=begin,
            tol=TOLERANCE,
            maxiter=RESTARTS,
        )
    except scipy.sparse.linalg.ArpackNoConvergence as stopped:
        values, vectors = stopped.eigenvalues, stopped.eigenvectors
    rows = []
    for i in np.argsort(values)[::-1]:
        value = factor * (float(values[i]) - shift)
        vector = vectors[:, i]
        residual = float(np.linalg.norm(hessian(vector) - value * vector))
        rows.append({"value": value, "residual": residual})
    return rows


def trace(hessian: Hessian, *, draws: int, seed: int) -> dict[str, float]:
    """The sum of all eigenvalues, by Hutchinson's estimate: the mean of v' H v over random signs.

    Args:
        hessian: of the loss.
        draws: of v, at least 2.
        seed: of the draws.

    Returns:
        `mean` over the draws and its `standard_error`.
    """
    dice, found = np.random.RandomState(seed), []
    for _ in range(draws):
        signs = dice.choice([-1.0, 1.0], hessian.size)
        found.append(float(signs @ hessian(signs)))
    error = float(np.std(found, ddof=1) / np.sqrt(draws))
    return {"mean": float(np.mean(found)), "standard_error": error}


def curvature(hessian: Hessian, direction: Any) -> float:
    """The loss's second derivative along a direction, d' H d."""
    vector = np.asarray(flatten_util.ravel_pytree(direction)[0], np.float64)
    return float(vector @ hessian(vector))


def measure(objective: Objective, *, seed: int, count: int = 5) -> dict[str, Any]:
    """All of the above for one net.

    Eigenvalues and trace change when a filter is rescaled, though BN lets the net compute the same
    (Dinh et al. 2017, arXiv 1703.04933); curvatures along filter-normalised directions do not.

    Args:
        objective: the net's loss.
        seed: of the directions, probes and starting vectors.
        count: how many of the largest eigenvalues.

    Returns:
        `eigenvalues`, `lowest` (null if not found), `trace`, `curvatures` along the first `PROBES`
        directions of `directions.random` (the first two span the plane), and the number of
        Hessian-vector `products` that it took.
    """
    hessian = Hessian(objective.loss, objective.params, objective.batches)
    top = largest(hessian, count, seed=seed)
    own = [directions.random(objective.params, seed=seed, number=i) for i in range(PROBES)]
    return {
        "eigenvalues": top,
        "lowest": lowest(hessian, top=top[0]["value"], seed=seed) if top else None,
        "trace": trace(hessian, draws=PROBES, seed=seed),
        "curvatures": [curvature(hessian, direction) for direction in own],
        "probes": PROBES,
        "products": hessian.products,
    }
