"""Which examples of a published data set are used: some of its classes, in given proportions.

Nothing here depends on a run's seeds: all runs of one configuration are measured on the same test
images.
"""

import difflib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data.split import Split
from resnet_jax.errors import InputError


def check_classes(config: DataConfig, class_names: Sequence[str]) -> None:
    """Refuses classes that the data set does not have.

    Raises:
        InputError: with the nearest name, or with all of them.
    """
    for name in config.classes:
        if name not in class_names:
            raise InputError(
                f"config.data.classes holds {name!r}, which is no class of {config.name}; "
                f"{_nearest(name, class_names)}"
            )


def of_classes(split: Split, class_names: Sequence[str], wanted: Sequence[str]) -> Split:
    """The examples of some classes, in their old order.

    Args:
        split: of any classes.
        class_names: in label order.
        wanted: names among them; the first becomes label 0, the second label 1, ...
    """
    new_labels = np.full(len(class_names), -1, np.int32)
    new_labels[[list(class_names).index(name) for name in wanted]] = np.arange(len(wanted))
    labels = new_labels[split.labels]
    kept = np.flatnonzero(labels >= 0)
    return Split(split.images[kept], labels[kept], split.ids[kept])


def with_ratios(name: str, split: Split, class_names: Sequence[str], config: DataConfig) -> Split:
    """Removes examples at random until the classes' sizes are in the given proportions.

    As many are kept as possible: some class keeps all. The others keep the whole number nearest to
    their share. The draw is always the same, and fewer of a class are a part of more of it.

    Args:
        name: of data set and split, for messages.
        split: to thin out.
        class_names: in label order.
        config: with `class_ratios`, one for each class.

    Raises:
        InputError: if there are not as many ratios as classes, or a class would have no example.
    """
    ratios = config.class_ratios
    if len(ratios) != len(class_names):
        raise InputError(
            f"config.data.class_ratios must have one number for each of the {len(class_names)} "
            f"classes ({', '.join(class_names)}), got {len(ratios)}: {ratios}"
        )
    sizes = split.class_sizes(len(class_names))
    scale = np.min(sizes / ratios)
    kept = np.rint(scale * np.array(ratios)).astype(int)
    if not kept.all():
        empty = class_names[int(np.argmin(kept))]
        raise InputError(
            f"config.data.class_ratios={ratios} leaves class {empty!r} without an example in "
            f"{name}, whose classes have {', '.join(map(str, sizes))}; use ratios that are closer"
        )
    indices = [
        # RandomState's stream is frozen by NumPy's policy (NEP 19).
        np.random.RandomState([0, label]).permutation(np.flatnonzero(split.labels == label))[:count]
        for label, count in enumerate(kept)
    ]
    return split.take(np.sort(np.concatenate(indices)))


class Counted(Protocol):
    """Examples whose classes can be counted."""

    def __len__(self) -> int:
        """How many there are."""

    def class_sizes(self, num_classes: int) -> np.ndarray:
        """How many each class has, int [classes]."""


def require_every_class(name: str, split: Counted, class_names: Sequence[str]) -> None:
    """Refuses a split that lacks a class.

    Raises:
        InputError: naming the class.
    """
    sizes = split.class_sizes(len(class_names))
    if not sizes.all():
        raise InputError(
            f"class {class_names[int(np.argmin(sizes))]!r} has no example in {name} "
            f"({len(split)} images); choose other config.data.classes or .class_ratios, or a "
            "smaller config.data.val_fraction"
        )


def positive_label(config: DataConfig, class_names: Sequence[str]) -> int | None:
    """The label that counts as positive: of two classes the configured one, else none.

    Raises:
        InputError: if there are not two classes, or the configured one is not among them.
    """
    name = config.positive_class
    if len(class_names) != 2:
        if name:
            raise InputError(
                f"config.data.positive_class={name!r} has no effect with {len(class_names)} "
                "classes; choose two with config.data.classes, or leave it at ''"
            )
        return None
    if name and name not in class_names:
        raise InputError(
            f"config.data.positive_class must be one of {class_names[0]!r}, {class_names[1]!r}; "
            f"got {name!r}"
        )
    return list(class_names).index(name) if name else 1


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, names))}"
