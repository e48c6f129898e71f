"""A net and its optimizer before the first step: freshly drawn, or with weights trained before."""

import dataclasses
import logging
import pathlib

import jax
import jax.numpy as jnp
import optax

from resnet_jax import run_folder
from resnet_jax.config import ModelConfig, RunConfig, load_json
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.models import published_weights, registry, torch_weights
from resnet_jax.models.repeated import UNROLLED, Repetition, without_loops
from resnet_jax.parallel import AXIS
from resnet_jax.train import checkpoint, optimizer
from resnet_jax.train.state import AveragedState, TrainState

LOG = logging.getLogger(__name__)

# In the name of weights: each seed starts from weights of its own.
SEED = "{seed}"
# Fields of a net that may differ between a run and the run whose weights it starts from.
OF_TRAINING = ("weights", "batch_norm", "batch_norm_decay", "auxiliary_weight", "dtype")


def initial_state(
    config: RunConfig,
    *,
    channels: int,
    num_classes: int,
    start: str = "",
    repetition: Repetition = UNROLLED,
) -> tuple[registry.Functional, optax.GradientTransformationExtraArgs, TrainState]:
    """Builds the net and its optimizer.

    Args:
        config: of the run.
        channels: of its images.
        num_classes: of its data set.
        start: as `config.model.weights`; "" leaves the weights as they are drawn, which is enough
            for a state to restore a checkpoint into.
        repetition: how blocks that are alike become a program.

    Returns:
        The net as pure functions, the optimizer, and the state before the first step, on the host:
        what lies on a device is donated to the first step. It is laid out as checkpoints are.

    Raises:
        InputError: if the weights file does not fit, or JAX is not set to the net's precision.
    """
    model = registry.build(
        config.model,
        channels=channels,
        num_classes=num_classes,
        seed=config.train.seed,
        axis_name=AXIS,
        repetition=repetition,
    )
    if start:
        load_into(model, start, config)
    net = registry.functional(model, trained_from=config.transfer.trained_from)
    trained, _ = net.cut.divide(net.params)
    interval = config.transfer.unfreeze_interval
    tx = optimizer.build(
        config.optimizer,
        config.train.steps,
        begins=net.cut.unfreezing(trained, interval) if interval else None,
    )
    kind = AveragedState if config.train.average_decay else TrainState
    state = jax.device_get(kind.create(net.params, net.stats, tx.init(trained)))
    return net, tx, without_loops(state)


def load_into(model: registry.Net, start: str, config: RunConfig) -> None:
    """Gives a net the weights that its config names.

    Args:
        model: the net, not looped.
        start: as `config.model.weights`.
        config: of the run.

    Raises:
        InputError: if the weights do not fit; the net is then unchanged.
    """
    path = published_weights.locate(start.replace(SEED, str(config.train.seed)))
    if path.is_dir():
        _from_run(model, path, config)
        return
    torch_weights.load_into(model, path, new_head=config.transfer.new_head)


def _from_run(model: registry.Net, folder: pathlib.Path, config: RunConfig) -> None:
    """Reads the last checkpoint of a run of ours."""
    field = f"config.model.weights={str(folder)!r}"
    if not (folder / run_folder.CONFIG).is_file():
        raise InputError(f"{field} is a folder, but not a run's; give a run's folder, or a file")
    source = load_json(folder / run_folder.CONFIG)
    for one in dataclasses.fields(ModelConfig):
        theirs, ours = (getattr(c.model, one.name) for c in (source, config))
        # Whether there are batch norms at all is no matter of training.
        same_net = one.name in OF_TRAINING and "none" not in (theirs, ours)
        if theirs != ours and not same_net:
            raise InputError(
                f"{field} is of another net: config.model.{one.name} is {theirs!r} there and "
                f"{ours!r} here; set it to {theirs!r}"
            )
    expected = Preprocessing.load(folder / run_folder.PREPROCESSING)
    if source.data.normalization != config.data.normalization:
        LOG.warning(
            "%s was trained on images normalised by %r, and these are by %r",
            *(field, source.data.normalization, config.data.normalization),
        )
    checkpoints, step = checkpoint.of_run(folder, "last")
    _, _, state = initial_state(
        source, channels=expected.image_shape[-1], num_classes=len(expected.class_names)
    )
    params, stats = checkpoints.restore(step, like=state).evaluated
    own = registry.functional(model)
    # Whatever they have beside the net itself: auxiliary heads.
    params = {name: value for name, value in params.items() if name in own.params}
    if config.transfer.new_head:
        params["head"] = own.params["head"]
    elif params["head"]["bias"].shape != own.params["head"]["bias"].shape:
        raise InputError(
            f"{field} has a head for {len(expected.class_names)} classes, and these data have "
            f"{len(own.params['head']['bias'])}; use config.transfer.new_head=True"
        )
    registry.update(model, *jax.tree.map(jnp.asarray, (params, stats)))
