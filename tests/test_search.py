"""Searches over a config's fields: what is drawn, kept, resumed, pruned and refused."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from configs import search_digits, search_plain56
from experiments import slots
from experiments.hyperparameters import (
    database,
    engines,
    findings,
    objective,
    space,
    study,
    worker,
)
from resnet_jax import command, run_folder
from resnet_jax.config import default_config
from resnet_jax.errors import InputError
from tests.test_layering import imports, reads_test

pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

ROOT = pathlib.Path(__file__).resolve().parents[1]
PLACES = [slots.Slot("somewhere", (), {}), slots.Slot("elsewhere", (), {})]
RATE, DEPTH = "optimizer.learning_rate", "model.depth"


def base(**train):
    config = default_config()
    config.model.depth = 8
    config.data.name = "digits"
    config.data.crop_padding = 0
    config.data.flip = False
    config.optimizer.learning_rate = 0.05
    config.optimizer.milestones = ()
    config.train.batch_size = 32
    config.train.steps = 40
    config.train.eval_interval = 10
    config.parallel.devices = 1
    config.log.tensorboard = False
    config.train.update(train)
    return config


def plan(**more):
    given = {
        "base": "configs/digits.py",
        "space": {RATE: {"log_uniform": (0.001, 1.0)}},
        "sampler": {"name": "Random"},
        "trials": 6,
    }
    return space.parse({**given, **more}, "given")


def opened(folder, search=None, config=None, *, dead_after=60.0):
    search, config = search or plan(), config or base()
    folder.mkdir(exist_ok=True)
    return study.Study(
        *(database.default_url(folder), "tried", search),
        *(space.resolve(config, search.changes), space.check(search, config)),
        wanted=search.trials,
        dead_after=dead_after,
    )


def work(folder, search=None, config=None, *, places=PLACES, retries=1, before=None):
    search, config = search or plan(), config or base()
    made = worker.Search(
        *(opened(folder, search, config), config, search, folder, slots.Local(places)),
        retries=retries,
        title="tried",
    )
    if before:
        before(made)
    return made.work()


def record(folder):
    return json.loads((folder / "search.json").read_text())


def by_state(folder):
    states = {}
    for trial in record(folder)["trials"]:
        states.setdefault(trial["state"], []).append(trial["number"])
    return states


# What a run of these tests does in place of training: val's error follows from its learning rate.
PRETEND = """
import json, math, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / 'config.json').read_text())
steps, rate = config['train']['steps'], config['optimizer']['learning_rate']
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def tell(state, step, **more):
    status = {'state': state, 'step': step, 'steps': steps, **more}
    (folder / 'draft').write_text(json.dumps(status))
    (folder / 'draft').replace(folder / 'status.json')
path = folder / 'metrics.jsonl'
begun = len(path.read_text().splitlines()) // 2 if path.exists() else 0
with (folder / 'starts').open('a') as file:
    file.write(f'{10 * begun}\\n')
{CODE}
for step in range(10 * begun + 10, steps + 1, 10):
    (folder / '.heartbeat').touch()
    time.sleep({PAUSE})
    if asked:
        tell('stopped', step - 10, reason='stopped on request, with a checkpoint')
        sys.exit(75)
    error = min(90.0, 5 + 20 * abs(math.log10(rate) + 1) + 80 / step)
    with path.open('a') as file:
        for split, value in (('val', error), ('test', 90 - error)):
            file.write(json.dumps({'step': step, 'split': split, 'error': value}) + '\\n')
    tell('running', step)
tell('completed', steps)
"""


@pytest.fixture
def pretended(monkeypatch):
    """Replaces training; returns how long ten steps take, and what a folder's run does first."""
    how = {"PAUSE": 0.0, "CODE": lambda folder: ""}

    def start(folder, slot, config):
        script = PRETEND.replace("{PAUSE}", str(how["PAUSE"])).replace(
            "{CODE}", how["CODE"](folder)
        )
        with (folder / slots.LOG).open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=log)

    monkeypatch.setattr(slots, "start", start)
    return how


def expected(rate, step):
    """Val's error that a pretended run has: a closed form, lowest at a rate of 0.1."""
    return min(90.0, 5 + 20 * abs(math.log10(rate) + 1) + 80 / step)


def test_every_trial_is_a_run_folder_and_the_first_has_the_bases_own_values(tmp_path, pretended):
    assert work(tmp_path / "s") == 0
    content = record(tmp_path / "s")
    assert [trial["number"] for trial in content["trials"]] == list(range(6))
    assert content["trials"][0]["parameters"] == {RATE: 0.05}
    for trial in content["trials"]:
        config = json.loads((tmp_path / "s" / trial["folder"] / "config.json").read_text())
        rate = trial["parameters"][RATE]
        assert config["optimizer"]["learning_rate"] == rate and 0.001 <= rate <= 1
        assert trial["error"] == pytest.approx(expected(rate, 40))
        assert trial["errors"] == {
            str(step): pytest.approx(expected(rate, step)) for step in (10, 20, 30, 40)
        }
    lowest = min(content["trials"], key=lambda trial: trial["error"])
    assert content["best"] == lowest["number"]


def test_the_error_is_val_s_of_the_metrics_and_test_has_no_part_in_it(tmp_path):
    lines = [
        {"step": 10, "split": "val", "error": 30.0},
        {"step": 20, "split": "val", "error": 20.0},
        {"step": 20, "split": "test", "error": 1.0},
        {"step": 30, "split": "val", "error": 10.0},
        {"step": 30, "split": "train", "error": 2.0},
        {"step": 30, "split": "test", "error": 99.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = {"error": 99.0}
    (tmp_path / "evaluation.json").write_text(json.dumps({"splits": {"test": split}}))
    assert objective.val_errors(tmp_path) == {10: 30.0, 20: 20.0, 30: 10.0}
    assert objective.final(tmp_path, steps=30, evaluations=1) == 10.0
    assert objective.final(tmp_path, steps=30, evaluations=2) == 15.0
    assert objective.final(tmp_path, steps=30, evaluations=9) == 20.0
    with pytest.raises(InputError, match="no error on val after its last step, 40"):
        objective.final(tmp_path, steps=40, evaluations=1)


SEARCH_FILES = [*sorted((ROOT / "experiments" / "hyperparameters").glob("*.py"))] + [
    ROOT / "experiments" / f"{name}.py" for name in ("search", "tuned_degradation")
]


@pytest.mark.parametrize("path", SEARCH_FILES, ids=lambda path: path.name)
def test_no_module_of_a_search_can_read_the_test_split(path):
    source = path.read_text()
    assert not reads_test(source)
    assert run_folder.EVALUATION not in source and "EVALUATION" not in source
    assert "PREDICTIONS" not in source
    for name in imports(path):
        assert not name.startswith(("resnet_jax.report", "resnet_jax.data", "resnet_jax.train"))


def test_optuna_is_imported_in_one_package_alone():
    files = [*(ROOT / "experiments").rglob("*.py"), *(ROOT / "resnet_jax").rglob("*.py")]
    owners = {
        path.relative_to(ROOT).parent.as_posix()
        for path in files
        if any(name.split(".")[0] in ("optuna", "sqlalchemy") for name in imports(path))
    }
    assert owners == {"experiments/hyperparameters"}


def test_no_module_of_a_search_is_too_long():
    for path in SEARCH_FILES:
        assert len(path.read_text().splitlines()) <= 330, path


def test_a_sampler_finds_the_best_of_a_few_values_and_a_diverged_run_counts_as_100(
    tmp_path, pretended
):
    def diverges(folder):
        return (
            "if rate > 1: tell('diverged', 3); "
            "(folder / 'metrics.jsonl').write_text(''); sys.exit(3)"
        )

    pretended["CODE"] = diverges
    search = plan(
        space={RATE: {"categorical": (1e-6, 0.05, 0.1, 50.0)}}, sampler={"name": "Grid"}, trials=5
    )
    assert work(tmp_path / "s", search) == 0
    trials = record(tmp_path / "s")["trials"]
    # The base's own value, and each point of the grid once.
    assert [trial["parameters"][RATE] for trial in trials[:1]] == [0.05]
    assert sorted(trial["parameters"][RATE] for trial in trials[1:]) == [1e-6, 0.05, 0.1, 50.0]
    (diverged,) = [trial for trial in trials if trial["state"] == "diverged"]
    assert (diverged["parameters"][RATE], diverged["error"]) == (50.0, 100.0)
    best = trials[record(tmp_path / "s")["best"]]
    assert best["parameters"][RATE] == 0.1 and best["error"] == pytest.approx(5 + 80 / 40)


def test_a_trial_that_does_badly_is_stopped_early_with_a_reason_in_its_folder(tmp_path, pretended):
    pretended["PAUSE"] = 0.5
    search = plan(
        space={RATE: {"categorical": (1e-3, 0.1)}},
        sampler={"name": "Grid"},
        pruner={"name": "Threshold", "upper": 40.0, "n_warmup_steps": 15},
        trials=3,
    )
    config = base()
    config.optimizer.learning_rate = 0.1
    assert work(tmp_path / "s", search, config) == 0
    assert {state: len(them) for state, them in by_state(tmp_path / "s").items()} == {
        "completed": 2,
        "pruned": 1,
    }
    (pruned,) = [one for one in record(tmp_path / "s")["trials"] if one["state"] == "pruned"]
    assert pruned["parameters"] == {RATE: 1e-3} and list(pruned["errors"]) == ["10", "20"]
    # 5 + 20 * |log10(0.001) + 1| + 80 / 20
    assert pruned["reason"] == "pruned by Threshold at step 20, val error 49.00 %"
    status = json.loads((tmp_path / "s" / pruned["folder"] / "status.json").read_text())
    assert status["state"] == "stopped" and status["step"] < status["steps"]
    assert status["reason"] == pruned["reason"]
    ended = {"number": 9, "state": "pruned", "error": 0.5}
    done = {"number": 1, "state": "completed", "error": 7.0}
    assert findings.best([done, ended]) == 1 and findings.best([ended]) is None


def test_a_finished_search_starts_nothing_when_it_is_started_again_and_more_trials_go_on(
    tmp_path, pretended
):
    assert work(tmp_path / "s") == 0
    before = record(tmp_path / "s")["trials"]
    assert work(tmp_path / "s") == 0
    assert record(tmp_path / "s")["trials"] == before
    assert work(tmp_path / "s", plan(trials=8)) == 0
    after = record(tmp_path / "s")["trials"]
    assert after[:6] == before and len(after) == 8
    assert all((tmp_path / "s" / t["folder"] / "starts").read_text() == "0\n" for t in after)


def test_a_run_that_fails_twice_is_named_and_tried_again_by_the_next_start(tmp_path, pretended):
    pretended["CODE"] = lambda folder: (
        "raise ValueError('no luck')" if folder.name == "trial-002" else ""
    )
    assert work(tmp_path / "s") == 1
    assert by_state(tmp_path / "s") == {"completed": [0, 1, 3, 4, 5], "failed": [2]}
    failed = record(tmp_path / "s")["trials"][2]
    assert failed["reason"] == "ValueError: no luck" and failed["error"] is None
    pretended["CODE"] = lambda folder: ""
    assert work(tmp_path / "s") == 0
    assert by_state(tmp_path / "s") == {"completed": [0, 1, 2, 3, 4, 5]}
    assert record(tmp_path / "s")["trials"][2]["parameters"] == failed["parameters"]


def test_values_that_are_refused_together_end_the_search_and_leave_its_trials_to_wait(
    tmp_path, pretended
):
    pretended["PAUSE"] = 0.5
    choices = {
        "train.class_weights": {"categorical": ("none", "balanced")},
        "data.resampling": {"categorical": ("none", "over")},
    }
    search = plan(space=choices, sampler={"name": "Grid"}, trials=5)
    with pytest.raises(InputError, match="trial-00.: config.train.class_weights='balanced' has no"):
        work(tmp_path / "s", search)
    assert "running" not in by_state(tmp_path / "s")


def test_a_run_that_is_refused_ends_the_search_with_its_own_words(tmp_path, pretended):
    pretended["CODE"] = lambda folder: "print('error: no such data', file=sys.stderr); sys.exit(2)"
    with pytest.raises(InputError, match="trial-00. was refused: no such data"):
        work(tmp_path / "s")
    assert set(by_state(tmp_path / "s")) == {"waiting"}


def test_a_stopped_search_leaves_its_trials_to_be_gone_on_with(tmp_path, pretended):
    pretended["PAUSE"] = 0.8

    def stop_soon(made):
        show = made.board.show

        def shown():
            show()
            if any((one.folder / "metrics.jsonl").exists() for one in made.begun):
                if not made.requests:
                    made.stop(signal.SIGINT, None)

        made.board.show = shown

    assert work(tmp_path / "s", before=stop_soon) == command.INTERRUPTED
    assert set(by_state(tmp_path / "s")) == {"waiting"}
    pretended["PAUSE"] = 0.0
    assert work(tmp_path / "s") == 0
    assert by_state(tmp_path / "s") == {"completed": list(range(6))}
    starts = [(tmp_path / "s" / f"trial-00{n}" / "starts").read_text() for n in range(6)]
    assert any(len(text.splitlines()) == 2 for text in starts)
    assert not any(line == "0" for text in starts for line in text.splitlines()[1:])


# A worker as a process of its own, which trains as `pretended` does.
WORKER = """
import pathlib, subprocess, sys
from experiments import slots
from tests import test_search as t
def start(folder, slot, config):
    script = t.PRETEND.replace('{PAUSE}', '0.4').replace('{CODE}', '')
    with (folder / slots.LOG).open('ab') as log:
        return subprocess.Popen([sys.executable, '-c', script, str(folder)], stderr=log,
                                preexec_fn=slots._settle(()))
slots.start = start
sys.exit(t.work(pathlib.Path(sys.argv[1])))
"""


def started(folder):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_search_that_is_killed_with_trials_running_loses_none_and_doubles_none(tmp_path):
    folder = tmp_path / "s"
    killed = started(folder)
    until = time.monotonic() + 60
    while len(list(folder.glob("trial-*/metrics.jsonl"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert opened(folder).left() == 6
    again = started(folder)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    trials = record(folder)["trials"]
    assert [(one["number"], one["state"]) for one in trials] == [
        (number, "completed") for number in range(6)
    ]
    steps = [10, 20, 30, 40]
    for one in trials:
        assert list(map(int, one["errors"])) == steps
        # Each evaluation was made once: nothing was trained twice.
        assert list(objective.val_errors(folder / one["folder"])) == steps
        lines = run_folder.read_records(folder / one["folder"] / "metrics.jsonl")
        assert len(lines) == 2 * len(steps)
    resumed = [folder / one["folder"] / "starts" for one in trials]
    assert sum(len(path.read_text().splitlines()) == 2 for path in resumed) == 2


def test_two_workers_at_once_share_the_number_of_trials(tmp_path):
    folder = tmp_path / "s"
    workers = [started(folder) for _ in range(2)]
    for one in workers:
        _, errors = one.communicate(timeout=90)
        assert one.returncode == 0, errors
    assert by_state(folder) == {"completed": list(range(6))}
    assert len(list(folder.glob("trial-*"))) == 6
    starts = [path.read_text() for path in folder.glob("trial-*/starts")]
    assert starts == ["0\n"] * 6
    # Two workers draw different values, though their seed is one.
    rates = [one["parameters"][RATE] for one in record(folder)["trials"]]
    assert len(set(rates)) == 6


def test_a_draw_depends_on_seed_and_number_not_on_who_makes_it(tmp_path):
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b")
    values = [[made.claim().parameters[RATE] for _ in range(4)] for made in (one, other)]
    assert values[0] == values[1]
    third = opened(tmp_path / "b")
    assert third.claim().parameters[RATE] == one.claim().parameters[RATE]
    assert opened(tmp_path / "c", plan(seed=1)).claim().parameters == {RATE: 0.05}


def test_a_database_that_nobody_reads_or_writes_is_not_held_open(tmp_path):
    def held():
        return {pathlib.Path(file.path).name for file in psutil.Process().open_files()}

    with open(tmp_path / "here", "w"):
        assert "here" in held()  # so this is where it would be found
    search = opened(tmp_path / "s")
    assert search.claim().number == 0
    assert database.DATABASE not in held()


def test_the_database_gives_a_trial_to_one_of_two_workers_that_see_it_waiting(tmp_path):
    one, other = (opened(tmp_path / "s", plan(trials=1)) for _ in range(2))
    seen = other._trials()
    other._trials = lambda: seen  # as it was before the first has taken it
    assert one.claim().number == 0
    assert other._claim(0) is None


def test_a_trial_beyond_the_number_that_is_wanted_is_never_taken(tmp_path):
    many = opened(tmp_path / "s", plan(trials=4))
    assert [many.claim().number for _ in range(4)] == [0, 1, 2, 3]
    assert many.claim() is None
    for number in (1, 3):
        many.release(number)
    few = opened(tmp_path / "s", plan(trials=2))
    assert few.claim().number == 1
    assert few.claim() is None and few.left() == 2


def test_a_trial_that_another_worker_has_finished_does_not_count_twice(tmp_path, monkeypatch):
    slow = opened(tmp_path / "s", plan(trials=1))
    slow.claim()
    trial_id = slow._id(0)
    slow._storage.set_trial_state_values(trial_id, study.TrialState.WAITING)
    quick = opened(tmp_path / "s", plan(trials=1))
    assert quick.complete(quick.claim().number, 12.0, "completed")
    assert not slow.complete(0, 99.0, "completed")
    assert [one["error"] for one in quick.trials()] == [12.0]


def test_trials_of_a_worker_on_another_machine_are_taken_over_when_it_is_silent(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(study.socket, "gethostname", lambda: "elsewhere")
    gone = opened(tmp_path / "s", plan(trials=1))
    values = gone.claim().parameters
    monkeypatch.undo()
    here = opened(tmp_path / "s", plan(trials=1), dead_after=0.6)
    until = time.monotonic() + 10
    began = time.monotonic()
    claim = None
    while claim is None and time.monotonic() < until:
        here.beat()
        claim = here.claim()
    assert time.monotonic() - began > 0.6
    assert (claim.number, claim.parameters) == (0, values)


def test_a_worker_that_shows_signs_of_life_keeps_its_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(study.socket, "gethostname", lambda: "elsewhere")
    alive = opened(tmp_path / "s", plan(trials=1), dead_after=0.6)
    alive.claim()
    monkeypatch.undo()
    here = opened(tmp_path / "s", plan(trials=1), dead_after=0.6)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        alive.beat()
        here.beat()
        assert here.claim() is None
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {RATE: {"log_uniform": (0.01, 1.0)}}}, r"space.optimizer.learning_rate.log_un"),
        ({"sampler": {"name": "TPE"}}, "sampler.name: 'Random' -> 'TPE'"),
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"changes": {"optimizer.momentum": 0.5}}, "base optimizer.momentum: 0.9 -> 0.5"),
    ],
)
def test_a_changed_search_is_refused_with_the_difference(tmp_path, change, words):
    opened(tmp_path / "s")
    with pytest.raises(InputError, match=words) as refused:
        opened(tmp_path / "s", plan(**change))
    assert "\n" not in str(refused.value) and "another --workdir" in str(refused.value)


def test_a_changed_base_is_refused_but_not_where_it_changes_no_result(tmp_path):
    opened(tmp_path / "s")
    with pytest.raises(InputError, match="base train.batch_size: 32 -> 64"):
        opened(tmp_path / "s", config=base(batch_size=64))
    with pytest.raises(InputError, match="base train.eval_interval: 10 -> 20"):
        opened(tmp_path / "s", config=base(eval_interval=20))
    opened(tmp_path / "s", config=base(keep_checkpoints=1))


GIVEN = {"base": "configs/digits.py", "space": {RATE: {"log_uniform": (0.001, 1.0)}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {}}, "has no 'space'"),
        ({"pruning": {}}, "has 'pruning'; a search has base, space, changes, sampler"),
        ({"space": {"model.dept": {"int": (1, 2)}}}, "did you mean config.model.depth"),
        ({"space": {RATE: (0.1, 1)}}, "must be one of uniform, log_uniform, int"),
        ({"space": {RATE: {"normal": (0.1, 1)}}}, "must be one of uniform, log_uniform, int"),
        ({"space": {RATE: {"uniform": (1, 0.1)}}}, "low end must be below the high one"),
        ({"space": {RATE: {"log_uniform": (0, 1)}}}, "log_uniform must begin above 0"),
        ({"space": {DEPTH: {"int": (8, 20.0)}}}, "int must be two whole numbers"),
        ({"space": {DEPTH: {"int": (8, 20, 7)}}}, "a step of 7 does not lead from 8 to 20"),
        ({"space": {DEPTH: {"categorical": (8,)}}}, "two or more choices"),
        ({"space": {"data.val_fraction": {"uniform": (0.1, 0.2)}}}, "what val's error is measured"),
        ({"trials": 0}, "trials of given must be a whole number from 1, got 0"),
        ({"sampler": {}}, "sampler must have a name"),
    ],
)
def test_what_is_wrong_with_a_search_is_said_in_one_line(change, words):
    with pytest.raises(InputError) as refused:
        space.parse({**GIVEN, **change}, "given")
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"space": {RATE: {"uniform": (-1.0, 1.0)}}},
            "config.optimizer.learning_rate must be at l",
        ),
        ({"space": {DEPTH: {"int": (8, 21)}}}, "space model.depth: config.model.depth must be 6n"),
        ({"space": {RATE: {"uniform": (0.5, 1.0)}}}, "leaves out the base's own 0.05, the first"),
        ({"changes": {"data.val_fraction": 0.0}}, "minimises the error on val, which is empty"),
    ],
)
def test_values_that_no_run_can_have_are_refused_before_anything_is_written(change, words):
    with pytest.raises(InputError) as refused:
        space.check(plan(**change), base())
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"sampler": {"name": "Tpe"}},
            "sampler must be one of BruteForce, CmaEs, GP, Grid, NSGAII",
        ),
        (
            {"sampler": {"name": "TPE", "startup": 3}},
            "sampler TPE has no option 'startup'; its opt",
        ),
        (
            {"sampler": {"name": "TPE", "n_startup_trials": "x"}},
            "n_startup_trials must be int, got",
        ),
        ({"sampler": {"name": "Grid"}}, "Grid needs values that can be listed"),
        ({"sampler": {"name": "QMC", "qmc_type": "x"}}, "sampler QMC refuses its options"),
        ({"pruner": {"name": "Mean"}}, "pruner must be one of Hyperband, Median, None, Percentile"),
        ({"pruner": {"name": "Percentile"}}, "pruner Percentile needs the option 'percentile'"),
        ({"pruner": {"name": "Median", "seed": 1}}, "pruner Median has no option 'seed'"),
    ],
)
def test_unknown_samplers_pruners_and_options_are_refused_with_what_is_allowed(
    tmp_path, change, words
):
    with pytest.raises(InputError) as refused:
        opened(tmp_path / "s", plan(**change))
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "s" / database.DATABASE).exists()


@pytest.mark.parametrize("name", sorted(set(engines.SAMPLERS) - set(engines._PACKAGES)))
def test_every_sampler_works_off_a_search(tmp_path, pretended, name):
    values = {RATE: {"categorical": (0.01, 0.05, 0.1)}, DEPTH: {"int": (8, 20, 6)}}
    search = plan(space=values, sampler={"name": name}, trials=5)
    assert work(tmp_path / "s", search) == 0
    trials = record(tmp_path / "s")["trials"]
    assert len(trials) == 5
    for trial in trials:
        assert trial["parameters"][RATE] in (0.01, 0.05, 0.1)
        assert trial["parameters"][DEPTH] in (8, 14, 20)


def test_values_that_are_tuples_are_searched_too(tmp_path, pretended):
    field = "optimizer.milestones"
    search = plan(space={field: {"categorical": ((), (20,), (10, 30))}}, trials=4)
    assert work(tmp_path / "s", search) == 0
    for trial in record(tmp_path / "s")["trials"]:
        config = json.loads((tmp_path / "s" / trial["folder"] / "config.json").read_text())
        assert config["optimizer"]["milestones"] == trial["parameters"][field]


def test_a_database_that_cannot_be_used_is_refused_without_its_password(tmp_path):
    search, config = plan(), base()
    for url in ("nosuch://me:secret@host/x", "postgresql://me:secret@127.0.0.1:1/x"):
        with pytest.raises(InputError, match="--storage=.* cannot be used") as refused:
            study.Study(
                *(url, "tried", search, space.resolve(config, {}), {RATE: 0.05}),
                wanted=1,
                dead_after=60.0,
            )
        assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def search_command(*arguments, module="search"):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )


def written(path, **change):
    search = {**GIVEN, "sampler": {"name": "Random"}, "trials": 2, **change}
    path.write_text(f"def get_search():\n    return {search!r}\n")
    return f"--search={path}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": {"name": "Best"}}, "error: sampler must be one of"),
        ({"space": {RATE: {"uniform": (0.5, 1.0)}}}, "error: space optimizer.learning_rate"),
        ({"base": "configs/none.py"}, "error: "),
    ],
)
def test_a_search_that_cannot_be_made_ends_with_one_line_and_code_2(tmp_path, change, words):
    file = written(tmp_path / "given.py", **change)
    done = search_command(file, f"--workdir={tmp_path / 's'}")
    assert done.returncode == command.BAD_INPUT
    assert done.stderr.startswith(words) and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("s/trial-*"))


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("search", (), "error: --search is missing: a file, as configs/search_plain56.py"),
        ("search", ("--search=configs/none.py",), "error: --search=configs/none.py cannot be read"),
        ("tuned_degradation", ("--seeds=0,1000",), "error: --seeds has 1000, which the searches"),
        ("tuned_degradation", ("--families=plane",), "error: --families must be plain, residual"),
        ("tuned_degradation", ("--address=auto",), "error: --address has no effect with"),
        ("tuned_degradation", ("--depths=21",), "error: config.model.depth must be 6n + 2"),
    ],
)
def test_a_command_that_cannot_be_followed_ends_with_one_line_and_code_2(
    tmp_path, module, arguments, words
):
    done = search_command(*arguments, f"--workdir={tmp_path / 's'}", module=module)
    assert done.returncode == command.BAD_INPUT
    assert done.stderr.startswith(words) and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_search_trains_real_runs_finds_the_rate_that_learns_and_reports_it(tmp_path):
    file = written(
        tmp_path / "given.py",
        space={RATE: {"categorical": (1e-6, 0.05)}},
        sampler={"name": "Grid"},
        trials=3,
        changes={RATE: 1e-6},
    )
    small = ("model.depth=8", "train.steps=40", "train.eval_interval=20", "log.tensorboard=False")
    fields = [f"--config.{field}" for field in (*small, "optimizer.milestones=30")]
    done = search_command(file, f"--workdir={tmp_path / 's'}", *fields)
    assert done.returncode == 0, done.stderr
    trials = record(tmp_path / "s")["trials"]
    for trial in trials:
        errors = objective.val_errors(tmp_path / "s" / trial["folder"])
        assert trial["error"] == errors[40]
    best = trials[record(tmp_path / "s")["best"]]
    assert best["parameters"][RATE] == 0.05 and best["error"] < trials[0]["error"]
    assert "with learning rate 0.05" in done.stdout
    figures = tmp_path / "s" / "report" / "figures"
    assert {path.stem for path in figures.glob("*.png")} == {"search_history", "search_parameters"}


@pytest.mark.parametrize("module", [search_plain56, search_digits])
def test_the_given_searches_are_valid_and_begin_with_the_base_s_recipe(module):
    search = space.parse(module.get_search(), module.__name__)
    given = {}
    exec(compile(pathlib.Path(ROOT / search.base).read_text(), search.base, "exec"), given)
    config = given["get_config"]()
    first = space.check(search, config)
    recipe = space.resolve(config, {})
    assert first["optimizer.learning_rate"] == recipe.optimizer.learning_rate
    assert first["optimizer.weight_decay"] == recipe.optimizer.weight_decay
    # No warm-up, as the base has none.
    assert first["optimizer.warmup_steps"] == 0 and recipe.optimizer.warmup == "none"
    engines.sampler(search.sampler, search.space, search.seed, 0)
    engines.pruner(search.pruner)


def test_importances_tell_the_parameter_that_matters_from_one_that_does_not(tmp_path):
    ranges = {RATE: {"log_uniform": (0.001, 1.0)}, "optimizer.momentum": {"uniform": (0.5, 0.95)}}
    made = opened(tmp_path / "s", plan(space=ranges, trials=30))
    for _ in range(30):
        claim = made.claim()
        made.complete(claim.number, expected(claim.parameters[RATE], 40), "completed")
    content = made.importances()
    assert content["method"].startswith("PED-ANOVA")
    assert content["values"][RATE] > 0.8
    assert sum(content["values"].values()) == pytest.approx(1)


def test_a_few_trials_have_no_importances_and_say_why(tmp_path, pretended):
    assert work(tmp_path / "s") == 0
    assert record(tmp_path / "s")["importances"] == {
        "reason": f"6 completed trials, {findings.ENOUGH_TRIALS} are needed"
    }
