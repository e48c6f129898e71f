"""The config of a run of seconds on the digits that ship with scikit-learn."""

from resnet_jax.config import validate


def digits_run(**changes):
    """A run's config; each keyword names a part of it and gives the fields that are different."""
    fields = {
        "model": {"depth": 8},
        "data": {"name": "digits", "crop_padding": 0, "flip": False},
        "train": {"steps": 20, "batch_size": 32, "eval_interval": 20},
        "optimizer": {"learning_rate": 0.05, "milestones": (), "warmup": "none"},
        "log": {"tensorboard": False, "interval": 10, "progress": False},
        "parallel": {"devices": 1},
    }
    return validate(fields | {part: fields[part] | change for part, change in changes.items()})
