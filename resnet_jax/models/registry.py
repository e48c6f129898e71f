"""From a config to a net, and from a net to the pure function that training maps over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models.mobilenet_v3 import MobileNetV3
from resnet_jax.models.partial import Cut
from resnet_jax.models.parts import compose
from resnet_jax.models.repeated import UNROLLED, Repetition
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.swin import Swin
from resnet_jax.models.vgg import VGG

Net = ResNet | VGG | MobileNetV3 | Swin
FAMILIES: dict[str, type[Net]] = {
    "cifar_resnet": ResNet,
    "imagenet_resnet": ResNet,
    "vgg": VGG,
    "mobilenet_v3": MobileNetV3,
    "swin": Swin,
}


class Apply(Protocol):
    """A net as a pure function."""

    def __call__(
        self,
        params: Any,
        stats: Any,
        x: jax.Array,
        train: bool,
        *,
        keys: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Maps x [batch, height, width, channels] to logits [batch, classes] and the next stats.

        `keys` and `progress` matter to some nets, in training alone; see each family's.
        """


class Functional(NamedTuple):
    """A net as values and one pure function.

    Attributes:
        apply: (params, stats, x, train) -> (logits, stats), see `Apply`.
        features: (params, stats, x) -> what comes to the head in evaluation, [batch, width], in
            float32 at least.
        head: as `apply`, of features instead of images.
        cut: which parts are trained.
        params: nested dict of trained arrays.
        stats: nested dict of running batch statistics, and of whatever else the net keeps from one
            step to the next.
    """

    apply: Apply
    features: Callable[[Any, Any, jax.Array], jax.Array]
    head: Apply
    cut: Cut
    params: Any
    stats: Any


def build(
    config: ModelConfig,
    *,
    channels: int,
    num_classes: int,
    seed: int = 0,
    axis_name: str | None = None,
    repetition: Repetition = UNROLLED,
) -> Net:
    """Builds the configured net with freshly drawn weights.

    Args:
        config: the net.
        channels: of the images.
        num_classes: of the data set.
        seed: of the initial weights.
        axis_name: mapped device axis for synced batch norm, or None to call the net on its own.
        repetition: how blocks that are alike become a program.

    Raises:
        InputError: if the family has no such depth, variant or width, or JAX is not set to the
            net's precision.
    """
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "config.model.dtype='float64' needs JAX's double precision; set JAX_ENABLE_X64=1"
        )
    family = FAMILIES[config.family]
    return family(
        config,
        channels=channels,
        num_classes=num_classes,
        rngs=nnx.Rngs(params=seed),
        axis_name=axis_name,
        repetition=repetition,
    )


def of_blocks(model: Net) -> ResNet:
    """The same net, known to be made of blocks.

    Raises:
        InputError: if it is none.
    """
    if not isinstance(model, ResNet):
        (family,) = [name for name, kind in FAMILIES.items() if isinstance(model, kind)]
        raise InputError(
            f"a net with config.model.family={family!r} has no blocks to be checked or taken "
            "apart; take a run of 'cifar_resnet' or 'imagenet_resnet'"
        )
    return model


def functional(model: Net, *, trained_from: str = "") -> Functional:
    """Splits a net into its parameters, its batch statistics and pure functions of them.

    The values of a net that is to run in loops are laid out for that; see `repeated.with_loops`.

    Args:
        model: the net.
        trained_from: the first part that computes as in training when the net is trained; those
            before it compute as in evaluation, and pass no gradient. "" for all.
    """
    if isinstance(model, ResNet) and model.repetition.loop:
        model = model.looped()
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]

    def apply(
        params: Any,
        stats: Any,
        x: jax.Array,
        train: bool,
        *,
        keys: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        # Without copy=True a merge inside jax.grad raises TraceContextError.
        merged = nnx.merge(graphdef, params, stats, copy=True)
        if train and cut.freezes:
            trained = merged.parts(train=True, keys=keys, progress=progress)
            logits = cut.run(merged.parts(), trained, x)
        else:
            logits = merged(x, train=train, keys=keys, progress=progress)
        return logits, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    def features(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        *before, _ = nnx.merge(graphdef, params, stats, copy=True).parts()
        return compose(before, x).astype(model.numerics.param_dtype)

    def head(
        params: Any, stats: Any, x: jax.Array, train: bool, **unused: Any
    ) -> tuple[jax.Array, Any]:
        *_, last = nnx.merge(graphdef, params, stats, copy=True).parts()
        return last.run(x), stats

    cut = Cut([part.name for part in model.parts()], trained_from)
    return Functional(apply, features, head, cut, nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def update(model: nnx.Module, params: Any, stats: Any) -> None:
    """Writes parameters and statistics (as `functional` gives them) back into a net."""
    for kind, values in ((nnx.Param, params), (nnx.BatchStat, stats)):
        state = nnx.state(model, kind)
        nnx.replace_by_pure_dict(state, values)
        nnx.update(model, state)


def count_parameters(params: Any) -> int:
    """The number of trained values; running statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
