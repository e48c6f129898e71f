"""Leaves points of long curves out, where the eye does not miss them."""

import numpy as np


def thin(values: np.ndarray, limit: int) -> np.ndarray:
    """Chooses points so that a drawn curve keeps its ends, its peaks and its gaps.

    The points between the ends are divided into equal parts; of each, the lowest, the highest and
    the first that is NaN stay.

    Args:
        values: float [points], NaN where a value was not finite.
        limit: at most this many stay; at least 5.

    Returns:
        int [kept], increasing indices into `values`.
    """
    n = len(values)
    if n <= limit:
        return np.arange(n)
    parts = (limit - 2) // 3
    edges = np.linspace(1, n - 1, parts + 1).astype(int)
    kept = {0, n - 1}
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        part = values[first:last]
        gaps = np.isnan(part)
        if gaps.any():
            kept.add(first + int(np.argmax(gaps)))
        if not gaps.all():
            kept |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
    return np.array(sorted(kept))
