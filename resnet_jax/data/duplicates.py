"""Images that are the same picture: pixel for pixel, or after a flip, a small shift or JPEG.

Near duplicates are found in two steps. Every image and its mirror become short vectors, smoothed
so much that a pixel's shift or JPEG moves them little; the nearest vectors are candidates. Each
candidate is then compared in full size and in grey, at every shift of up to one pixel, twice: its
pixels (is it the same scene?) and its fine structure (the same picture?). The second decides: two
cars before a white wall agree in the large and differ in every detail.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import cast

import numpy as np

EXACT, FLIP, SHIFT, NEAR = "exact", "flip", "shift", "near"
# Least correlation of the pixels and of the fine structure, where no side is below SMALL pixels.
# On CIFAR-10 pairs of one car model set in below 0.8 of the latter; above it nearly all pairs are
# one photograph.
PIXELS, DETAIL = 0.9, 0.8
# Smaller images have no fine structure; of scikit-learn's distinct digits 1 % correlate with 0.983.
SMALL, SMALL_PIXELS = 16, 0.99
NEIGHBOURS = 8  # candidates for an image, and as many for its mirror
GRID, COMPONENTS = 8, 64  # of the vectors: smoothed to GRID x GRID, then their main components
# How much nearer than "itself, moved by one pixel" a candidate need not be: JPEG at quality 50.
SLACK = 0.06
# Standard deviations in pixels of the two blurs whose difference is the fine structure: it passes
# what JPEG keeps (not the finest) and what two scenes do not share (not the coarsest).
FINE, COARSE = 0.6, 1.5
# Grey levels: fine structure much weaker than this is rounding, and says nothing.
NOISE = 0.5
SHIFTS = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of images that show the same picture.

    Attributes:
        first: int [pairs], position of one image.
        second: int [pairs], position of the other.
        similarity: float32 [pairs], correlation in -1..1; 1 for equal pixels.
        kind: str [pairs]: 'exact', 'flip' (mirrored, perhaps shifted too), 'shift' (by one pixel)
            or 'near' (in place: JPEG, brightness, noise).
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def first_equal(images: np.ndarray) -> np.ndarray:
    """For each image, the position of the first one with the same pixels, int [images].

    Args:
        images: uint8 [images, height, width, channels].
    """
    seen: dict[bytes, int] = {}
    hashes = (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    return np.array([seen.setdefault(key, i) for i, key in enumerate(hashes)], np.int64)


def near_pairs(images: np.ndarray) -> Pairs:
    """Pairs of near duplicates, each once with first < second, most similar first.

    Args:
        images: uint8 [images, height, width, channels], no two of them equal.
    """
    first, second, mirrored = _candidates(images)
    similarity = np.empty(len(first), np.float32)
    shifted = np.empty(len(first), bool)
    for block in _blocks(len(first), 2048):
        others = images[second[block]]
        others = np.where(mirrored[block, None, None, None], others[:, :, ::-1], others)
        similarity[block], shifted[block] = _similarity(images[first[block]], others)
    # A symmetric picture matches its copy both ways; the better one names the kind.
    order = np.lexsort((mirrored, -similarity))
    order = order[similarity[order] > 0]
    _, best = np.unique(first[order] * len(images) + second[order], return_index=True)
    chosen = order[np.sort(best)]
    kind = np.select([mirrored[chosen], shifted[chosen]], [FLIP, SHIFT], NEAR)
    return Pairs(first[chosen], second[chosen], similarity[chosen], kind)


def _candidates(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs worth a close look: first, second (int), and whether the second is mirrored (bool)."""
    if len(images) < 2:
        return np.empty(0, int), np.empty(0, int), np.empty(0, bool)
    small = min(images.shape[1:3]) < SMALL
    base = _vectors(images[:, 1:-1, 1:-1] if small else images)
    components = np.linalg.eigh(base.T @ base)[1][:, ::-1][:, :COMPONENTS]
    base = base @ components
    if small:
        radius = np.full(len(images), 1 - SLACK, np.float32)
    else:
        radius = _radius(images, base, components)
    found = []
    for mirrored, view in _views(images, small=small):
        queries = _vectors(view) @ components
        for block in _blocks(len(images), 512):
            rows, columns, near = _nearest(queries[block], base, block.start)
            keep = near >= np.minimum(radius[rows], radius[columns])
            ends = np.sort(np.stack([rows[keep], columns[keep]]), axis=0)
            found.append(np.concatenate([ends, np.full((1, ends.shape[1]), mirrored)]))
    first, second, flags = np.unique(np.concatenate(found, axis=1), axis=1)
    return first, second, flags.astype(bool)


def _views(images: np.ndarray, *, small: bool) -> Iterator[tuple[bool, np.ndarray]]:
    """What copies of the images may look like, and whether that is mirrored.

    No smoothing hides that a small image was moved, so of these every shift's inside is a view.
    """
    height, width = images.shape[1:3]
    for mirrored in (False, True):
        seen = images[:, :, ::-1] if mirrored else images
        if not small:
            yield mirrored, seen
            continue
        for row, column in SHIFTS:
            yield mirrored, seen[:, 1 + row : height - 1 + row, 1 + column : width - 1 + column]


def _radius(images: np.ndarray, base: np.ndarray, components: np.ndarray) -> np.ndarray:
    """The least product with each image's vector that a copy's vector has, float32 [images].

    A copy is about as near as the image moved by one pixel: far for a picture full of detail, near
    for a smooth one, which many others resemble.
    """
    radius: np.ndarray = np.ones(len(images), np.float32)
    for shift in (s for s in SHIFTS if all(s)):
        moved = _vectors(images, shift=shift) @ components
        radius = np.minimum(radius, (base * moved).sum(1))
    radius -= SLACK
    return radius.clip(min=0)


def _nearest(
    queries: np.ndarray, vectors: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `NEIGHBOURS` largest products of each query with the vectors, without its own.

    Args:
        queries: float32 [queries, components].
        vectors: float32 [images, components].
        start: position of the first query's image among the images.

    Returns:
        Positions of the query's image and of the other one, and their product.
    """
    count, images = len(queries), len(vectors)
    # A sort of all products would cost more than the products: the largest lie in the columns
    # with the largest maxima, for the price of one pass.
    columns = -(-images // 64)
    products = np.full((count, 64 * columns), -2, np.float32)
    np.matmul(queries, vectors.T, out=products[:, :images])
    own = np.arange(count)
    products[own, start + own] = -2
    folded = products.reshape(count, 64, columns)
    kept = min(NEIGHBOURS, columns)
    near = np.argpartition(-folded.max(1), kept - 1, axis=1)[:, :kept]
    values = folded[own[:, None, None], np.arange(64)[:, None], near[:, None, :]].reshape(count, -1)
    places = (np.arange(64)[:, None] * columns + near[:, None, :]).reshape(count, -1)
    kept = min(NEIGHBOURS, images)
    best = np.argpartition(-values, kept - 1, axis=1)[:, :kept]
    values, places = values[own[:, None], best], places[own[:, None], best]
    rows, ranks = np.nonzero(values > -2)
    return start + rows, places[rows, ranks], values[rows, ranks]


def _vectors(images: np.ndarray, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Smoothed images of mean 0 and length 1, float32 [images, GRID * GRID * channels].

    They are moved by `shift` (rows, columns) first, the edge repeated. An image of one value
    becomes 0, which is near to nothing.
    """
    height, width, channels = images.shape[1:]
    rows, columns = _moved(_smoothing(height), shift[0]), _moved(_smoothing(width), shift[1])
    vectors = np.empty((len(images), GRID * GRID * channels), np.float32)
    for block in _blocks(len(images), 4096):
        pixels = images[block].astype(np.float32)
        small = np.tensordot(np.tensordot(pixels, rows, (1, 1)), columns, (1, 1))
        vectors[block] = small.transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    vectors -= vectors.mean(1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, 1e-3)
    return vectors


def _smoothing(size: int) -> np.ndarray:
    """Weights [GRID, size] of a smoothed row of GRID pixels."""
    step = size / GRID
    centres = (np.arange(GRID) + 0.5) * step - 0.5
    return _gaussian(centres, size, 0.6 * step)


def _gaussian(centres: np.ndarray, size: int, deviation: float) -> np.ndarray:
    """Gaussian weights [centres, size] of the pixels 0..size-1, each row with the sum 1."""
    distance = (np.arange(size) - centres[:, None]) / deviation
    weights: np.ndarray = np.exp(-0.5 * distance**2)
    weights /= weights.sum(1, keepdims=True)
    return weights.astype(np.float32)


def _moved(weights: np.ndarray, shift: int) -> np.ndarray:
    """The weights that give of an image what `weights` give of the image moved by `shift`."""
    size = weights.shape[1]
    origin = np.clip(np.arange(size) - shift, 0, size - 1)
    return weights @ np.eye(size, dtype=np.float32)[origin]


def _similarity(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike images are at their best shift; 0 where they are not the same picture.

    Args:
        first: uint8 [pairs, height, width, channels].
        second: likewise.

    Returns:
        The lower one of both correlations, float32 [pairs], and whether that is at a shift.
    """
    height, width = first.shape[1:3]
    small = min(height, width) < SMALL
    least_pixels, least_detail = (SMALL_PIXELS, SMALL_PIXELS) if small else (PIXELS, DETAIL)
    best = np.zeros(len(first), np.float32)
    shifted = np.zeros(len(first), bool)
    one, other = (_grey(images) for images in (first, second))
    for shift in SHIFTS:
        rows, columns = (_overlap(d, n) for d, n in zip(shift, (height, width), strict=True))
        a, b = one[:, rows[0], columns[0]], other[:, rows[1], columns[1]]
        pixels = _correlation(a, b)
        rest = np.flatnonzero(pixels >= least_pixels)
        if not rest.size:
            continue
        detail = _correlation(_detail(a[rest]), _detail(b[rest]), noise=NOISE)
        alike = np.where(detail >= least_detail, np.minimum(detail, pixels[rest]), 0)
        better = alike > best[rest]
        best[rest[better]] = alike[better]
        shifted[rest[better]] = shift != (0, 0)
    return best, shifted


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """What two rows of pixels have in common when one lies `shift` further on."""
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))


def _grey(images: np.ndarray) -> np.ndarray:
    """The mean of the channels, float32 [images, height, width]."""
    channels = images.shape[-1]
    return cast(np.ndarray, images.astype(np.float32) @ np.full(channels, 1 / channels, np.float32))


def _detail(images: np.ndarray) -> np.ndarray:
    """Fine structure of grey images, float32 [images, height, width]."""
    count, height, width = images.shape
    blurs = []
    for deviation in (FINE, COARSE):
        rows, columns = (_gaussian(np.arange(n), n, deviation) for n in (height, width))
        across = (images.reshape(-1, width) @ columns.T).reshape(count, height, width)
        down = across.transpose(0, 2, 1).reshape(-1, height) @ rows.T
        blurs.append(down.reshape(count, width, height).transpose(0, 2, 1))
    fine, coarse = blurs
    return cast(np.ndarray, fine - coarse)


def _correlation(a: np.ndarray, b: np.ndarray, noise: float = 1e-3) -> np.ndarray:
    """Correlation of each image of `a` with that of `b`; near 0 where both are below `noise`."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    a = a - a.mean(1, keepdims=True)
    b = b - b.mean(1, keepdims=True)
    lengths = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    products = np.einsum("ij,ij->i", a, b)
    return cast(np.ndarray, products / (lengths + a.shape[1] * noise**2))


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of 0..count-1."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
