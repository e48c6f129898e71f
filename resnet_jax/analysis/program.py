"""A net's traced program, read block by block: what feeds each of them, and where paths are added.

Training runs this program and not the modules: blocks that are alike are traced once and repeated
(`models/repeated.py`), so that here too each kind of block is compiled once.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from resnet_jax.errors import WiringError
from resnet_jax.models import registry
from resnet_jax.models.resnet import ResNet
from resnet_jax.native import library

# Where in a net a value stands: ("stages", 1, 4, "convs", 0, "kernel").
Path = tuple[Any, ...]


class Call(NamedTuple):
    """The call of one block.

    Attributes:
        body: its program; the same object for blocks that were traced once.
        arguments: for each input the path of a value of the net, a constant, or None for x.
        shape: of the output, [batch, height, width, channels].
        additions: of two values that both depend on x.
        reads: the feature maps that it reads.
        gives: the feature map that it makes.
    """

    body: Any
    arguments: list[Any]
    shape: tuple[int, ...]
    additions: int
    reads: list[Any]
    gives: Any


class Program:
    """The program of a net in evaluation.

    Args:
        model: the net.
        shape: of its input, [batch, height, width, channels].
        extension: whether to let it call the CPU extension, whose calls cannot be looked into.

    Attributes:
        calls: for each block by (stage, block), from 0, its calls in order.
        additions: in the whole program, of two values that both depend on the images.
        stem: what the stem makes, as `Call.gives`.
        readers: for each feature map, how many operations read it.
    """

    def __init__(self, model: ResNet, shape: tuple[int, ...], *, extension: bool):
        net = registry.functional(model)
        images = jax.ShapeDtypeStruct(shape, model.numerics.param_dtype)
        with contextlib.nullcontext() if extension else library.left_out():
            traced = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x, False)[0])(
                net.params, net.stats, images
            )
        leaves, _ = jax.tree_util.tree_flatten_with_path((net.params, net.stats))
        paths = [tuple(entry.key for entry in path[1:]) for path, _ in leaves]
        self._traced, jaxpr = traced, traced.jaxpr  # kept, for its parts are told by `id`
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, traced.consts, strict=True))
        known |= dict(zip(jaxpr.invars[:-1], paths, strict=True))
        self._memo: dict[Any, Any] = {}
        self.calls: dict[tuple[int, int], list[Call]] = {}
        self.stem: Any = None
        self.readers: dict[Any, int] = {}
        self.additions, _ = self._additions(
            jaxpr, [False] * len(paths) + [True], [False] * len(known)
        )
        for equation in jaxpr.eqns:
            owners = {
                path[1:3]
                for path in map(known.get, _variables(equation))
                if isinstance(path, tuple) and path[:1] == ("stages",)
            }
            for variable in set(_variables(equation)) - set(known):
                self.readers[variable] = self.readers.get(variable, 0) + 1
            if owners:
                self._add(owners, equation, known)
            elif not self.calls:
                self.stem = equation.outvars[0]

    def _add(self, owners: set[Any], equation: Any, known: dict[Any, Any]) -> None:
        body = equation.params.get("jaxpr")
        if len(owners) > 1 or body is None:
            names = " and ".join(f"stage {s + 1}, block {b + 1}" for s, b in sorted(owners))
            raise WiringError(
                f"{names}: expected one call of the block in the program, found others"
            )
        reads = [v for v in _variables(equation) if v not in known and v.aval.ndim == 4]
        arguments = []
        for variable in equation.invars:
            if isinstance(variable, core.Literal):
                arguments.append(variable.val)
            else:
                arguments.append(known.get(variable))
        (maps,) = [[v for v in equation.outvars if v.aval.ndim == 4]]
        depends = [not isinstance(v, core.Literal) and v not in known for v in equation.invars]
        additions, _ = self._additions(body.jaxpr, depends, [False] * len(body.consts))
        call = Call(body, arguments, maps[0].aval.shape, additions, reads, maps[0])
        self.calls.setdefault(owners.pop(), []).append(call)

    def run(self, call: Call, value_of: Callable[[Path], Any], x: Any) -> Any:
        """What a call makes of x, with the net's values as `value_of` gives them; traceable."""
        given = [
            x if argument is None else value_of(argument) if _is_path(argument) else argument
            for argument in call.arguments
        ]
        (first, *_) = core.jaxpr_as_fun(call.body)(*map(jnp.asarray, given))
        return first

    def text(self, call: Call) -> Any:
        """Equal for calls whose programs are."""
        key = id(call.body)
        if key not in self._memo:
            self._memo[key] = str(call.body)
        return self._memo[key]

    def _additions(
        self, jaxpr: Any, inputs: list[bool], constants: list[bool]
    ) -> tuple[int, list[bool]]:
        """Counts additions of two values that depend on some inputs, and tells which outputs do.

        Args:
            jaxpr: the program.
            inputs: whether each input is one of them.
            constants: the same of its constants.
        """
        key = (id(jaxpr), tuple(inputs))
        if key in self._memo:
            counted: tuple[int, list[bool]] = self._memo[key]
            return counted
        depends = dict(zip(jaxpr.constvars, constants, strict=False))
        depends |= dict(zip(jaxpr.invars, inputs, strict=True))

        def is_tainted(variable: Any) -> bool:
            return not isinstance(variable, core.Literal) and depends.get(variable, False)

        count = 0
        for equation in jaxpr.eqns:
            given = [is_tainted(v) for v in equation.invars]
            outputs = [any(given)] * len(equation.outvars)
            if equation.primitive.name in ("add", "add_any"):
                count += all(given)
            for inner in equation.params.values():
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns") and len(inner.invars) == len(given):
                    more, outputs = self._additions(inner, given, [])
                    count += more
            depends |= dict(zip(equation.outvars, outputs, strict=True))
        self._memo[key] = count, [is_tainted(v) for v in jaxpr.outvars]
        return count, [is_tainted(v) for v in jaxpr.outvars]


def _variables(equation: Any) -> list[Any]:
    return [v for v in equation.invars if not isinstance(v, core.Literal)]


def _is_path(argument: Any) -> bool:
    return isinstance(argument, tuple)
