"""Checks of the program that a net is traced to: its blocks, their order, its gradient."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.analysis import expected, reference
from resnet_jax.analysis.expected import Place
from resnet_jax.analysis.probe import BATCH, COMPILED_FAST, Probe, Prober, shape, side
from resnet_jax.analysis.program import Call, Program
from resnet_jax.config import ModelConfig
from resnet_jax.errors import WiringError
from resnet_jax.models.resnet import ResNet


class ProgramChecks:
    """The checks of one traced net, in evaluation.

    Args:
        config: of the net.
        model: the net.
        values: of each block, nested dicts of NumPy arrays.
        image: (height, width, channels) of the data set's images.

    Attributes:
        prober: what blocks are tried with.

    Raises:
        WiringError: if a block is not called as one, and once.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: ResNet,
        values: list[Any],
        image: tuple[int, int, int],
    ):
        self.config, self.values, self.image = config, values, image
        self.places, self.prober = expected.places(config), Prober(config)
        # One to be read, of the data set's images, and a small one to be run.
        self.read = _traced(model, image, extension=False)
        small = side(config) * expected.stem(config).reduction
        self.program = _traced(model, (small, small, image[-1]), extension=True)
        self.calls = [_call(self.program, place) for place in self.places]
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def structure(self) -> Iterator[tuple[str, str]]:
        """Who reads what, how often paths meet, and the stages' shapes."""
        self._chain()
        yield "blocks read what the one before them makes", f"{len(self.calls)}"
        yield "additions", self._additions()
        yield "stages", self._stages()

    def check(self, place: Place) -> None:
        """Compares one block's part of the program with the config.

        Raises:
            WiringError: if it computes something else.
        """
        values = self.values[place.position]
        self.prober.try_out(place, values, "in the traced program", self._run(place))

    def gradient(self, ask: Callable[[], None]) -> Iterator[tuple[str, str]]:
        """Sends gradient from the last block to the stem while all branches are zero.

        Both ways values are brought back to one size after each block: a thousand projections
        would overflow, as many shortcuts scaled by a half vanish.

        Args:
            ask: called before each block.
        """
        probes: list[Probe] = []
        x: Any = None
        for place in self.places:
            ask()
            probe = self.prober.draw(place, self.values[place.position], calm=True)
            probe = probe if x is None else probe._replace(x=x)
            probes.append(probe)
            x, size = _to_one_size(np.asarray(self._run(place)(probe)[0][0]))
            x = x if size else None  # a plain block without its branch gives zero
        gradient, identities, log = probes[-1].cotangent, 0, 0.0
        for place, probe in zip(reversed(self.places), reversed(probes), strict=True):
            ask()
            (output, back), _ = self._run(place)(probe._replace(cotangent=gradient))
            if expected.is_identity(self.config, place):
                self._require_identity(place, probe.x, gradient, output, back)
                identities += 1
            gradient, size = _to_one_size(np.asarray(back))
            if not expected.passes_gradient(self.config):
                if size:
                    raise WiringError(
                        f"{place}: expected no gradient past a branch that is detached, found "
                        f"{size:.3g} of what came"
                    )
                yield "gradient at the stem, branches detached", "exactly 0"
                return
            if not size:
                raise WiringError(
                    f"{place}: expected gradient to pass where the branch is detached, found none"
                )
            log += float(np.log10(size))
        if identities:
            yield "Jacobians that are the identity where F is 0", f"{identities}, exactly"
        passed = f"{10**log:.3g}" if abs(log) < 6 else f"1e{log:+.0f}"
        yield "gradient at the stem, branches detached", f"{passed} of that at the last block"

    def _require_identity(
        self, place: Place, x: Any, gradient: Any, output: Any, back: Any
    ) -> None:
        # A ReLU that follows has no derivative at the zeros of new channels.
        passing = (x > 0) | (self.config.activation_order != "original")
        for name, wanted, found in (("output", x, output), ("gradient", gradient, back)):
            found = np.asarray(found)
            rounded = np.asarray(jnp.asarray(wanted, self.config.dtype), found.dtype)
            rounded, found = rounded[passing], found[passing]
            if not np.array_equal(rounded, found):
                raise WiringError(
                    f"{place}: expected the identity where F is 0 and x positive, found a "
                    f"{name} that differs by up to {np.abs(rounded - found).max():.3g}"
                )

    def _run(self, place: Place) -> Callable[[Probe], Any]:
        """(output, gradient) of a block's part, and what they should be; compiled once a kind."""
        program, call, config = self.program, self.calls[place.position], self.config
        key = (program.text(call), place.kind)
        if key not in self.compiled:
            first, no_keys = place.position, jax.random.split(jax.random.key(0), 1)[:0]
            scale = reference.PROBED_SCALE

            def run(probe: Probe) -> Any:
                def part(x: jax.Array) -> jax.Array:
                    out = program.run(call, lambda path: _value(probe.values, path, scale), x)
                    return jnp.asarray(out, probe.x.dtype)

                def should(x: jax.Array) -> jax.Array:
                    kind = self.places[first].kind
                    return reference.output(config, kind, probe.values, probe.branch, x, no_keys)

                return tuple(
                    reference.with_gradient(f, probe.x, probe.cotangent) for f in (part, should)
                )

            self.compiled[key] = jax.jit(run, compiler_options=COMPILED_FAST)
        return self.compiled[key]

    def _read_calls(self) -> list[tuple[Place, Call]]:
        return [(place, _call(self.read, place)) for place in self.places]

    def _chain(self) -> None:
        makers = {self.read.stem: "the stem"}
        makers |= {call.gives: str(p) for p, call in self._read_calls()}
        before, name = self.read.stem, "the stem"
        for place, call in self._read_calls():
            read = [makers.get(v, "what is no block's output") for v in call.reads]
            if call.reads != [before]:
                raise WiringError(
                    f"{place}: expected to read {name} alone, found it reads "
                    f"{' and '.join(read) or 'nothing'}"
                )
            before, name = call.gives, str(place)
        for place, call in self._read_calls():
            if (readers := self.read.readers.get(call.reads[0])) != 1:
                name = makers[call.reads[0]]
                raise WiringError(
                    f"{place}: expected to be the only reader of {name}, found {readers}"
                )

    def _additions(self) -> str:
        for place, call in self._read_calls():
            wanted = int(expected.shortcut_kind(self.config, place) != "none")
            if call.additions != wanted:
                raise WiringError(
                    f"{place}: expected {wanted} addition{'s' * (wanted != 1)} of two paths, "
                    f"found {call.additions}"
                )
        total = sum(call.additions for _, call in self._read_calls())
        if self.read.additions != total:
            raise WiringError(
                f"outside of the blocks: expected no addition of two paths, found "
                f"{self.read.additions - total}"
            )
        return f"{total}, {'one a block' if total else 'as in a plain net'}"

    def _stages(self) -> str:
        wanted = expected.stage_shapes(self.config, *self.image[:2])
        for place, call in self._read_calls():
            if call.shape[1:] != wanted[place.stage - 1]:
                raise WiringError(
                    f"{place}: expected a feature map of {shape(wanted[place.stage - 1])}, found "
                    f"{shape(call.shape)}"
                )
        return ", ".join(map(shape, wanted))


def _traced(model: ResNet, image: tuple[int, int, int], *, extension: bool) -> Program:
    try:
        return Program(model, (BATCH, *image), extension=extension)
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WiringError(
            f"the net: expected a program for images of {shape(image)}, found it cannot be "
            f"traced: {reason}"
        ) from error


def _call(program: Program, place: Place) -> Call:
    calls = program.calls.get((place.stage - 1, place.block - 1), [])
    if len(calls) != 1:
        raise WiringError(f"{place}: expected to be called once, found {len(calls)} calls")
    return calls[0]


def _value(values: Any, path: tuple[Any, ...], scale: float) -> Any:
    """What stands at a path of the net: of the block's values, or the scale of annealed nets."""
    if path == ("shortcut_scale",):
        return scale
    for name in path[3:]:
        values = values[name]
    return values


def _to_one_size(x: np.ndarray) -> tuple[np.ndarray, float]:
    """An array divided by its root mean square, and the latter; zeros stay."""
    size = float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    return (x / np.asarray(size, x.dtype) if size else x), size
