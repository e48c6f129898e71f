"""Which finished runs of a sweep are kept, and what of a table they have to be."""

import pathlib
import shutil
import tempfile
from collections.abc import Mapping

from configs import cifar_resnet20
from experiments import kept, reproduce
from experiments.plan import plan
from resnet_jax import run_folder
from resnet_jax.config import RunConfig, differences, load_json
from resnet_jax.errors import InputError
from resnet_jax.report import sweep
from resnet_jax.report.sweep import Sweep

# A folder that holds no run: what is planned there is compared with nothing.
NOWHERE = pathlib.Path("/nonexistent")


def keep(folder: pathlib.Path, results: pathlib.Path) -> list[str]:
    """Keeps a sweep's finished runs beside those that are kept of it; returns their names.

    Raises:
        InputError: if it is no sweep of a table, has no finished run, or one that is not the
            table's, is of no commit, has the name of another that is kept, or does not fit to the
            others; then nothing is kept.
    """
    name = folder.resolve().name
    finished = [path for path in sorted(folder.glob("[!.]*/")) if _is_finished(path)]
    configs = {path.name: load_json(path / run_folder.CONFIG) for path in finished}
    depths = sorted({config.model.depth for config in configs.values()})
    seeds = sorted({config.train.seed for config in configs.values()})
    rows = reproduce.rows_below(name, depths, seeds)
    if not folder.is_dir() or rows is None:
        raise InputError(
            f"{folder} is not a sweep's folder of experiments.reproduce; give one that is below "
            "its --workdir, as runs/reproduce/he2015"
        )
    if not finished:
        raise InputError(
            f"{folder} has no finished run; see what `status.json` says in its folders"
        )
    planned = {run.name: run.config for run in plan(cifar_resnet20.get_config(), rows, NOWHERE)}
    with tempfile.TemporaryDirectory() as place:
        draft = pathlib.Path(place) / name
        if (results / name).is_dir():
            shutil.copytree(results / name, draft)
        for path in finished:
            _require_planned(path, configs[path.name], planned)
            _require_origin(path, draft / path.name)
            kept.keep(path, draft / path.name)
        require_usable(draft, folder)
        for path in finished:
            shutil.rmtree(results / name / path.name, ignore_errors=True)
        shutil.copytree(draft, results / name, dirs_exist_ok=True)
    return [path.name for path in finished]


def _is_finished(path: pathlib.Path) -> bool:
    status = run_folder.read_json(path / run_folder.STATUS) or {}
    return status.get("state") in run_folder.FINISHED


def _require_planned(
    run: pathlib.Path, config: RunConfig, planned: Mapping[str, RunConfig]
) -> None:
    """Refuses a run that its table does not have, or not so."""
    if run.name not in planned:
        raise InputError(
            f"{run} is no run of experiments.reproduce, which has {', '.join(planned)} there; "
            "move it elsewhere"
        )
    departures = differences(planned[run.name], config)
    if departures:
        raise InputError(
            f"{run} is not as experiments.reproduce makes it ({'; '.join(departures)}); train it "
            "without such flags"
        )


def _require_origin(run: pathlib.Path, record: pathlib.Path) -> None:
    """Refuses a run that nobody could make again, or that another's record would be lost for."""
    for attempt in run_folder.attempts(run) or [{}]:
        commit = attempt.get("commit")
        if not commit or commit.endswith("+changes"):
            raise InputError(
                f"{run} is of commit {sweep.short(commit)}, from which nobody can make it again; "
                "train it in a clone of a commit, where nothing is changed"
            )
    begun, kept_begun = (
        [attempt.get("started") for attempt in run_folder.attempts(at)][:1] for at in (run, record)
    )
    if record.is_dir() and begun != kept_begun:
        raise InputError(
            f"{run} was begun {begun[0]}, and what is kept under its name {kept_begun[0]}; remove "
            f"that record first ({record.parent.name}/{record.name}) if it is to go"
        )


def require_usable(folder: pathlib.Path, named: pathlib.Path) -> Sweep:
    """The runs in a folder, all of them.

    Args:
        folder: where they lie.
        named: what it is called in the error.

    Raises:
        InputError: if one would be left out.
    """
    runs = sweep.load(folder)
    for item in runs.excluded:
        advice = "train all runs of a table from one commit, in a clone or worktree of it"
        advice = f"; {advice}" if "commit" in item.reason else ""
        raise InputError(
            f"{named / item.name} cannot stand beside the others: {item.reason}{advice}"
        )
    return runs
