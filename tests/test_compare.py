import csv
import io
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from resnet_jax.errors import InputError
from resnet_jax.report import compare, predictions, sweep, tables, twins
from resnet_jax.report.outputs import write_report
from tests.test_report_runs import make_run, make_sweep, put

ROOT = pathlib.Path(__file__).resolve().parents[1]


def put_predictions(folder, wrong, *, val=(), order=None, name="predictions.npz", labels=None):
    """Writes two-class predictions, wrong where told, and the evaluation that belongs to them.

    Args:
        folder: a run's.
        wrong: for each test image.
        val: the same for val, which is left out if empty.
        order: in which the test images stand.
    """
    arrays = {}
    for split, mistakes in (("val", val), ("test", wrong)):
        if not len(mistakes):
            continue
        mistakes = np.array(mistakes, bool)
        truth = np.arange(len(mistakes)) % 2 if labels is None else np.array(labels)
        logits = np.eye(2)[np.where(mistakes, 1 - truth, truth)]
        ids = np.array([f"{split}_{i:03d}" for i in range(len(mistakes))])
        here = np.arange(len(mistakes)) if order is None or split == "val" else np.array(order)
        arrays |= {f"{split}_logits": logits.astype(np.float32)[here]}
        arrays |= {f"{split}_labels": truth[here], f"{split}_ids": ids[here]}
    np.savez(folder / name, **arrays)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["splits"]["test"]["error"] = 100 * float(np.mean(wrong))
    put(folder, "evaluation.json", evaluation)
    return folder


def masks(only_a, only_b, both, neither):
    """Which of two nets is wrong, for so many images of each kind."""
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return np.array(a, bool), np.array(b, bool)


def two_runs(root, counts=(10, 2, 3, 85), **options):
    a, b = masks(*counts)
    first = put_predictions(make_run(root, "plain-8"), a)
    return first, put_predictions(make_run(root, "ResNet-8"), b, **options)


def test_mcnemars_test_is_exact_and_two_sided():
    # Ten of twelve: 2 (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 158 / 4096.
    assert compare.mcnemar(10, 2) == compare.mcnemar(2, 10) == pytest.approx(0.03857421875)
    assert compare.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert compare.mcnemar(4, 4) == 1.0


def test_two_nets_are_counted_image_by_image():
    pair = compare.paired(*masks(10, 2, 3, 85))
    assert pair.errors == (13.0, 5.0) and pair.difference == -8.0
    assert pair.only_wrong == (10, 2) and pair.p == pytest.approx(0.03857421875)
    assert pair.low < -8 < pair.high < 0 and pair.reason == ""


def test_without_discordant_images_p_is_1_and_there_is_no_interval_and_it_says_why():
    pair = compare.paired(*masks(0, 0, 3, 7))
    assert (pair.p, pair.difference, pair.only_wrong) == (1.0, 0.0, (0, 0))
    assert math.isnan(pair.low) and math.isnan(pair.high) and "same on every image" in pair.reason
    assert math.isnan(compare.paired(*masks(4, 0, 0, 0)).low)


def test_the_bootstrap_is_that_of_scipy_over_the_images():
    a, b = masks(40, 15, 20, 325)
    pair = compare.paired(a, b)
    theirs = scipy.stats.bootstrap(
        (100 * b.astype(float), 100 * a.astype(float)),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True, method="percentile", vectorized=True, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    # One image is 0.25 points; two runs of 10,000 resamples differ by no more.
    assert abs(pair.low - theirs.low) <= 0.25 and abs(pair.high - theirs.high) <= 0.25
    # By the normal approximation: variance (p + q - (p - q)^2) / n of the mean.
    share, skew = 55 / 400, 25 / 400
    half = 196 * math.sqrt((share - skew**2) / 400)
    assert pair.low == pytest.approx(-6.25 - half, abs=0.3)
    assert pair.high == pytest.approx(-6.25 + half, abs=0.3)
    assert compare.paired(a, b) == pair


def test_holms_p_values_are_those_of_the_procedure():
    # By hand: .005 * 4, .01 * 3, .03 * 2, and .04 * 1, raised to the .06 before it.
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
    assert compare.holm([0.02]) == [0.02] and compare.holm([]) == []


def test_images_are_matched_by_id_in_whatever_order_they_stand(tmp_path):
    first, second = two_runs(tmp_path, order=np.random.RandomState(0).permutation(100))
    (found,) = compare.compare([predictions.read(first), predictions.read(second)])
    assert found.pair == compare.paired(*masks(10, 2, 3, 85))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"counts": (10, 2, 3, 85), "labels": [0, 1] * 49 + [1, 1]},
            "different labels.*'test_098'",
        ),
        ({"counts": (10, 2, 3, 85), "order": range(99)}, "same test examples: 'test_099'"),
    ],
)
def test_runs_of_other_data_are_refused_by_name(tmp_path, options, message):
    first, second = two_runs(tmp_path, **options)
    with pytest.raises(InputError, match=f"plain-8-seed0 and ResNet-8-seed0 .*{message}"):
        compare.compare([predictions.read(first), predictions.read(second)])


def test_nets_of_another_number_of_classes_are_refused(tmp_path):
    first, second = two_runs(tmp_path)
    arrays = dict(np.load(second / "predictions.npz"))
    arrays["test_logits"] = np.pad(arrays["test_logits"], ((0, 0), (0, 1)))
    np.savez(second / "predictions.npz", **arrays)
    with pytest.raises(InputError, match="plain-8-seed0 and ResNet-8-seed0 tell 2 and 3 classes"):
        compare.compare([predictions.read(first), predictions.read(second)])


def damaged(**changes):
    """Something to be done to a file: arrays replaced, or left out where None."""

    def damage(path):
        arrays = {**np.load(path), **changes}
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


DAMAGE = {
    "absent": (lambda path: path.unlink(), "is not there; .*--mode=evaluate"),
    "cut": (cut, "is damaged: it cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "it cannot be read"),
    "text": (lambda path: path.write_text("hello"), "it cannot be read"),
    "one array": (one_array, "it cannot be read"),
    "objects": (damaged(test_ids=np.array([{}], object)), "it cannot be read"),
    "no test": (damaged(test_logits=None, test_labels=None, test_ids=None), "has no test split"),
    "no labels": (damaged(test_labels=None), "it cannot be read .*test_labels"),
    "shape": (damaged(test_logits=np.zeros(3)), r"test_logits is float64 \[3\]"),
    "type": (damaged(test_labels=np.zeros(100)), r"test_labels is float64 \[100\]"),
    "length": (damaged(test_labels=np.zeros(3, int)), "do not go together"),
    "infinite": (damaged(test_logits=np.full((100, 2), np.inf)), "not finite"),
    "label": (damaged(test_labels=np.full(100, 2)), "labels outside 0 to 1"),
    "ids": (damaged(test_ids=np.array(["a"] * 100)), "an id more than once"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_predictions_are_told_in_one_line_and_exit_code_2(tmp_path, capsys, kind):
    first, second = two_runs(tmp_path)
    damage, message = DAMAGE[kind]
    damage(second / "predictions.npz")
    with pytest.raises(InputError, match=f"{second}/predictions.npz .*{message}"):
        predictions.read(second)
    assert compare.main([str(first), str(second)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_any_damaged_byte_is_answered_by_the_same_error_or_changes_nothing(tmp_path):
    folder = two_runs(tmp_path)[0]
    path = folder / "predictions.npz"
    whole = path.read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for at in random.randint(0, len(whole), 400):
        path.write_bytes(whole[:at] + bytes([random.randint(256)]) + whole[at + 1 :])
        try:
            predictions.read(folder)
        except InputError as error:
            refused += "is damaged" in str(error)
    assert refused > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "needs two nets"),
        (["{a}", "{a}/../plain-8-seed0"], "is given twice"),
        (["{a}", "nowhere"], "nowhere is not there"),
        (["{a}", "{b}", "--out=x.txt"], "must end in .json or .csv or .md"),
        (["{a}", "{b}", "--out={a}/config.json/x.md"], "cannot be written"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    first, second = two_runs(tmp_path)
    assert compare.main([part.format(a=first, b=second) for part in arguments]) == 2
    _, err = capsys.readouterr()
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


def predicted_sweep(root, depths=(8, 14), seeds=2):
    make_sweep(root, depths=depths, seeds=seeds)
    for folder in root.iterdir():
        a, b = masks(10, 2, 3, 85)
        put_predictions(folder, a if folder.name.startswith("plain") else b)
    return root


def test_a_sweep_is_compared_in_pairs_and_written_in_three_formats(tmp_path, capsys):
    root = predicted_sweep(tmp_path / "runs")
    make_run(root, "plain-20", state="diverged", step=30)
    for ending in ("json", "csv", "md"):
        assert compare.main([str(root), f"--out={tmp_path / f'pairs.{ending}'}"]) == 0
    out, _ = capsys.readouterr()
    assert "not for nets of other seeds" in " ".join(out.split())
    assert "Left out" in out and "plain-20-seed0" in out
    told = json.loads((tmp_path / "pairs.json").read_text())
    found = {(item["a"], item["b"]): item for item in told["comparisons"]}
    assert len(found) == 8 * 7 / 2
    pair = found["plain-8-seed0", "ResNet-14-seed1"]
    assert pair["p"] == pytest.approx(0.03857421875) and pair["only_wrong"] == [10, 2]
    assert pair["holm_p"] == pytest.approx(min(1, 28 * 0.03857421875))
    same = found["plain-8-seed0", "plain-8-seed1"]
    assert same["low"] is None and "same on every image" in same["reason"] and same["p"] == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text())))
    assert len(rows) == 28 and rows[0]["commit"] == "a" * 12
    assert "not for nets of other seeds" in (tmp_path / "pairs.md").read_text()


def test_more_than_12_runs_are_compared_with_a_reference_only(tmp_path, capsys):
    root = predicted_sweep(tmp_path / "runs", depths=(8, 14, 20, 26), seeds=2)
    assert compare.main([str(root)]) == 2
    assert "16 completed runs, more than the 12" in capsys.readouterr().err
    out = tmp_path / "pairs.json"
    reference = root / "plain-14-seed1"
    assert compare.main([str(root), f"--reference={reference}", f"--out={out}"]) == 0
    told = json.loads(out.read_text())["comparisons"]
    assert len(told) == 15 and {item["a"] for item in told} == {"plain-14-seed1"}
    assert "plain-14-seed1" not in {item["b"] for item in told}


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, capsys):
    one, two = (
        put_predictions(make_run(tmp_path / d, "plain-8"), masks(1, 2, 3, 4)[0]) for d in "ab"
    )
    assert compare.main([str(one), str(two)]) == 0
    assert "a/plain-8-seed0" in "".join(capsys.readouterr().out.split())


def test_predictions_of_another_step_than_the_last_are_said_to_be(tmp_path, capsys):
    first, second = two_runs(tmp_path)
    evaluation = json.loads((first / "evaluation.json").read_text())
    put(first, "evaluation.json", evaluation | {"step": 50})
    compare.main([str(first), str(second)])
    assert "last step: plain-8-seed0 (step 50)." in " ".join(capsys.readouterr().out.split())


def test_comparing_and_averaging_need_no_jax(tmp_path):
    first, second = two_runs(tmp_path)
    code = (
        "import sys\nfrom resnet_jax.report import compare, ensemble\n"
        f"assert compare.main([{str(first)!r}, {str(second)!r}]) == 0\n"
        f"assert ensemble.main([{str(first)!r}, {str(second)!r}]) == 0\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'jax', 'flax', 'orbax', 'sklearn', 'ml_collections'}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def twin_rows(root):
    table = twins.table(sweep.load(root))
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_report_compares_twins_seed_by_seed(tmp_path):
    root = predicted_sweep(tmp_path)
    rows = twin_rows(root)
    assert [(row["plain"], row["residual"], row["seed"]) for row in rows] == [
        *(("plain-8", "ResNet-8", "0"), ("plain-8", "ResNet-8", "1")),
        *(("plain-14", "ResNet-14", "0"), ("plain-14", "ResNet-14", "1")),
    ]
    row = rows[0]
    assert (row["only plain wrong"], row["only residual wrong"]) == ("10", "2")
    assert (row["residual - plain"], row["p"], row["n"]) == ("-8.00", "0.0386", "1")
    # The four rows are alike, so Holm's correction is Bonferroni's: 4 * 0.0386.
    assert {row["Holm p"] for row in rows} == {"0.154"}
    text = write_report(root).html.read_text()
    assert text.index('id="table-labels"') < text.index('id="table-twins"')
    assert text.index('id="table-twins"') < text.index('id="table-runs"')
    assert "Twins on the same test images" in (root / "report/tables/twins.md").read_text()
    facts = tables.facts(sweep.load(root))
    assert facts["commit"] in (root / "report/tables/twins.csv").read_text()


def test_a_report_without_predictions_has_no_table_of_twins(tmp_path):
    text = write_report(make_sweep(tmp_path, seeds=1)).html.read_text()
    assert "table-twins" not in text and not list(tmp_path.rglob("twins.*"))


def test_only_nets_that_differ_in_nothing_but_shortcuts_are_twins(tmp_path):
    a, b = masks(1, 2, 3, 4)
    for label, fields in {
        "plain-8": {},
        "B-8": {"model.shortcut": "B"},
        "order-8": {"model.activation_order": "full_preactivation"},
        "scaled-8": {"model.shortcut_transform": "constant_scaling", "model.shortcut_scale": 0.5},
        "rate-8": {"optimizer.learning_rate": 0.01},
        "wide-8": {"model.width": 2.0},
        "start-8": {"optimizer.warmup": "linear"},
        "blocks-11": {"model.block": "bottleneck"},
    }.items():
        put_predictions(make_run(tmp_path, label, fields=fields), a if label[0] == "p" else b)
    put_predictions(make_run(tmp_path, "B-8", 1, fields={"model.shortcut": "B"}), b)
    assert [row["residual"] for row in twin_rows(tmp_path)] == ["B-8", "order-8", "scaled-8"]


def test_damaged_predictions_are_told_by_name_and_cost_only_their_own_rows(tmp_path):
    root = predicted_sweep(tmp_path, depths=(8, 14, 20, 26), seeds=1)
    cut(root / "plain-8-seed0" / "predictions.npz")
    (root / "ResNet-14-seed0" / "predictions.npz").unlink()
    put(root / "plain-20-seed0", "evaluation.json", {"step": 50, "splits": {"test": {"error": 1}}})
    put_predictions(root / "ResNet-26-seed0", masks(1, 2, 3, 5)[0])
    notes = twins.table(sweep.load(root)).caption
    assert twin_rows(root) == []
    for part in (
        "Left out: plain-8-seed0 (predictions.npz is damaged: it cannot be read",
        "Left out: ResNet-14-seed0 (predictions.npz is not there",
        "Left out: plain-20-seed0 (its predictions are of step 50, not of the last one, 100",
        "plain-26-seed0 and ResNet-26-seed0 were not measured on the same test examples",
    ):
        assert part in notes
    assert "plain-8-seed0" in write_report(root).html.read_text()


def test_predictions_that_are_not_those_of_the_evaluation_are_not_compared(tmp_path):
    root = predicted_sweep(tmp_path, depths=(8,), seeds=1)
    evaluation = {"step": 100, "splits": {"test": {"error": 50.0}}}
    put(root / "plain-8-seed0", "evaluation.json", evaluation)
    told = twins.table(sweep.load(root)).caption
    assert "a test error of 13.00 %, its evaluation 50.00 %" in told


def test_a_p_value_too_small_for_a_double_is_not_printed_as_0():
    pair = compare.paired(*masks(8000, 10, 0, 10))
    assert pair.p == 0.0 and compare.cells(pair, 0.0)[-2:] == ["< 1e-300", "< 1e-300"]
