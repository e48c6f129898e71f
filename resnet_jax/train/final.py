"""The final report on a trained net: measured on val and test, judged, and written."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import scipy.special

from resnet_jax import run_folder
from resnet_jax.config import EvaluationConfig
from resnet_jax.files import replacing
from resnet_jax.metrics import classification, findings, thresholds
from resnet_jax.train.setup import Experiment

Predictions = dict[str, dict[str, np.ndarray]]


def final_report(
    experiment: Experiment,
    predictions: Predictions,
    workdir: pathlib.Path | None,
    step: int,
    train_error: float,
) -> dict[str, Any]:
    """Judges a net by its predictions of val and test.

    Args:
        experiment: that the net belongs to.
        predictions: of the splits that are not empty, see `Evaluator.all_predictions`.
        workdir: the run's folder, where `evaluation.json`, `predictions.npz` and `mistakes.npz` are
            written; None writes nothing.
        step: that the net is at.
        train_error: percent, over the last log window; NaN if not known.

    Returns:
        What `evaluation.json` holds: step, train_error, settings, a report for each split (see
        `classification.report`; `unreadable` is the number of damaged images that it leaves out, if
        there are any), operating_points (see `thresholds`; none without val) and
        findings.
    """
    report = _judged(experiment, predictions) | {"step": step, "train_error": train_error}
    report["findings"] = findings.judge(report["splits"], train_error, experiment.config.evaluation)
    if workdir:
        save_predictions(workdir / run_folder.PREDICTIONS, predictions)
        with replacing(workdir / run_folder.MISTAKES) as file:
            np.savez_compressed(file, **_mistakes(experiment, predictions["test"]))  # type: ignore[arg-type]
        run_folder.write_json(workdir / run_folder.EVALUATION, report)
    return report


def save_predictions(path: pathlib.Path, predictions: Predictions) -> None:
    """Writes the predictions of each split as arrays `<split>_logits`, `_labels` and `_ids`."""
    arrays = {
        f"{name}_{key}": found[key]
        for name, found in predictions.items()
        for key in ("logits", "labels", "ids")
    }
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _judged(experiment: Experiment, predictions: Predictions) -> dict[str, Any]:
    settings, names = experiment.config.evaluation, experiment.class_names
    reports = {
        split: classification.report(
            found["logits"], found["labels"], names, settings, positive=experiment.positive
        )
        for split, found in predictions.items()
    }
    for split, report in reports.items():
        damaged = experiment.feed.unreadable.get(split)
        if damaged:
            report["unreadable"] = len(damaged)
    if experiment.leaked is not None:
        reports["test"]["deduplicated"] = _deduplicated(experiment, predictions["test"])
    points = []
    if "val" in predictions:
        val, test = (
            (scipy.special.softmax(p["logits"].astype(np.float64), -1), p["labels"])
            for p in (predictions["val"], predictions["test"])
        )
        points = thresholds.operating_points(
            val, test, names, settings, positive=experiment.positive
        )
    return {
        "settings": dataclasses.asdict(settings),
        "splits": reports,
        "operating_points": points,
    }


def _deduplicated(experiment: Experiment, test: dict[str, np.ndarray]) -> dict[str, Any]:
    kept = ~np.isin(test["ids"], sorted(experiment.leaked or ()))
    report = classification.report(
        test["logits"],
        test["labels"],
        experiment.class_names,
        EvaluationConfig(bootstrap_samples=0),
        mask=kept,
    )
    wanted = ("examples", "error", "error_interval")
    return {"removed": int((~kept).sum())} | {name: report[name] for name in wanted}


def _mistakes(experiment: Experiment, test: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The test images with the highest loss among the wrong ones, worst first."""
    likelihoods = scipy.special.log_softmax(test["logits"].astype(np.float64), -1)
    rows = np.arange(len(test["labels"]))
    predicted = test["logits"].argmax(-1)
    loss = -likelihoods[rows, test["labels"]]
    wrong = np.flatnonzero(predicted != test["labels"])
    worst = wrong[np.argsort(-loss[wrong], kind="stable")][: experiment.config.evaluation.mistakes]
    images, _ = experiment.feed.images("test", test["places"][worst])
    return {
        "images": images,
        "labels": test["labels"][worst],
        "predicted": predicted[worst],
        "probability_predicted": np.exp(likelihoods[worst, predicted[worst]]),
        "probability_true": np.exp(likelihoods[worst, test["labels"][worst]]),
        "ids": test["ids"][worst],
    }
