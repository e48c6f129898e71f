"""Evaluation of a net that was trained before."""

import math
import pathlib
from typing import Any

from resnet_jax import run_folder
from resnet_jax.config import RunConfig, load_json
from resnet_jax.files import replacing
from resnet_jax.train import checkpoint
from resnet_jax.train.damage import DamageList
from resnet_jax.train.earlier import logged_error, require_same, require_same_data, restored
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.final import final_report, save_predictions
from resnet_jax.train.setup import Experiment


def evaluate(
    workdir: pathlib.Path, *, which: str = "last", config: RunConfig | None = None
) -> dict[str, Any]:
    """Measures a trained run again on val and test; rewrites its evaluation and preprocessing.

    Args:
        workdir: a run's folder.
        which: 'last' checkpoint, or 'best' on val. 'all' is as 'last', and the predictions of
            every kept one are written to `predictions-STEP.npz`.
        config: the run's own but for operational fields, e.g. costs; as it was trained if None.

    Returns:
        As `final.final_report`.

    Raises:
        InputError: if the folder is no run's, has no checkpoint, or is of another config or of
            other data.
    """
    if config is None:
        config = load_json(workdir / run_folder.CONFIG)
    require_same(config, workdir)
    checkpoints, step = checkpoint.of_run(workdir, which)
    experiment = Experiment.prepare(config)
    require_same_data(experiment.dataset, workdir)
    experiment.preprocessing.save(workdir / run_folder.PREPROCESSING)
    evaluator = Evaluator(experiment)
    damage = DamageList(experiment.feed, workdir, experiment.devices.hosts)
    if which == "all":
        left_out = {step, *checkpoints.damaged()}
        for older in [kept for kept in checkpoints.steps if kept not in left_out]:
            state, _ = restored(experiment, checkpoints, older)
            path = workdir / run_folder.predictions_of(older)
            save_predictions(path, evaluator.all_predictions(state))
    state, step = restored(experiment, checkpoints, step)
    predictions = evaluator.all_predictions(state)
    damage.keep()
    train_error = logged_error(workdir, step, "train")
    report = final_report(experiment, predictions, workdir, step, train_error)
    if which == "all":  # the last step's under its own name too
        with replacing(workdir / run_folder.predictions_of(step)) as file:
            file.write((workdir / run_folder.PREDICTIONS).read_bytes())
    return report


def evaluate_weights(config: RunConfig) -> dict[str, Any]:
    """Measures the weights file named in the config on val and test; writes nothing."""
    experiment = Experiment.prepare(config)
    state = experiment.placed(experiment.state)
    predictions = Evaluator(experiment).all_predictions(state)
    return final_report(experiment, predictions, None, 0, math.nan)
