"""Are the skips right?

    python -m resnet_jax.analysis.check --config=configs/cifar_resnet56.py
    python -m resnet_jax.analysis.check --workdir=runs/r56

Builds the configured net (of the config, or of a run's folder) and compares each block, the order
of blocks and the way gradient takes with what the config says of them; docs/check.md lists the
checks. No data set is read and nothing is written.

Exit codes: 0 all is as configured, 1 something is not (one line names the block), 2 bad input.
"""

import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import rich.console
import rich.table
from absl import flags
from ml_collections import config_flags

from resnet_jax import command, environment, run_folder, terminal
from resnet_jax import config as run_config
from resnet_jax.config import RunConfig
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    from resnet_jax.analysis.skips import Passed
    from resnet_jax.train.setup import Experiment

LOG = logging.getLogger(__name__)


def of_config(
    config: RunConfig,
    *,
    image: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> "list[Passed]":
    """Checks the net of a config.

    Args:
        config: of a run.
        image: (height, width, channels) of its images; None takes the published ones.
        num_classes: the same.
        should_stop: as in `skips.check`.

    Returns:
        The checks that were passed, in order.

    Raises:
        WiringError: if a block is not as the config says, in one line that names it.
        InputError: if the net cannot be built.
    """
    # Imported here because it starts JAX, before which mistakes in flags are to be told.
    from resnet_jax.analysis import expected, skips

    published, classes = expected.image(config.data)
    return skips.check(
        config.model,
        image=image or published,
        num_classes=num_classes or classes,
        should_stop=should_stop,
    )


def before_training(experiment: "Experiment", should_stop: Callable[[], bool]) -> None:
    """Checks the net of a run that is about to train, and says so; nothing if `train.check` is off.

    Raises:
        WiringError: as in `of_config`.
        InputError: if the images are too small for the net.
    """
    if not experiment.config.train.check:
        return
    if not experiment.config.model.has_blocks:
        _of_other_kind(experiment)
        return
    passed = of_config(
        experiment.config,
        image=experiment.seen_shape,
        num_classes=len(experiment.class_names),
        should_stop=should_stop,
    )
    figures = dict(passed)
    LOG.info(
        "skips are as configured: additions %s; checked in %s s",
        *(figures.get(name, "not counted") for name in ("additions", "seconds")),
    )


def _of_other_kind(experiment: "Experiment") -> None:
    from resnet_jax.analysis import skips

    net = experiment.config.model.net
    if experiment.config.model.residual:
        LOG.info("skips are not checked: those of %s are of another kind", net)
        return
    skips.require_large_enough(experiment.seen_shape)
    LOG.info("skips are not checked: a VGG net has none")


def main(argv: list[str]) -> None:
    """Checks the net that the flags name, and prints what was found right."""
    del argv
    terminal.set_up_logging()
    config = _config()
    environment.prepare(config)
    table = rich.table.Table()
    table.add_column("check")
    table.add_column("found as configured")
    for passed in of_config(config):
        table.add_row(*passed)
    rich.console.Console().print(table)


def _config() -> RunConfig:
    if _CONFIG.value is not None:
        return run_config.validate(command.read_config(_CONFIG))
    if _WORKDIR.value is None:
        raise InputError("--config is missing, for example --config=configs/cifar_resnet56.py")
    return run_config.load_json(pathlib.Path(_WORKDIR.value) / run_folder.CONFIG)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "A run's config file.")
    _WORKDIR = flags.DEFINE_string("workdir", None, "A run's folder, whose config is taken.")
    command.run(main)
