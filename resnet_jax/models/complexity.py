"""What a net costs: counted from the program itself, so it holds for every net."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from resnet_jax.models import registry
from resnet_jax.models.receptive_field import PIXEL, Spans, Walk
from resnet_jax.models.registry import Apply, Net
from resnet_jax.models.repeated import Repetition
from resnet_jax.native import library


def multiply_adds(apply: Apply, params: Any, stats: Any, shape: tuple[int, ...]) -> int:
    """Multiply-adds of convolutions and matrix products in evaluation, as the papers count them.

    Args:
        apply: the net.
        params: its parameters.
        stats: its batch statistics.
        shape: of the input, [batch, height, width, channels].

    Reference: He et al. 2015, Table 1 ("FLOPs (multiply-adds)").
    """
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with library.left_out():
        program = jax.make_jaxpr(lambda p, s, x: apply(p, s, x, False)[0])(params, stats, image)
    return _count(program.jaxpr.eqns)


class PartCost(NamedTuple):
    """What one part of a net costs, for one image.

    Attributes:
        name: of the part.
        shape: of its output, without the batch.
        parameters: trained values that it reads.
        multiply_adds: as in `multiply_adds`.
        receptive_field: pixels of the image that one value of the output can depend on, (height,
            width); where that is more than the image has, the rest is padding.
        sees_all: whether every value of the output depends on the whole image.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, int]
    sees_all: bool


def of_parts(model: Net, image: tuple[int, int, int], *, blocks: bool = False) -> list[PartCost]:
    """The costs of a net's parts, in order, in evaluation; nothing is computed.

    Args:
        model: the net.
        image: (height, width, channels).
        blocks: as in each net's `parts`.
    """
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]

    def marked(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        net = nnx.merge(graphdef, params, stats, copy=True)
        for part in net.parts(blocks=blocks):
            x = checkpoint_name(part.run(x), part.name)
        return x

    with library.left_out():
        x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
        program = jax.make_jaxpr(marked)(params, stats, x).jaxpr
    trained = set(program.invars[: len(jax.tree.leaves(params))])
    walk, found, own = Walk(image[:2]), [], []
    known: dict[Any, Spans | None] = {program.invars[-1]: PIXEL}
    equation: Any  # JAX types what a variable holds too widely to have a shape
    for equation in program.eqns:
        own.append(equation)
        walk.step(equation, known)
        if equation.primitive.name != "name":  # what marks the end of a part
            continue
        read = {v for e in own for v in e.invars if not isinstance(v, core.Literal)} & trained
        seen = known[equation.outvars[0]]
        assert seen is not None, "every part depends on the image"
        found.append(
            PartCost(
                name=equation.params["name"],
                shape=equation.outvars[0].aval.shape[1:],
                parameters=sum(v.aval.size for v in read),
                multiply_adds=_count(own),
                receptive_field=(seen[0].size, seen[1].size),
                sees_all=seen == walk.all,
            )
        )
        own = []
    return found


def activation_bytes(
    model: Net, image: tuple[int, int, int], *, batch: int, recompute: bool = False
) -> int:
    """Bytes that a training step keeps from the forward pass for the backward pass.

    These are the residuals of `jax.vjp` with respect to the parameters, read from the traced
    program: what JAX keeps, in the types in which it keeps it. So batch norm's part is float32 in a
    bfloat16 net, and a ReLU's mask takes a byte a value. Parameters and images are not among them,
    for they are there anyway, nor are constants. `jax.ad_checkpoint.print_saved_residuals` lists
    the same, but only prints it. A compiled program may need less, where the compiler computes
    something anew, or more, for results under way.

    Args:
        model: the net; blocks are taken as a loop where they may be, which changes nothing here.
        image: (height, width, channels).
        batch: images in a step.
        recompute: keep only each block's input, as `config.train.recompute_blocks` has it.
    """
    before, model.repetition = model.repetition, Repetition(not model.has_dropout, recompute)
    net = registry.functional(model)
    model.repetition = before
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))

    def kept(params: Any, stats: Any, x: Any, keys: Any, progress: Any) -> Any:
        def forward(params: Any) -> jax.Array:
            logits, _ = net.apply(params, stats, x, True, keys=keys, progress=progress)
            return logits

        return jax.tree.leaves(jax.vjp(forward, params)[1])

    with library.left_out():
        x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
        progress = jax.ShapeDtypeStruct((), model.numerics.param_dtype)
        program = jax.make_jaxpr(kept)(net.params, net.stats, x, keys, progress).jaxpr
    given = set(program.invars)
    values = {v for v in _varying(program) if v not in given}
    return sum(v.aval.size * v.aval.dtype.itemsize for v in values)


def _varying(jaxpr: Any) -> Iterator[Any]:
    """A program's results that depend on its inputs."""
    flags = _depend(jaxpr, [True] * len(jaxpr.invars))
    return (v for v, depends in zip(jaxpr.outvars, flags, strict=True) if depends)


def _depend(jaxpr: Any, given: list[bool]) -> list[bool]:
    depends = dict(zip(jaxpr.invars, given, strict=True))

    def does(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and depends.get(variable, False)

    for equation in jaxpr.eqns:
        seen = [does(v) for v in equation.invars]
        found = [any(seen)] * len(equation.outvars)
        if equation.primitive.name == "jit":
            found = _depend(equation.params["jaxpr"].jaxpr, seen)
        depends |= dict(zip(equation.outvars, found, strict=True))
    return [does(v) for v in jaxpr.outvars]


def _count(equations: Any) -> int:
    total = 0
    for equation in equations:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            lengths = (equation.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
        times = equation.params["length"] if name == "scan" else 1
        for held in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner: Any = getattr(held, "jaxpr", held)
            if hasattr(inner, "eqns"):
                total += times * _count(inner.eqns)
    return int(total)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_axis = equation.params["dimension_numbers"].rhs_spec[0]
    for_one_output = math.prod(kernel) // kernel[out_axis]
    return int(math.prod(equation.outvars[0].aval.shape) * for_one_output)
