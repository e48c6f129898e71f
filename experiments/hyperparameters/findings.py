"""What a study has found: its trials as plain data, and which parameters matter."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from experiments.hyperparameters import engines
from experiments.hyperparameters.space import Range
from resnet_jax import run_folder

# Of fewer completed trials an importance would be made of chance.
ENOUGH_TRIALS = 10
# What is kept with a trial for whoever reads it later.
SECONDS, REASON, OUTCOME = "seconds", "reason", "outcome"


def version() -> str:
    """Optuna's."""
    return str(optuna.__version__)


def record(trial: optuna.trial.FrozenTrial, space: Mapping[str, Range]) -> dict[str, Any]:
    """A trial as it stands in `search.json`.

    Args:
        trial: as Optuna keeps it.
        space: that is searched.

    Returns:
        `number`; `state`: completed, diverged, pruned, running, waiting or failed; `error` on val
        in percent, None of unfinished trials and of a pruned one the last that was measured;
        `parameters` by field; `seconds` of training, as far as they are known; `reason`, why it was
        pruned or has failed; `errors` on val by step.
    """
    attributes = trial.user_attrs
    state = trial.state.name.lower()
    if trial.state == TrialState.COMPLETE:
        state = attributes.get(OUTCOME, "completed")
    elif trial.state == TrialState.WAITING and attributes.get(REASON):
        state = "failed"
    parameters = {}
    for field, value in trial.params.items():
        choices = space[field].values if space[field].kind == "categorical" else ()
        parameters[field] = next((c for c in choices if engines.stored(c) == value), value)
    return {
        "number": trial.number,
        "state": state,
        "error": trial.value if trial.state.is_finished() else None,
        "parameters": parameters,
        "seconds": attributes.get(SECONDS),
        "reason": attributes.get(REASON, ""),
        "errors": {str(step): error for step, error in sorted(trial.intermediate_values.items())},
    }


def best(trials: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of the completed trial with the lowest error on val, of several the first.

    Args:
        trials: as `record` makes them. Pruned ones do not count: their errors are of earlier steps.
    """
    done = [trial for trial in trials if trial["state"] == run_folder.COMPLETED]
    return (
        min(done, key=lambda trial: (trial["error"], trial["number"]))["number"] if done else None
    )


def importances(study: optuna.Study) -> dict[str, Any]:
    """How much each parameter has to do with being among the best, by Optuna's evaluator.

    Args:
        study: with any number of trials.

    Returns:
        `method` and `values` by field, which sum to 1; or the `reason` why there are none.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < ENOUGH_TRIALS:
        return {"reason": f"{len(done)} completed trials, {ENOUGH_TRIALS} are needed"}
    if len({trial.value for trial in done}) == 1:
        return {"reason": "all completed trials have the same error"}
    # The evaluator's authors ask for five trials among the best.
    share = min(max(0.1, 5 / len(done)), 0.5)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    values = optuna.importance.get_param_importances(study, evaluator=evaluator)
    best = f"the best {100 * share:.0f} % of {len(done)} completed trials"
    return {
        "method": f"PED-ANOVA (Watanabe et al. 2023), of being among {best}",
        "values": {name: float(value) for name, value in values.items()},
    }
