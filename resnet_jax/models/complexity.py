"""What a net costs: counted from the program itself, so it holds for every net."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.models.registry import Apply
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
    return _count(program.jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            lengths = (equation.invars[0].aval.shape[axis] for axis in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += _count(inner)
    return int(total)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_axis = equation.params["dimension_numbers"].rhs_spec[0]
    for_one_output = math.prod(kernel) // kernel[out_axis]
    return int(math.prod(equation.outvars[0].aval.shape) * for_one_output)
