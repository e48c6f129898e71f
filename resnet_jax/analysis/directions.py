"""Random directions in a net's parameters, each filter as long as the net's own.

Lengths of raw directions mean nothing in nets with batch norm, which compute the same with filters
of any size. Li et al. 2018 (arXiv 1712.09913), Sec. 4, give each filter of a direction the norm of
the net's, so that a step of 1 is as long as the weights for every net.
"""

import zlib
from typing import Any

import jax
import numpy as np


def raw(params: Any, *, seed: int, number: int) -> Any:
    """Normal draws, of which nets that have a parameter in the same place draw the same.

    Args:
        params: nested dict of arrays.
        seed: of all directions, 0 to 2**32 - 1.
        number: of this one.

    Returns:
        float64 arrays of the same structure, a function of seed, number, and each one's place and
        shape; so those of a plain net are those of its option A twin.
    """

    def draw(path: Any, value: Any) -> np.ndarray:
        place = "/".join(str(key.key) for key in path)
        dice = np.random.RandomState([seed, number, zlib.crc32(place.encode())])
        return np.asarray(dice.standard_normal(value.shape))

    return jax.tree_util.tree_map_with_path(draw, params)


def filter_normalised(direction: Any, params: Any) -> Any:
    """A direction with the net's own norms (Li et al. 2018, Sec. 4).

    A filter is what makes one output: [height, width, in] of a convolution's kernel, [in] of the
    head's. Scales, shifts and biases do not move, as in the authors' code (`ignore='biasbn'`).

    Args:
        direction: nested dict of arrays.
        params: of a net; kernels are [height, width, in, out] or [in, out].

    Returns:
        Arrays of the parameters' types.
    """

    def scaled(drawn: Any, value: Any) -> np.ndarray:
        weights = np.asarray(value)
        if weights.ndim < 2:
            return np.zeros_like(weights)
        own, its = (_filter_norms(np.asarray(array, np.float64)) for array in (weights, drawn))
        factor = np.divide(own, its, out=np.zeros_like(own), where=its > 0)
        return np.asarray(drawn * factor, weights.dtype)

    return jax.tree.map(scaled, direction, params)


def random(params: Any, *, seed: int, number: int) -> Any:
    """A random filter-normalised direction; arguments as in `raw`."""
    return filter_normalised(raw(params, seed=seed, number=number), params)


def cosine(one: Any, other: Any) -> float:
    """Of the angle between two directions."""
    a, b = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)
        for tree in (one, other)
    )
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float("nan")


def _filter_norms(kernel: np.ndarray) -> np.ndarray:
    """Euclidean norms over all axes but that of the outputs: [out]."""
    return np.asarray(np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0))
