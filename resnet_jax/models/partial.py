"""A net cut in two: parts that stay as they are, and parts that are trained."""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import lax

from resnet_jax.models.parts import HEAD, Part, compose

# Of an array in a net's parameters or statistics: ('stages', 0, 1, 'convs', 0, 'kernel').
Path = tuple[Any, ...]


class Cut:
    """Where a net is cut.

    Args:
        names: of all its parts, in order.
        trained_from: the first part that is trained; "" for all.

    Raises:
        ValueError: if there is no such part.
    """

    def __init__(self, names: list[str], trained_from: str):
        if trained_from not in ("", *names):
            raise ValueError(f"{trained_from!r} is none of the parts {names}")
        self._names = names
        self._first = names.index(trained_from) if trained_from else 0

    @property
    def freezes(self) -> bool:
        """Whether anything stays as it is."""
        return self._first > 0

    def run(self, frozen: list[Part], trained: list[Part], x: jax.Array) -> jax.Array:
        """Maps x through the net.

        Args:
            frozen: all parts, as they compute in evaluation.
            trained: all parts, as they compute in training.
            x: images.
        """
        x = lax.stop_gradient(compose(frozen[: self._first], x))
        return compose(trained[self._first :], x)

    def is_trained(self, path: Path) -> bool:
        """Whether an array belongs to a part that is trained."""
        return self._place(path) >= self._first

    def divide(self, tree: Any) -> tuple[Any, Any]:
        """Of parameters or statistics those of trained parts, and the others; inverse to `join`."""
        if not self.freezes:
            return tree, {}
        flat = traverse_util.flatten_dict(tree)
        halves: tuple[dict[Path, Any], dict[Path, Any]] = ({}, {})
        for path, value in flat.items():
            halves[not self.is_trained(path)][path] = value
        trained, frozen = map(traverse_util.unflatten_dict, halves)
        return trained, frozen

    def merged(self, new: Any, old: Any) -> Any:
        """Parameters or statistics: new ones of trained parts, old ones of frozen parts."""
        return join(self.divide(new)[0], self.divide(old)[1])

    def unfreezing(self, params: Any, interval: int) -> Any:
        """How many updates pass each parameter by in layer-wise unfreezing.

        Args:
            params: those that are trained in the end.
            interval: updates from one part to the one before it, beginning at the head; parts
                without parameters are passed over.

        Returns:
            Whole numbers in a tree of the same structure.
        """
        flat = traverse_util.flatten_dict(params)
        places = sorted({self._place(path) for path in flat}, reverse=True)
        begins = {path: places.index(self._place(path)) * interval for path in flat}
        return traverse_util.unflatten_dict(begins)

    def _place(self, path: Path) -> int:
        """Where in the net the part stands that an array belongs to."""
        first = str(path[0])
        if first in ("stages", "hidden"):
            kind = "stage" if first == "stages" else "hidden layer"
            return self._names.index(f"{kind} {path[1] + 1}")
        if first == "head":
            return self._names.index(HEAD)
        # stem_conv, stem_norm; final_norm, final_conv.
        start = first.split("_")[0]
        return next(i for i, name in enumerate(self._names) if name.startswith(start))


WHOLE = Cut([], "")


def join(trained: Any, frozen: Any) -> Any:
    """The tree that `Cut.divide` has divided."""
    if not frozen:
        return trained
    flat = traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(flat)


def digest(trees: Iterable[Any]) -> str:
    """SHA-256 of all values, with their names, of parameters and of statistics on the host."""
    found = hashlib.sha256()
    for number, tree in enumerate(trees):
        for path, value in jax.tree_util.tree_leaves_with_path(tree):
            array = np.ascontiguousarray(value)
            name = jax.tree_util.keystr(path)
            found.update(f"{number} {name} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()
