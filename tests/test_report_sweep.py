import dataclasses
import json
import os

import numpy as np
import pytest
import scipy.stats

from resnet_jax.config import DataConfig, RunConfig, validate
from resnet_jax.data import datasets
from resnet_jax.errors import InputError
from resnet_jax.report import groups, sweep
from tests.test_report_runs import COMMIT, DIGITS, make_run, make_sweep, put


def by_name(loaded):
    return {item.name: item.reason for item in loaded.excluded}


def test_runs_are_grouped_by_label_plain_before_residual_by_depth(tmp_path):
    loaded = sweep.load(make_sweep(tmp_path, depths=(14, 8), seeds=2))
    assert [g.label for g in loaded.groups] == ["plain-8", "plain-14", "ResNet-8", "ResNet-14"]
    assert [g.seeds for g in loaded.groups] == [(0, 1)] * 4
    assert not loaded.excluded and not loaded.unfinished
    assert loaded.commit == COMMIT and loaded.dataset == DIGITS
    assert loaded.hardware == ("cpu (Test CPU, 2 cores)",)


def test_a_single_runs_folder_is_a_sweep_of_one(tmp_path):
    folder = make_run(tmp_path, "plain-8", name="my run")
    assert [g.label for g in sweep.load(folder).groups] == ["my run"]


def tear(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "spl')


def cut_short(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]))


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


BAD = {
    "empty": (empty, {}, "is empty"),
    "no config": (lambda f: (f / "config.json").unlink(), {}, "has no config.json"),
    "torn": (tear, {}, "the last line of metrics.jsonl is torn"),
    "damaged": (lambda f: (f / "config.json").write_text("{"), {}, "cannot be read"),
    "damaged line": (
        lambda f: (f / "metrics.jsonl").write_text("}\n"), {}, "metrics.jsonl, line 1 is damaged",
    ),
    "cut at a line's end": (cut_short, {}, "ends at step 50 of 100"),
    "not evaluated": (lambda f: (f / "evaluation.json").unlink(), {}, "has no evaluation.json"),
    "another commit": (None, {"commit": "b" * 40}, "another commit: bbbbbbbbbbbb, "),
    "changed files": (None, {"commit": COMMIT + "+changes"}, "another commit: aaaaaaaaaaaa+chan"),
    "no provenance": (
        lambda f: (f / "provenance.json").unlink(), {}, "another commit: no provenance",
    ),
    "two commits": (None, {"commit": [COMMIT, "b" * 40]}, "attempts are of different commits"),
    "another data set": (None, {"fields": {"data.name": "cifar10"}}, "name=cifar10"),
    "another option": (None, {"fields": {"data.flip": False}}, "flip=False"),
    "other files": (None, {"dataset": DIGITS | {"sha256": "e" * 64}}, "another data set: fing"),
    "a copy": (None, {"dataset": DIGITS | {"original": False}}, "'original': False"),
    "fewer images": (None, {"dataset": DIGITS | {"examples": {"train": 3}}}, "'examples': 3"),
    "no fingerprint": (None, {"dataset": None}, "another data set: (\"{'name': None"),
    "another config": (
        None,
        {"fields": {"optimizer.learning_rate": 0.5}},
        "config differs from plain-8-seed0's: optimizer.learning_rate: 0.5, not 0.1",
    ),
    "another seed": (None, {"fields": {"train.seed": 5}}, "its name says seed 2, its config 5"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_folder_is_reported_by_name_and_left_out_of_means(tmp_path, kind):
    harm, options, reason = BAD[kind]
    for seed in (0, 1):
        make_run(tmp_path, "plain-8", seed, train=5.0)
    folder = make_run(tmp_path, "plain-8", 2, train=99.0, **options)
    if harm:
        harm(folder)
    loaded = sweep.load(tmp_path)
    assert list(by_name(loaded)) == ["plain-8-seed2"]
    assert reason in by_name(loaded)["plain-8-seed2"]
    assert str(tmp_path) not in by_name(loaded)["plain-8-seed2"]
    (group,) = loaded.groups
    assert group.seeds == (0, 1) and group.mean("train").mean == pytest.approx(5.0)


def test_the_same_images_divided_otherwise_are_compared_and_others_are_not(tmp_path):
    config = DataConfig(name="digits")
    whole = datasets.load(dataclasses.replace(config, train_on="train+val")).describe()
    divided = datasets.load(config).describe()
    assert whole["sha256"] != divided["sha256"]
    fields = {"data.train_on": "train+val"}
    for seed in (0, 1):
        make_run(tmp_path, "plain-8", seed, dataset=divided)
        make_run(tmp_path, "whole-8", seed, dataset=whole, fields=fields, residual=False)
    strange = whole | {"sha256": "e" * 64}
    make_run(tmp_path, "whole-8", 2, dataset=strange, fields=fields, residual=False)
    loaded = sweep.load(tmp_path)
    assert [(g.label, g.seeds) for g in loaded.groups] == [("plain-8", (0, 1)), ("whole-8", (0, 1))]
    (reason,) = by_name(loaded).values()
    assert reason.startswith("another data set: fingerprint eeeeeeeeeeee, the other runs have ")


def test_two_folders_of_one_seed_count_once(tmp_path):
    make_run(tmp_path, "plain-8", 1)
    make_run(tmp_path, "plain-8", 1, name="plain-8-seed01")
    assert by_name(sweep.load(tmp_path)) == {"plain-8-seed1": "the same seed as plain-8-seed01"}


def test_unfinished_runs_are_listed_and_diverged_ones_counted(tmp_path):
    make_run(tmp_path, "plain-8", 0, train=5.0)
    make_run(tmp_path, "plain-8", 1, state="diverged", step=40)
    for seed, state in enumerate(("queued", "running", "stopped", "failed"), 2):
        folder = make_run(tmp_path, "plain-8", seed, state=state, step=20)
        if state == "queued":  # the runner has written the config, and nothing has started
            (folder / "provenance.json").unlink()
            (folder / "metrics.jsonl").unlink()
    tear(tmp_path / "plain-8-seed3")  # the run is writing it just now
    loaded = sweep.load(tmp_path)
    assert not loaded.excluded
    assert sorted(run.state for run in loaded.unfinished) == [
        *("failed", "queued", "running", "stopped"),
    ]
    (group,) = loaded.groups
    assert (group.n, group.n_diverged, group.seeds) == (1, 1, (0,))
    assert group.final("train") == {0: pytest.approx(5.0)}


def test_hidden_folders_files_and_earlier_reports_are_not_runs(tmp_path):
    make_run(tmp_path, "plain-8")
    make_run(tmp_path / ".replaced", "plain-8")
    (tmp_path / "report").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "report.html").write_text("")
    (tmp_path / "notes.txt").write_text("")
    loaded = sweep.load(tmp_path)
    assert not loaded.excluded and len(loaded.runs) == 1


def test_no_folder_and_no_runs_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        sweep.load(tmp_path / "absent")
    (tmp_path / "something").mkdir()
    with pytest.raises(InputError, match="holds no runs"):
        sweep.load(tmp_path)


def test_operational_fields_and_no_others_are_taken_to_have_no_effect():
    def operational(config, prefix=""):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                yield from operational(value, f"{prefix}{field.name}.")
            elif field.metadata["operational"] or field.name == "not_converged_error":
                yield prefix + field.name

    ignored = {name for name in json_fields() if name.startswith(groups.NO_EFFECT)}
    assert ignored == set(operational(RunConfig()))


def test_crops_and_what_a_plateau_follows_tell_runs_apart():
    def fields(**changes):
        return groups.effective(dataclasses.asdict(validate(changes)))

    streamed = {"name": "image_folder", "normalization": "imagenet", "crop_padding": 4}
    ten, center = (
        fields(data=streamed, evaluation={"crops": crops}) for crops in ("ten", "center")
    )
    assert set(ten.items()) - set(center.items()) == {("evaluation.crops", "ten")}
    often, seldom = (
        fields(optimizer={"schedule": "plateau"}, train={"eval_interval": steps})
        for steps in (100, 200)
    )
    assert set(often.items()) - set(seldom.items()) == {("train.eval_interval", 100)}
    assert fields(train={"eval_interval": 100}) == fields(train={"eval_interval": 200})


def json_fields():
    return sweep.records.flatten(dataclasses.asdict(RunConfig()))


def test_runs_logged_at_other_steps_are_averaged_on_the_coarser_grid(tmp_path):
    make_run(tmp_path, "plain-8", 0, train=0.0, interval=10)
    make_run(tmp_path, "plain-8", 1, train=9.0, interval=30)
    (tmp_path / "plain-8-seed1" / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": s, "split": "train", "error": 90 - 0.9 * s}) + "\n"
            for s in (30, 60, 90, 100)
        )
    )
    (group,) = sweep.load(tmp_path).groups
    curve = group.curve("train", "error")
    assert curve.steps.tolist() == [30, 60, 90, 100]
    # 90 - s falls to 0 at step 90 for seed 0, and 90 - 0.9 s for seed 1.
    np.testing.assert_allclose(curve.mean, [(60 + 63) / 2, (30 + 36) / 2, 9 / 2, 0], atol=1e-9)
    np.testing.assert_allclose(curve.low, [60, 30, 0, 0], atol=1e-9)
    np.testing.assert_allclose(curve.high, [63, 36, 9, 0], atol=1e-9)
    assert curve.band == "range of 2 seeds"


def test_the_band_of_three_seeds_is_students_t_interval(tmp_path):
    finals = (3.0, 5.0, 10.0)
    for seed, train in enumerate(finals):
        make_run(tmp_path, "plain-8", seed, train=train)
    (group,) = sweep.load(tmp_path).groups
    curve = group.curve("train", "error")
    expected = scipy.stats.ttest_1samp(finals, 0).confidence_interval(0.95)
    assert (curve.low[-1], curve.high[-1]) == pytest.approx(expected)
    assert curve.band == "95 % t-interval of 3 seeds"


@pytest.mark.skipif(os.name != "posix", reason="odd file names")
def test_names_that_are_not_utf_8_are_printed_as_escapes(tmp_path):
    folder = make_run(tmp_path, "plain-8")
    odd = os.fsencode(tmp_path) + b"/bad\xff-seed0"
    try:
        os.rename(os.fsencode(folder), odd)
    except OSError:
        pytest.skip("this file system refuses such names")
    assert [g.label for g in sweep.load(tmp_path).groups] == ["bad\\udcff"]


def test_a_broken_status_does_not_stop_the_others(tmp_path):
    make_run(tmp_path, "plain-8", 0)
    put(make_run(tmp_path, "plain-8", 1), "status.json", {"state": 3})
    loaded = sweep.load(tmp_path)
    assert list(by_name(loaded)) == ["plain-8-seed1"] and loaded.groups[0].n == 1
