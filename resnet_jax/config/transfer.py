"""What can be frozen in a net, and what goes with it."""

from resnet_jax.config.effects import require_default
from resnet_jax.config.families import part_names
from resnet_jax.config.schema import RunConfig
from resnet_jax.errors import InputError


def check(run: RunConfig) -> None:
    """Compares the fields on frozen parts with one another, and with the rest.

    Raises:
        InputError: if there is no such part, or something does not go with it.
    """
    transfer = run.transfer
    names = part_names(run.model)
    if transfer.trained_from not in ("", *names):
        raise InputError(
            f"config.transfer.trained_from={transfer.trained_from!r} is no part of this net; use "
            f"one of {', '.join(map(repr, names))}, or '' to train all of it"
        )
    if transfer.new_head and not run.model.weights:
        raise InputError(
            "config.transfer.new_head=True has no effect without config.model.weights, for every "
            "head is then drawn anew; name the weights, or leave it at False"
        )
    if transfer.trained_from:
        reason = f"config.transfer.trained_from={transfer.trained_from!r}"
        require_default(run.model, "model", "auxiliary_weight", reason)
        if run.train.reestimation_batches:
            raise InputError(
                f"config.train.reestimation_batches={run.train.reestimation_batches} would change "
                f"the statistics of frozen parts ({reason}); use 0"
            )
        if run.model.is_annealed:
            raise InputError(
                "config.model.shortcut_transform='annealed_scaling' changes frozen parts "
                f"({reason}); use 'constant_scaling'"
            )
    _check_unfreezing(run)
    _check_cached(run)


def _check_unfreezing(run: RunConfig) -> None:
    transfer = run.transfer
    if not transfer.unfreeze_interval:
        return
    field = f"config.transfer.unfreeze_interval={transfer.unfreeze_interval}"
    if transfer.trained_from == "head":
        raise InputError(
            f"{field} has no effect with config.transfer.trained_from='head', which is trained "
            "from the first step on; name an earlier part, '' for all, or use 0"
        )
    if run.model.batch_norm not in ("frozen", "none"):
        raise InputError(
            f"{field} needs statistics that stay as they are, and with config.model.batch_norm="
            f"{run.model.batch_norm!r} those of frozen parts would move; use 'frozen'"
        )


def _check_cached(run: RunConfig) -> None:
    transfer, data = run.transfer, run.data
    if not transfer.cached_features:
        require_default(
            *(transfer, "transfer", "features_dir", "config.transfer.cached_features=False")
        )
        return
    if transfer.trained_from != "head":
        raise InputError(
            "config.transfer.cached_features=True works for a head on frozen parts; use it with "
            f"config.transfer.trained_from='head', not {transfer.trained_from!r}"
        )
    if run.evaluation.crops != "center":
        raise InputError(
            f"config.evaluation.crops={run.evaluation.crops!r} needs images, and the head is "
            "evaluated on their features (config.transfer.cached_features=True); use 'center'"
        )
    if data.is_streamed:
        if data.augmentation != "none":
            raise InputError(
                "config.transfer.cached_features=True sees each image once, unaugmented; use "
                f"config.data.augmentation='none', not {data.augmentation!r}"
            )
        return
    for name, off in (("crop_padding", 0), ("flip", False)):
        if getattr(data, name) != off:
            raise InputError(
                "config.transfer.cached_features=True sees each image once, unaugmented; use "
                f"config.data.{name}={off}, not {getattr(data, name)}"
            )
