"""A search over a config's fields: what was tried, what is best, and by how much.

Read from `search.json`, which `experiments.search` writes beside the trials' run folders. Errors
are on val alone; test has no part in a search.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import records, tables
from resnet_jax.report.findings import Findings
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import NOTHING, Table, number

QUESTION = "Which values have the lowest error on val?"
BEST = 10
PRUNED = "pruned"
STATES = (*run_folder.FINISHED, PRUNED)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: in the order in which trials were begun.
        folder: of its run.
        state: completed, diverged, pruned, running, waiting or failed.
        error: on val in percent, of a pruned one when it was ended; None without any.
        parameters: values by dotted field.
        seconds: of training, or None.
        step: that was last measured on val, or None.
        reason: why it was pruned or has failed.
    """

    number: int
    folder: str
    state: str
    error: float | None
    parameters: Mapping[str, Any]
    seconds: float | None
    step: int | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Search:
    """All of a search.

    Attributes:
        net: that was trained.
        wanted: trials in all.
        trials: those begun so far, by number.
        best: of the completed ones, that with the lowest error; None without any.
        space: (kind, values) by dotted field.
        sampler: in words.
        pruner: in words.
        evaluations: over how many of the last ones the error is averaged.
        importances: by field, or nothing.
        method: how they came about, or why there are none.
    """

    net: str
    wanted: int
    trials: tuple[Trial, ...]
    best: Trial | None
    space: Mapping[str, tuple[str, tuple[Any, ...]]]
    sampler: str
    pruner: str
    evaluations: int
    importances: Mapping[str, float]
    method: str

    def of(self, *states: str) -> list[Trial]:
        """The trials in some states that have an error."""
        return [one for one in self.trials if one.state in states and one.error is not None]

    @property
    def default(self) -> Trial | None:
        """The trial with the base's own values."""
        return next((trial for trial in self.trials if trial.number == 0), None)


def read(folder: pathlib.Path) -> Search | None:
    """The search of a folder; None if there was none.

    Raises:
        InputError: if its record is damaged.
    """
    path = folder / run_folder.SEARCH
    content = run_folder.read_json(path)
    if content is None:
        return None
    try:
        return _search(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error!r}; start the search again") from error


def _search(content: Mapping[str, Any]) -> Search:
    trials = tuple(
        Trial(
            number=int(one["number"]),
            folder=pathlib.PurePath(one["folder"]).name,
            state=str(one["state"]),
            error=None if one["error"] is None else float(one["error"]),
            parameters=dict(one["parameters"]),
            seconds=one["seconds"],
            step=max(map(int, one["errors"]), default=None),
            reason=str(one["reason"]),
        )
        for one in content["trials"]
    )
    space = {}
    for field, one in content["space"].items():
        ((kind, values),) = one.items()
        space[str(field)] = (str(kind), tuple(values))
    importances = content["importances"]
    return Search(
        net=str(content["net"]),
        wanted=int(content["trials_wanted"]),
        trials=trials,
        best=next((one for one in trials if one.number == content["best"]), None),
        space=space,
        sampler=_engine(content["sampler"]),
        pruner=_engine(content["pruner"]),
        evaluations=int(content["evaluations"]),
        importances={k: float(v) for k, v in importances.get("values", {}).items()},
        method=str(importances.get("method") or importances.get("reason", "")),
    )


def _engine(named: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k}={v}" for k, v in named.items() if k != "name")
    return f"{named['name']} ({options})" if options else str(named["name"])


def findings(sweep: Sweep) -> Findings | None:
    """What a report says of a search; None if this is none."""
    found = read(sweep.root)
    if found is None:
        return None
    made = (table(sweep, found), table_of_others(sweep, found))
    return Findings(
        QUESTION,
        tuple(sentences(found)),
        tuple(one for one in made if one),
        folders=tuple(one.folder for one in ranked(found)),
        is_search=True,
    )


def ranked(search: Search) -> list[Trial]:
    """The completed trials with the lowest errors, the best first."""
    done = search.of(run_folder.COMPLETED)
    return sorted(done, key=lambda one: (one.error or 0.0, one.number))[:BEST]


def name_of(field: str) -> str:
    """A field as people call it."""
    return field.rpartition(".")[2].replace("_", " ")


def short(value: Any) -> str:
    """A value with as many digits as tell it apart."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return records.printable(str(value))


def words(parameters: Mapping[str, Any]) -> str:
    """Values with their names."""
    return ", ".join(f"{name_of(field)} {short(value)}" for field, value in parameters.items())


def sentences(search: Search) -> list[str]:
    """The answer, how it came about, and how far it can be trusted."""
    counts = {state: sum(one.state == state for one in search.trials) for state in STATES}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    left = search.wanted - sum(counts.values())
    told += f", {left} to come" if left else ""
    best, default = search.best, search.default
    if best is None or best.error is None:
        return [f"No trial of {search.net} was trained to the end: {told or 'none begun'}."]
    answer = f"{search.net} has the lowest val error, {best.error:.2f} %, with "
    answer += f"{words(best.parameters)} ({best.folder})"
    if default is None or default.error is None:
        answer += "."
    elif default is best:
        answer += ", which are the base's own values: no other trial is better."
    elif default.state == run_folder.DIVERGED:
        answer += f"; with the base's own values, {words(default.parameters)}, it diverges."
    elif default.state != run_folder.COMPLETED:
        answer += f"; the trial with the base's own values is {default.state}."
    else:
        gap = default.error - best.error
        answer += (
            f"; the base's own values, {words(default.parameters)}, have {default.error:.2f} %, "
            f"{gap:.2f} points more."
        )
    mean = f"mean of the last {search.evaluations} evaluations" if search.evaluations > 1 else ""
    how = [f"{search.wanted} trials ({told})", f"sampler {search.sampler}"]
    how += [f"pruner {search.pruner}", f"error on val at the last step{', ' * bool(mean)}{mean}"]
    if not search.importances and search.method:
        how.append(f"no importances of parameters: {search.method}")
    return [
        answer,
        f"{'; '.join(how)}. One seed a trial: the lowest of many errors is lower than the same "
        "values have with other seeds, so train the best again with new ones before comparing it.",
    ]


def table(sweep: Sweep, search: Search) -> Table:
    """The best trials.

    Args:
        sweep: for where its numbers come from.
        search: of its folder.
    """
    columns = ("trial", "val error %", *map(name_of, search.space), "minutes")
    rows = [
        (
            f"{one.folder}{' (base)' if one.number == 0 else ''}",
            number(one.error or 0.0),
            *(short(one.parameters.get(field, NOTHING)) for field in search.space),
            NOTHING if one.seconds is None else number(one.seconds / 60, 1),
        )
        for one in ranked(search)
    ]
    return Table(
        *("trials", f"The best {len(rows)} trials" if rows else "Trials", columns, tuple(rows)),
        numeric=frozenset(range(1, len(columns))),
        facts=tables.facts(sweep),
        notes=(
            "Completed trials by their error on val; pruned ones are not compared, for their "
            "errors are of earlier steps.",
        ),
    )


def table_of_others(sweep: Sweep, search: Search) -> Table | None:
    """The trials that were not trained to the end, with the reason; None if there are none."""
    others: Sequence[Trial] = [
        one for one in search.trials if one.state not in (run_folder.COMPLETED,)
    ]
    if not others:
        return None
    columns = ("trial", "state", "last val error %", "at step", *map(name_of, search.space), "why")
    rows = [
        (
            *(one.folder, one.state),
            NOTHING if one.error is None or one.state != PRUNED else number(one.error),
            NOTHING if one.step is None else str(one.step),
            *(short(one.parameters.get(field, NOTHING)) for field in search.space),
            one.reason or NOTHING,
        )
        for one in others
    ]
    return Table(
        *("other_trials", "Trials that were not trained to the end", columns, tuple(rows)),
        numeric=frozenset(range(2, len(columns) - 1)),
        facts=tables.facts(sweep),
        notes=("A diverged trial counts as 100 %, so that the sampler keeps away.",),
    )
