"""Which pixels of an image a value can depend on, followed through a traced program.

Along each axis, pixel i of a feature map sees the image's pixels jump * i + low to jump * i + high.
Convolutions, pooling and strided slices move these bounds; what works pixel by pixel joins those of
its inputs. The bounds are those of the paths: weights may be zero, and what lies beyond the image
is padding.
"""

import math
from typing import Any, NamedTuple

from jax.extend import core

from resnet_jax.models.windows import WINDOW, window_attention


class Span(NamedTuple):
    """What pixel i sees along one axis: jump * i + low to jump * i + high.

    Attributes:
        jump: pixels of the image between neighbours; 0 if all see the same pixels.
        low: the first one that pixel 0 sees.
        high: the last one that pixel 0 sees.
    """

    jump: int
    low: int
    high: int

    @property
    def size(self) -> int:
        """Pixels that are seen, those beyond the image included."""
        return self.high - self.low + 1

    def window(self, size: int, stride: int, before: int, dilation: int) -> "Span":
        """What a window over such pixels sees, `before` of them lying ahead of pixel 0."""
        low = self.low - before * self.jump
        high = self.high + ((size - 1) * dilation - before) * self.jump
        return Span(self.jump * stride, low, high)


# Along height and width.
Spans = tuple[Span, Span]
# One pixel of the image.
PIXEL: Spans = (Span(1, 0, 0), Span(1, 0, 0))
# What works on each pixel by itself, whatever its inputs.
PIXELWISE = frozenset(
    "abs add add_any and clamp convert_element_type copy div eq erf erfc exp expm1 ge gt "
    "integer_pow le log log1p logistic lt max min mul name ne neg not optimization_barrier or pow "
    "reduce_precision rsqrt select_n sign sqrt square stop_gradient sub tanh".split()
)
CALLS = ("jaxpr", "call_jaxpr")
SPATIAL = (1, 2)  # of [batch, height, width, channels]


class Walk:
    """Follows one image through a program.

    Args:
        image: (height, width) of the image.
    """

    def __init__(self, image: tuple[int, int]):
        self.all: Spans = (Span(0, 0, image[0] - 1), Span(0, 0, image[1] - 1))

    def through(self, jaxpr: Any, given: list[Spans | None]) -> list[Spans | None]:
        """The spans of a program's results.

        Args:
            jaxpr: the program.
            given: the spans of its inputs; None for what does not depend on the image.

        Raises:
            NotImplementedError: if it does something that cannot be followed.
        """
        known: dict[Any, Spans | None] = dict(zip(jaxpr.invars, given, strict=True))
        for equation in jaxpr.eqns:
            self.step(equation, known)
        return [_of(known, variable) for variable in jaxpr.outvars]

    def step(self, equation: Any, known: dict[Any, Spans | None]) -> None:
        """Adds the spans of one operation's results to the known ones."""
        seen = [_of(known, variable) for variable in equation.invars]
        inner = next((equation.params[name] for name in CALLS if name in equation.params), None)
        called = equation.params.get("name")
        if not any(seen):
            found: list[Spans | None] = [None] * len(equation.outvars)
        elif called == window_attention.__name__ and seen[0]:
            found = [self._windowed(seen[0], equation.invars[0].aval.shape)]
        elif inner is not None and equation.primitive.name not in ("scan", "while", "cond"):
            found = self.through(getattr(inner, "jaxpr", inner), seen)
        else:
            found = [self._after(equation, seen)] * len(equation.outvars)
        known |= dict(zip(equation.outvars, found, strict=True))

    def _windowed(self, spans: Spans, shape: tuple[int, ...]) -> Spans:
        """Attention: a pixel sees its window, wherever in it it lies, shifted or not.

        So it may see pixels up to a window's side less one away to either side, or all there are
        where one window has them all.
        """

        def one(span: Span, axis: int) -> Span:
            if shape[axis] == WINDOW:
                return self.all[axis - 1]
            return span.window(2 * WINDOW - 1, 1, WINDOW - 1, 1)

        return _each(spans, one)

    def _after(self, equation: Any, seen: list[Spans | None]) -> Spans:
        name, how = equation.primitive.name, equation.params
        first, *others = seen
        joined = _joined(name, [spans for spans in seen if spans])
        if name in PIXELWISE or joined == self.all:
            return joined
        if name == "concatenate" and how["dimension"] not in SPATIAL:
            return joined
        if first and _keeps_pixels(equation):
            return first
        if first and not any(others):
            if name == "conv_general_dilated":
                return _convolution(first, equation)
            if name.startswith("reduce_window"):
                return _pooling(first, name, how)
            if name == "slice":
                strides = how["strides"] or (1,) * len(how["start_indices"])
                starts = how["start_indices"]
                return _each(first, lambda s, i: s.window(1, strides[i], -starts[i], 1))
            if name == "pad" and all(how["padding_config"][i][2] == 0 for i in SPATIAL):
                before = [int(low) for low, _, _ in how["padding_config"]]  # NumPy's, of jnp.pad
                return _each(first, lambda s, i: s.window(1, 1, before[i], 1))
            if name.startswith(("reduce_", "arg")) and set(SPATIAL) <= set(how.get("axes", ())):
                return self.all
            if name == "reshape" and len(how["new_sizes"]) == 2:
                return self.all  # all pixels in a row, as a matrix product takes them
        raise NotImplementedError(f"receptive field: {name!r} cannot be followed")


def _keeps_pixels(equation: Any) -> bool:
    """Whether an operation works on the channels of each pixel of its first input by itself."""
    name, how = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), (batched, _) = how["dimension_numbers"]
        return tuple(contracted) == (3,) and not batched
    if name == "broadcast_in_dim":
        return tuple(how["broadcast_dimensions"][:3]) == (0, 1, 2)
    if name == "reshape":
        return tuple(equation.invars[0].aval.shape[:3]) == tuple(how["new_sizes"][:3])
    return str(name).startswith("reduce_") and tuple(how.get("axes", ())) == (3,)


def _of(known: dict[Any, Spans | None], variable: Any) -> Spans | None:
    return None if isinstance(variable, core.Literal) else known.get(variable)


def _each(spans: Spans, change: Any) -> Spans:
    height, width = (change(span, axis) for span, axis in zip(spans, SPATIAL, strict=True))
    return height, width


def _joined(name: str, seen: list[Spans]) -> Spans:
    return _each(seen[0], lambda _, axis: _union(name, [spans[axis - 1] for spans in seen]))


def _union(name: str, spans: list[Span]) -> Span:
    for span in spans:
        if not span.jump:  # it sees all there is
            return span
    jump = spans[0].jump
    if any(span.jump != jump for span in spans):
        raise NotImplementedError(f"receptive field: {name!r} joins maps of different strides")
    return Span(jump, min(span.low for span in spans), max(span.high for span in spans))


def _convolution(spans: Spans, equation: Any) -> Spans:
    how = equation.params
    numbers, kernel = how["dimension_numbers"], equation.invars[1].aval.shape
    if numbers.lhs_spec[2:] != SPATIAL or math.prod(how["lhs_dilation"]) != 1:
        raise NotImplementedError("receptive field: only convolutions of NHWC without upsampling")

    def one(span: Span, axis: int) -> Span:
        i = axis - 1
        size = kernel[numbers.rhs_spec[2 + i]]
        before, _ = how["padding"][i]
        return span.window(size, how["window_strides"][i], before, how["rhs_dilation"][i])

    return _each(spans, one)


def _pooling(spans: Spans, name: str, how: Any) -> Spans:
    if math.prod(how["base_dilation"]) != 1:
        raise NotImplementedError(f"receptive field: {name!r} with gaps between pixels")

    def one(span: Span, axis: int) -> Span:
        return span.window(
            how["window_dimensions"][axis],
            how["window_strides"][axis],
            how["padding"][axis][0],
            how["window_dilation"][axis],
        )

    return _each(spans, one)
