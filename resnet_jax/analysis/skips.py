"""Are the skips right? Checked on the net itself, before it trains (docs/check.md).

Each block's branch is made a constant. What is left must be what the config says of the shortcut
(`reference.output`), in value and in derivative: of the module as training calls it, and of the
program that training traces. In this the blocks must follow one another, with one addition each.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_jax.analysis import expected, reference
from resnet_jax.analysis.expected import Place
from resnet_jax.analysis.probe import BATCH, COMPILED_FAST, Probe, Prober
from resnet_jax.analysis.wiring import ProgramChecks
from resnet_jax.config import ModelConfig, stage_sizes
from resnet_jax.errors import WiringError
from resnet_jax.models import registry
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import DropoutAddition
from resnet_jax.models.vgg import require_large_enough

__all__ = ["Passed", "check", "require_large_enough"]


class Passed(NamedTuple):
    """One check that was passed, and the figure it ended with."""

    name: str
    figure: str


def check(
    config: ModelConfig,
    *,
    image: tuple[int, int, int],
    num_classes: int,
    model: ResNet | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Passed]:
    """Compares a net with what its config says of every block.

    Args:
        config: of the net.
        image: (height, width, channels) of the data set's images.
        num_classes: of the data set.
        model: the net, which is left as it is; None builds it, and so does half precision, for
            which the net is checked in single.
        should_stop: asked before each block; once true, the check ends as if all were well.

    Returns:
        The checks that were passed, in order.

    Raises:
        WiringError: on the first block that is not as the config says, in one line that names it.
        InputError: if the net cannot be built, or has no blocks.
    """
    start = time.monotonic()
    # Which way values take does not depend on how they are rounded, and half precision hides it.
    if config.dtype == "bfloat16":
        config, model = dataclasses.replace(config, dtype="float32"), None
    if model is None:
        built_net = registry.build(config, channels=image[-1], num_classes=num_classes)
        model = registry.of_blocks(built_net)
    built = time.monotonic() - start
    passed = []
    try:
        # Accelerators would round the factors of a convolution, and a projection is one.
        with jax.default_matmul_precision("highest"):
            for row in _checks(config, model, image, num_classes, should_stop):
                passed.append(Passed(*row))
    except _StopAsked:
        pass
    seconds = f"{time.monotonic() - start - built:.1f} (and {built:.1f} to build the net)"
    return [*passed, Passed("seconds", seconds)]


class _StopAsked(Exception):
    pass


def _checks(
    config: ModelConfig,
    model: ResNet,
    image: tuple[int, int, int],
    num_classes: int,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[str, str]]:
    """All of them, those first that can tell best what is wrong."""

    def ask() -> None:
        if should_stop():
            raise _StopAsked

    places = expected.places(config)
    sizes, found = list(stage_sizes(config)), [len(stage) for stage in model.stages]
    if found != sizes:
        raise WiringError(
            f"stages 1 to {len(sizes)}: expected {sizes} blocks in them, found {found}"
        )
    modules = Modules(config, model)
    for place in places:
        ask()
        modules.check(place)
    yield "modules in training: shortcut and gradient", modules.prober.figure(len(places))
    yield "parameters", _parameters(config, model, modules.values, image[-1], num_classes)
    program = ProgramChecks(config, model, modules.values, image)
    ask()
    yield from program.structure()
    for place in places:
        ask()
        program.check(place)
    yield "traced program: shortcut and gradient", program.prober.figure(len(places))
    yield from program.gradient(ask)


class Modules:
    """The blocks as objects, in training.

    Args:
        config: of the net.
        model: the net.

    Attributes:
        values: of each block that was checked, nested dicts of NumPy arrays.
        prober: what they were tried with.
    """

    def __init__(self, config: ModelConfig, model: ResNet):
        self.config, self.model = config, model
        self.values: list[Any] = []
        self.prober = Prober(config)
        # Other kinds draw otherwise for several images at once than for each alone.
        self.keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), BATCH)

    def check(self, place: Place) -> None:
        """Compares one block with its config.

        Raises:
            WiringError: if it is wired otherwise.
        """
        block = self.model.stages[place.stage - 1][place.block - 1]
        definition, state = nnx.split(block)
        values = jax.device_get(nnx.to_pure_dict(state))
        self.values.append(values)
        _require_weights(self.config, place, values)
        if isinstance(getattr(block, "addition", None), DropoutAddition):
            definition = _same_masks(place, block)

        def run(probe: Probe) -> Any:
            try:
                return _tried(definition, self.config, place.kind, probe, self.keys)
            except Exception as error:  # whatever a block may raise that does not fit its input
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise WiringError(
                    f"{place}: expected {expected.formula(self.config, place)}, found a block "
                    f"that cannot be called: {reason}"
                ) from error

        self.prober.try_out(place, values, "in training", run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=COMPILED_FAST)
def _tried(
    definition: Any, config: ModelConfig, place: Place, probe: Probe, keys: jax.Array
) -> Any:
    """(output, gradient) of a block, and what they should be; compiled once for blocks alike."""
    annealed = config.shortcut_transform == "annealed_scaling"
    scale = jnp.asarray(reference.PROBED_SCALE, probe.x.dtype) if annealed else None

    def block(x: jax.Array) -> jax.Array:
        merged = nnx.merge(definition, probe.values, copy=True)
        out = merged(x.astype(config.dtype), train=True, keys=keys, shortcut_scale=scale)
        return jnp.asarray(out, probe.x.dtype)

    def should(x: jax.Array) -> jax.Array:
        return reference.output(config, place, probe.values, probe.branch, x, keys)

    return tuple(reference.with_gradient(f, probe.x, probe.cotangent) for f in (block, should))


def _same_masks(place: Place, block: Any) -> Any:
    """With dropout each block draws masks of its own; apart from that they are one program."""
    if block.addition.position != place.position:
        raise WiringError(
            f"{place}: expected dropout masks of position {place.position}, found those of "
            f"{block.addition.position}"
        )
    alike = nnx.clone(block)
    alike.addition.position = 0
    return nnx.graphdef(alike)


def _require_weights(config: ModelConfig, place: Place, values: Any) -> None:
    kind = expected.shortcut_kind(config, place)
    if kind == "projection" and "conv" not in values.get("shortcut", {}):
        raise WiringError(
            f"{place}: expected a projection as its shortcut, found no weights of one"
        )
    gated = kind != "none" and expected.is_gated(config)
    if gated and "gate" not in values.get("addition", {}):
        raise WiringError(f"{place}: expected a gate on its shortcut, found no weights of one")


def _parameters(
    config: ModelConfig, model: ResNet, values: list[Any], channels: int, num_classes: int
) -> str:
    """Option A and identities have none; projections and gates have what they must."""
    twin = expected.parameters_outside_blocks(config, channels, num_classes)
    shortcuts = 0
    for place, own in zip(expected.places(config), values, strict=True):
        plain = expected.plain_parameters(config, place)
        more = expected.more_parameters(config, place)
        found = _size(own)
        if found != plain + more:
            raise WiringError(
                f"{place}: expected {plain + more:,} parameters ({plain:,} as its plain twin, "
                f"{more:,} on the shortcut), found {found:,}"
            )
        twin, shortcuts = twin + plain, shortcuts + more
    found = registry.count_parameters(nnx.state(model, nnx.Param))
    published = expected.published_parameters(config, channels, num_classes)
    wanted = published or twin + shortcuts
    if found != wanted:
        raise WiringError(f"the net: expected {wanted:,} parameters, found {found:,}")
    beside = f"{shortcuts:,} more than the plain twin" if shortcuts else "as the plain twin"
    return f"{found:,}, {beside}{', as published' if published else ''}"


def _size(values: Any) -> int:
    """Trained values only; a BN's mean and variance are not."""
    if not isinstance(values, dict):
        return int(np.size(values))
    return sum(_size(v) for name, v in values.items() if name not in ("mean", "variance"))
