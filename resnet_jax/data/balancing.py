"""Against classes of unequal size: resampling, or weights in the loss. Of the train split alone.

Both come after train and val are divided, so that no copy of a training image is measured on.
"""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data.selection import Counted
from resnet_jax.data.split import Split
from resnet_jax.errors import InputError


def resample(train: Split, class_names: Sequence[str], config: DataConfig) -> Split:
    """Makes all classes equally large; always alike for one `split_seed`.

    Args:
        train: with at least one example of each class.
        class_names: in label order.
        config: with `resampling`: 'over' repeats examples of smaller classes, each as often as the
            others of its class to within one, under ids `ID#2`, `ID#3`, ...; 'under' drops
            examples of larger classes; 'mixup' adds mixtures of two images of one class, under ids
            `ID+ID`; 'none' changes nothing.

    Returns:
        Examples that were there keep their order; those that are added come last.

    Raises:
        InputError: if there is nothing to mix an example with.

    Reference: Zhang et al. 2018 (arXiv 1710.09412) for mixtures l a + (1 - l) b with
    l ~ Beta(alpha, alpha); within one class the label needs no mixing.
    """
    if config.resampling == "none":
        return train
    # A stream other than that of the division, frozen by NumPy's policy (NEP 19).
    random = np.random.RandomState([config.split_seed, 1])
    members = [np.flatnonzero(train.labels == label) for label in range(len(class_names))]
    sizes = [len(indices) for indices in members]
    if config.resampling == "under":
        kept = [random.permutation(indices)[: min(sizes)] for indices in members]
        return train.take(np.sort(np.concatenate(kept)))
    parts = [train]
    for name, indices in zip(class_names, members, strict=True):
        missing = max(sizes) - len(indices)
        if missing and config.resampling == "over":
            parts.append(_repeated(train.take(indices), missing, random))
        elif missing:
            if len(indices) == 1:
                raise InputError(
                    f"config.data.resampling='mixup' needs two examples of each class, but "
                    f"{name!r} has one in train; use 'over'"
                )
            parts.append(_mixed(train.take(indices), missing, config.mixup_alpha, random))
    columns = ([getattr(part, key) for part in parts] for key in ("images", "labels", "ids"))
    return Split(*(np.concatenate(column) for column in columns))


def class_weights(train: Counted, class_names: Sequence[str]) -> np.ndarray:
    """Weights that give all classes the same total: w_c = n / (k n_c), float32 [classes].

    Args:
        train: n examples, n_c of class c.
        class_names: of the k classes.

    Raises:
        InputError: if a class has no example.

    Reference: King & Zeng 2001, "Logistic Regression in Rare Events Data"; scikit-learn's
    'balanced'.
    """
    sizes = train.class_sizes(len(class_names))
    if not sizes.all():
        raise InputError(
            f"config.train.class_weights='balanced' needs examples of every class, but "
            f"{class_names[int(np.argmin(sizes))]!r} has none in train; use 'none'"
        )
    return (len(train) / (len(class_names) * sizes)).astype(np.float32)


def _repeated(examples: Split, count: int, random: np.random.RandomState) -> Split:
    rounds = -(-count // len(examples))
    drawn = np.concatenate([random.permutation(len(examples)) for _ in range(rounds)])[:count]
    added = examples.take(drawn)
    ids = _unique(added.ids, collections.Counter(examples.ids.tolist()))
    return Split(added.images, added.labels, ids)


def _mixed(examples: Split, count: int, alpha: float, random: np.random.RandomState) -> Split:
    first = random.randint(len(examples), size=count)
    second = (first + random.randint(1, len(examples), size=count)) % len(examples)
    shares = random.beta(alpha, alpha, count)
    # One image at a time: all at once, as float64, would be eight times the data set.
    images = np.empty((count, *examples.images.shape[1:]), np.uint8)
    for image, i, j, share in zip(images, first, second, shares, strict=True):
        image[...] = np.rint(share * examples.images[i] + (1 - share) * examples.images[j])
    pairs = zip(examples.ids[first], examples.ids[second], strict=True)
    ids = _unique((f"{a}+{b}" for a, b in pairs), collections.Counter())
    return Split(images, examples.labels[first], ids)


def _unique(names: Iterable[str], seen: collections.Counter[str]) -> np.ndarray:
    """The same names, the second and later of one name marked `#2`, `#3`, ..."""
    unique = []
    for name in map(str, names):
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return np.array(unique)
