"""What blocks are tried with, and how what they make of it is compared with what they should."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax.analysis import expected, reference
from resnet_jax.analysis.expected import Place
from resnet_jax.config import ModelConfig, stage_sizes
from resnet_jax.errors import WiringError

BATCH = 2  # nothing that is checked depends on it
# Largest difference, relative to the largest value (to one, if that is smaller).
TOLERANCE = {"float64": 1e-8, "float32": 1e-3}
# Rounding may turn a ReLU at a value near zero, once in many nets; a mistake is there every time.
TRIES = 2

# For programs that are compiled to run a few times: CPU code is made in a third of the time, and
# fusion, which `environment` may have turned off for the sake of training, shortens them.
COMPILED_FAST = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": ""}


def side(config: ModelConfig) -> int:
    """Pixels a side of the first block's input: so few that the last stage works on 2x2."""
    return int(2 ** len(stage_sizes(config)))


class Probe(NamedTuple):
    """What one block is tried with.

    Attributes:
        values: of its weights and statistics, such that its branch is a constant.
        branch: this constant, [width].
        x: its input, [batch, height, width, channels].
        cotangent: the gradient with respect to its output, of the output's shape.
    """

    values: Any
    branch: Any
    x: Any
    cotangent: Any


class Prober:
    """Draws probes, and judges what comes of them.

    Args:
        config: of the net.

    Attributes:
        largest: relative difference of all that was compared.
    """

    def __init__(self, config: ModelConfig):
        self.config = config
        self.wide = np.float64 if config.dtype == "float64" else np.float32
        self.random = np.random.RandomState(0)
        self.largest = 0.0

    def draw(self, place: Place, values: Any, *, calm: bool = False) -> Probe:
        """A probe of one block.

        What is not calm has BN of arbitrary statistics, so that one in the wrong place shows, and
        values of both signs, so that a ReLU does. What is calm lets gradient through hundreds of
        blocks: BN changes nothing, F is zero, the input positive.
        """
        draw = self.random
        values = jax.tree.map(np.copy, values)
        for norm in _norms(values):
            for name, natural in (("scale", 1), ("variance", 1), ("bias", 0), ("mean", 0)):
                size = norm[name].shape
                drawn = draw.uniform(0.5, 1.5, size) if natural else draw.normal(0, 0.5, size)
                norm[name][...] = natural if calm else drawn
        gate = values.get("addition", {}).get("gate")
        if gate and not calm:
            gate["bias"][...] = draw.normal(size=gate["bias"].shape)
        constant = np.zeros(place.width) if calm else draw.normal(size=place.width)
        values, branch = reference.silenced(self.config, values, constant.astype(self.wide))
        pixels = side(self.config) // 2 ** (place.stage - 1)
        before = (BATCH, pixels * place.stride, pixels * place.stride, place.in_width)
        x = draw.uniform(0.5, 1.5, before) if calm else draw.normal(size=before)
        cotangent = draw.normal(size=(BATCH, pixels, pixels, place.width))
        return Probe(values, branch, x.astype(self.wide), cotangent.astype(self.wide))

    def figure(self, blocks: int) -> str:
        """What was compared, and how closely it agreed."""
        within = f"within {self.largest:.0e}" if self.largest else "exactly"
        return f"{blocks} of {blocks} blocks, {within}"

    def try_out(self, place: Place, values: Any, how: str, run: Callable[[Probe], Any]) -> None:
        """Compares what a block makes of a probe with what it should make of it.

        Args:
            place: of the block.
            values: of the block.
            how: it is run, in words.
            run: from a probe to (output, gradient with respect to x), and what they should be.

        Raises:
            WiringError: if one of them is not as it should be.
        """
        for last in range(1, TRIES + 1):
            found, wanted = run(self.draw(place, values))
            try:
                return self._compare(place, how, found, wanted)
            except WiringError:
                if last == TRIES:
                    raise

    def _compare(self, place: Place, how: str, found: Any, wanted: Any) -> None:
        formula = expected.formula(self.config, place)
        for name, a, b in zip(("output", "gradient"), found, wanted, strict=True):
            a, b = (np.asarray(v, np.float64) for v in (a, b))
            if a.shape != b.shape:
                raise WiringError(
                    f"{place}: its {name} {how} is not that of {formula}: expected the shape "
                    f"{shape(b.shape)}, found {shape(a.shape)}"
                )
            apart = np.abs(a - b)
            worst = apart.max() / max(np.abs(b).max(), 1)
            if not worst <= TOLERANCE[self.config.dtype]:
                where = np.unravel_index(np.argmax(apart), apart.shape)
                raise WiringError(
                    f"{place}: its {name} {how} with a constant F is not that of {formula}: "
                    f"expected {b[where]:.4g} at {list(map(int, where[1:]))}, found {a[where]:.4g}"
                )
            self.largest = max(self.largest, float(worst))


def shape(sizes: tuple[int, ...]) -> str:
    """(height, width, channels), with or without a batch before them, as papers write it."""
    return "x".join(map(str, sizes[-3:]))


def _norms(values: Any) -> list[Any]:
    if not isinstance(values, dict):
        return []
    if "variance" in values:
        return [values]
    return [norm for inner in values.values() for norm in _norms(inner)]
