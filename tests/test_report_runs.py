"""Run folders made by hand for the tests of `resnet_jax.report`, and how single ones are read."""

import json

import numpy as np
import pytest

from resnet_jax.config import default_config
from resnet_jax.errors import InputError
from resnet_jax.report import records
from resnet_jax.report.thin import thin

COMMIT = "a" * 40
DIGITS = {
    "name": "digits",
    "sha256": "d" * 64,
    "original": True,
    "examples": {"train": 1294, "val": 144, "test": 359},
}
CLASSES = ("zero", "one")


def run_config(**fields):
    """The default config with dotted fields replaced: run_config(**{'model.depth': 8})."""
    config = default_config()
    config.update_from_flattened_dict({"data.name": "digits", "train.steps": 100, **fields})
    return json.loads(config.to_json())


def make_run(root, label, seed=0, *, residual=None, depth=None, train=5.0, test=10.0, name=None,
             state="completed", step=None, interval=10, commit=COMMIT, dataset=DIGITS,
             fields=(), classes=CLASSES):  # fmt: skip
    """Writes a run whose training error falls from 90 to `train` over nine tenths of its steps.

    Args:
        root: of the sweep.
        label: family-depth, from which `residual` and `depth` are read if they are not given.
        commit: one, or a list with one for each attempt.
        dataset: the fingerprint; None for an old run without one.
    """
    family, _, digits = label.rpartition("-")
    fields = dict(fields)
    fields.setdefault("model.residual", family != "plain" if residual is None else residual)
    fields.setdefault("model.depth", int(digits) if depth is None else depth)
    config = run_config(**{"train.seed": seed, "log.interval": interval, **fields})
    steps = config["train"]["steps"]
    done = steps if step is None else step
    folder = root / (name or f"{label}-seed{seed}")
    folder.mkdir(parents=True)
    put(folder, "config.json", config)
    attempts = [
        {
            **({"dataset": dataset} if dataset else {}),
            "commit": one,
            "devices": ["cpu"],
            "hardware": {"processor": "Test CPU", "usable_cores": 2},
        }
        for one in (commit if isinstance(commit, list) else [commit])
    ]
    put(folder, "provenance.json", {"attempts": attempts})
    lines = []
    for at in range(interval, done + 1, interval):
        share = min(at / (0.9 * steps), 1)
        error = 90 * (1 - share) + train * share
        if state == "diverged" and at == done:
            row = {"loss": None, "error": error, "gradient_norm": None, "nonfinite": True}
        else:
            row = {"loss": error / 40, "error": error, "gradient_norm": 1.0}
        lines.append({"step": at, "split": "train", **row, "learning_rate": 0.1})
        if at % (5 * interval) == 0:
            late = test if at == steps else 80.0
            lines += [{"step": at, "split": s, "loss": 1.0, "error": late} for s in ("val", "test")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    put(folder, "status.json", {"state": state, "step": done, "steps": steps, "parameters": 1234})
    if state == "completed":
        per_class = [
            {"class": c, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}
            for c in classes
        ]
        matrix = [[i + j for j in range(len(classes))] for i in range(len(classes))]
        split = {"error": test, "confusion_matrix": matrix, "per_class": per_class}
        put(folder, "evaluation.json", {"step": steps, "splits": {"val": split, "test": split}})
    return folder


def put(folder, name, value):
    (folder / name).write_text(json.dumps(value))


def make_sweep(root, *, depths=(8, 14), seeds=3, rise=20.0):
    """Plain nets whose training error rises by about `rise` a depth, residual ones' does not."""
    for seed in range(seeds):
        for i, depth in enumerate(depths):
            wobble = 0.1 * (seed * (i + 1) % 3)
            make_run(root, f"plain-{depth}", seed, train=5 + i * rise + wobble, test=10 + i * rise)
            make_run(root, f"ResNet-{depth}", seed, train=4 - i + wobble, test=8 - i)
    return root


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = records.load(make_run(tmp_path, "ResNet-20", 3, train=5.0, test=12.5))
    assert (run.net, run.family, run.depth, run.seed, run.steps) == (
        *("ResNet-20", "residual", 20, 3, 100),
    )
    steps, errors = run.curve("train", "error")
    np.testing.assert_array_equal(steps, np.arange(10, 101, 10))
    # The line from 90 at step 0 to 5 at step 90, read off at step 10.
    np.testing.assert_allclose(errors[0], 90 - 85 / 9)
    assert run.final_error("test") == 12.5
    assert len(run.curve("train", "nothing")[0]) == 0


def test_a_vgg_net_is_plain_and_has_its_own_name(tmp_path):
    fields = {"model.family": "vgg", "model.residual": False, "model.depth": 16}
    run = records.load(make_run(tmp_path, "VGG-16", fields=fields))
    assert (run.net, run.family) == ("VGG-16", "plain")


@pytest.mark.parametrize(
    ("family", "variant", "name"),
    [("mobilenet_v3", "large", "MobileNetV3-Large"), ("swin", "base", "Swin-B")],
)
def test_a_net_with_variants_is_residual_and_has_its_own_name(tmp_path, family, variant, name):
    fields = {"model.family": family, "model.variant": variant}
    run = records.load(make_run(tmp_path, "net-20", fields=fields))
    assert (run.net, run.family) == (name, "residual")


def test_the_final_training_error_is_the_mean_over_the_last_tenth_of_the_steps(tmp_path):
    folder = make_run(tmp_path, "plain-8", fields={"train.steps": 1000})
    rows = [{"step": s, "split": "train", "error": float(s)} for s in range(50, 1001, 50)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Of 50, 100, ..., 1000 only 950 and 1000 lie above 900.
    assert records.load(folder).final_train_error == 975.0


def test_the_final_error_is_the_last_steps_even_if_another_checkpoint_was_evaluated(tmp_path):
    folder = make_run(tmp_path, "plain-8", test=30.0)
    put(folder, "evaluation.json", {"step": 50, "splits": {"test": {"error": 20.0}}})
    assert records.load(folder).final_error("test") == 30.0


def test_values_that_were_not_finite_are_nan_and_stay_in_their_place(tmp_path):
    run = records.load(make_run(tmp_path, "plain-8", state="diverged", step=30))
    steps, loss = run.curve("train", "loss")
    assert steps.tolist() == [10, 20, 30]
    assert np.isnan(loss).tolist() == [False, False, True]


def test_a_metric_that_only_some_records_have_keeps_its_own_steps(tmp_path):
    folder = make_run(tmp_path, "plain-8")
    rows = [{"step": 1, "split": "train", "error": 9}, {"step": 2, "split": "train", "loss": 1.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = records.load(folder)
    assert run.curve("train", "loss")[0].tolist() == [2]
    assert run.curve("train", "error")[0].tolist() == [1]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", b"\xff\xfe\x00", "cannot be read"),
        ("config.json", "[" * 100_000, "cannot be read"),
        ("config.json", "[]", "model.depth is None"),
        ("config.json", '{"model": {"depth": true}}', "model.depth is True"),
        ("status.json", "[1]", "no known state"),
        ("status.json", '{"state": "<b>"}', "no known state"),
        ("provenance.json", '{"attempts": 3}', "no attempts"),
        ("evaluation.json", '{"splits": {"test": 3}}', "a split has no error"),
        ("evaluation.json", "null x", "cannot be read"),
        ("metrics.jsonl", '{"step": 1}\n', "line 1 is damaged"),
        ("metrics.jsonl", "{}x{}\n", "line 1 is damaged"),
        ("metrics.jsonl", '{"step": 1, "split": "train"}\n\x00\x00\n', "line 2 is damaged"),
        ("metrics.jsonl", '{"step": 2, "split": "a"}\n{"step": 1, "split": "a"}\n', "not increase"),
        ("metrics.jsonl", '{"step": 1, "split": "a", "loss": "b"}\n', "cannot be read"),
        ("metrics.jsonl", '{"step": 1%s, "split": "a"}\n' % ("0" * 400), "not increase"),
        ("metrics.jsonl", "3\n", "line 1 is damaged"),
    ],
)
def test_a_damaged_file_is_answered_by_one_error_that_says_what_is_wrong(
    tmp_path, file, text, message
):
    folder = make_run(tmp_path, "plain-8")
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        records.load(folder)


def test_thinning_keeps_ends_peaks_and_gaps_and_never_more_points_than_asked_for():
    values = np.zeros(10_000)
    values[[0, 1234, 5678, 9999]] = 1.0, 50.0, -50.0, 2.0
    values[7000:7003] = np.nan
    kept = thin(values, 500)
    assert len(kept) <= 500 and (np.diff(kept) > 0).all()
    assert {0, 1234, 5678, 9999, 7000} <= set(kept.tolist())
    assert thin(values[:500], 500).tolist() == list(range(500))
    assert len(thin(np.full(2000, np.nan), 100)) <= 100
