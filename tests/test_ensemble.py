import json
import math

import numpy as np
import pytest
import sklearn.metrics

from resnet_jax.report import averaging, ensemble, predictions, seeds, sweep
from resnet_jax.report.outputs import write_report
from tests.test_compare import masks, put_predictions
from tests.test_report_runs import make_run


def logits_of(*probabilities):
    """Logits [1, examples, classes] whose softmax is given."""
    return np.log(np.array(probabilities))[None]


def wrong_where(*mistakes):
    """Two-class logits [members, examples, 2] of members that are wrong where told, all alike."""
    return np.stack([np.eye(2)[np.array(row)] for row in mistakes])


def test_an_ensemble_of_one_is_its_member():
    random = np.random.RandomState(0)
    logits, labels = random.normal(size=(1, 200, 10)), random.randint(0, 10, 200)
    found = averaging.measure(logits, labels)
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    assert found.error == pytest.approx(
        100 * (1 - sklearn.metrics.accuracy_score(labels, logits[0].argmax(-1)))
    )
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(10))
    assert found.loss == pytest.approx(expected)


def test_an_ensemble_of_two_is_the_mean_of_their_softmax():
    one, two = logits_of([0.9, 0.1], [0.6, 0.4]), logits_of([0.2, 0.8], [0.1, 0.9])
    # Means by hand: (0.55, 0.45) and (0.35, 0.65).
    found = averaging.measure(np.concatenate([one, two]), np.array([0, 0]))
    assert found.error == 50.0
    assert found.loss == pytest.approx(-(math.log(0.55) + math.log(0.35)) / 2)


def test_softmax_is_averaged_and_not_logits():
    members = np.concatenate([logits_of([0.001, 0.999]), *[logits_of([0.7, 0.3])] * 3])
    # Class 0 has the mean (0.001 + 3 * 0.7) / 4 = 0.525, and log-odds (-6.9 + 3 * 0.85) / 4 < 0.
    assert averaging.measure(members, np.array([0])).error == 0.0


def test_a_class_that_all_members_think_impossible_has_a_finite_loss():
    logits = np.array([[[0.0, 2000.0]], [[0.0, 2000.0]]])
    assert averaging.measure(logits, np.array([0])).loss == pytest.approx(2000.0)


def test_the_interval_of_an_error_is_wilsons():
    found = averaging.measure(wrong_where([1] * 10 + [0] * 90), np.zeros(100, int))
    # (p + z^2 / 2n -+ z sqrt(p q / n + z^2 / 4n^2)) / (1 + z^2 / n), p = 0.1, n = 100, z = 1.96.
    assert (found.error, found.examples) == (10.0, 100)
    assert found.low == pytest.approx(5.52, abs=0.01)
    assert found.high == pytest.approx(17.44, abs=0.01)


def test_disagreement_is_the_share_of_different_classes():
    predicted = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [3, 1, 0, 0]])
    expected = [[0, 0.25, 0.75], [0.25, 0, 0.5], [0.75, 0.5, 0]]
    np.testing.assert_array_equal(averaging.disagreement(predicted), expected)


def test_ties_go_to_the_smaller_subset_and_then_to_the_order_given():
    labels = np.zeros(4, int)
    # The second and the third have one error each, and so have all ensembles with either.
    logits = wrong_where([1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0])
    assert averaging.best_subset(logits, labels) == ((1,), "all 7 subsets")


def test_members_that_mend_each_other_are_found_together():
    # Each alone has one error in three; each pair leaves its ties to class 0; all have none.
    logits = wrong_where([1, 0, 0], [0, 1, 0], [0, 0, 1])
    labels = np.array([0, 0, 0])
    assert averaging.best_subset(logits, labels)[0] == (0, 1)
    wrong_ones = 1 - wrong_where([1, 0, 0], [0, 1, 0], [0, 0, 1])  # ties are errors now
    assert averaging.best_subset(wrong_ones, labels + 1)[0] == (0, 1, 2)


def test_more_than_ten_members_are_searched_greedily():
    labels = np.ones(12, int)
    rows = np.zeros((11, 12), int)
    rows[:, :6] = 1
    rows[4, 6:9] = rows[9, 9:] = 1
    # The fifth and the tenth are right nine times; together they tie where one is, for class 0.
    members, method = averaging.best_subset(wrong_where(*rows), labels)
    assert members == (4,) and method.startswith("greedy forward selection (Caruana")
    # Three that are right on two thirds each, among eight that are always wrong: two of them are
    # worse than one, for they tie, but all three are always right. Greed goes on and finds them.
    rows = np.zeros((11, 12), int)
    for i, member in enumerate((2, 5, 8)):
        rows[member] = np.arange(12) % 3 != i
    found, _ = averaging.best_subset(wrong_where(*rows), labels)
    assert found == (2, 5, 8)


def test_all_1023_subsets_of_ten_members_are_looked_at():
    labels = np.ones(3, int)
    rows = np.zeros((10, 3), int)
    rows[7] = 1
    assert averaging.best_subset(wrong_where(*rows), labels) == ((7,), "all 1,023 subsets")


def ensemble_of(tmp_path, *members, **options):
    """Runs whose mistakes on val and test are given; what the command says of them."""
    folders = [
        put_predictions(make_run(tmp_path, "ResNet-8", seed), test, val=val, **options)
        for seed, (val, test) in enumerate(members)
    ]
    out = tmp_path / "out" / "ensemble.json"
    assert ensemble.main([*map(str, folders), f"--out={out}"]) == 0
    return json.loads(out.read_text())


def test_members_are_chosen_on_val_and_never_on_test(tmp_path, capsys):
    perfect, bad, worse = [0] * 8, [1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]
    # On val the first is best; on test the second and all ensembles with it are better.
    told = ensemble_of(tmp_path, (perfect, worse), (bad, perfect))
    assert told["selection"]["members"] == ["ResNet-8-seed0"]
    assert told["selection"]["val_error"] == 0.0
    assert told["selection"]["test"]["error"] == 37.5
    assert [m["error"] for m in told["members"]] == [37.5, 0.0]
    assert told["mean_of_members"]["error"] == 18.75
    assert told["mean_disagreement"] == 0.375
    out = " ".join(capsys.readouterr().out.split())
    assert "Chosen on val, of all 3 subsets: ResNet-8-seed0" in out


def test_without_val_nothing_is_chosen_and_a_warning_says_why(tmp_path, capsys):
    told = ensemble_of(tmp_path, ((), [0, 1]), ((), [1, 0]))
    assert told["selection"]["test"] is None and told["selection"]["val_error"] is None
    assert told["selection"]["reason"] == "no predictions for val: ResNet-8-seed0, ResNet-8-seed1"
    assert "Warning: no members were chosen" in " ".join(capsys.readouterr().out.split())


def test_runs_with_another_val_are_averaged_but_nothing_is_chosen(tmp_path):
    told = ensemble_of(tmp_path, ([0, 1], [0, 1]), ([0, 1, 1], [1, 0]))
    reason = told["selection"]["reason"]
    assert "ResNet-8-seed0 and ResNet-8-seed1 were not measured on the same val" in reason
    assert told["together"]["examples"] == 2 and told["selection"]["members"] == []


def test_one_member_disagrees_with_nobody_and_that_is_said(tmp_path):
    told = ensemble_of(tmp_path, ([0, 1], [0, 1]))
    assert told["mean_disagreement"] is None
    assert told["mean_disagreement_reason"] == "one member has none to differ from"
    assert told["together"]["error"] == told["members"][0]["error"] == 50.0


def test_checkpoints_of_one_run_are_members_by_their_files(tmp_path, capsys):
    folder = make_run(tmp_path, "ResNet-8")
    put_predictions(folder, [0, 1], name="predictions-50.npz")
    put_predictions(folder, [1, 1], name="predictions-100.npz")
    out = tmp_path / "ensemble.json"
    files = sorted(map(str, folder.glob("*.npz")))
    assert ensemble.main([*files, f"--out={out}"]) == 0
    told = json.loads(out.read_text())
    assert [(m["name"], m["step"]) for m in told["members"]] == [
        *(("ResNet-8-seed0/predictions-100", 100), ("ResNet-8-seed0/predictions-50", 50)),
    ]
    assert told["origin"]["commit"] == "a" * 12
    assert "(step 50)." in " ".join(capsys.readouterr().out.split())


def test_a_file_outside_any_run_is_a_member_of_unknown_origin(tmp_path):
    folder = put_predictions(make_run(tmp_path, "ResNet-8"), [0, 1])
    (tmp_path / "mine.npz").write_bytes((folder / "predictions.npz").read_bytes())
    net = predictions.read(tmp_path / "mine.npz")
    assert (net.step, net.run) == (None, None) and net.name.endswith("/mine")


def test_a_sweeps_folder_stands_for_its_completed_runs(tmp_path):
    root = tmp_path / "runs"
    a, b = masks(1, 2, 3, 4)
    put_predictions(make_run(root, "ResNet-8", 0), a)
    put_predictions(make_run(root, "plain-8", 0), b)
    make_run(root, "plain-14", state="stopped", step=20)
    out = tmp_path / "ensemble.json"
    assert ensemble.main([str(root), f"--out={out}"]) == 0
    told = json.loads(out.read_text())
    assert [m["name"] for m in told["members"]] == ["plain-8-seed0", "ResNet-8-seed0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--out=x.md"], "must end in .json"),
        (["{run}", "{run}/predictions.npz"], "is given twice"),
        (["{run}/config.json"], "is damaged"),
        (["{run}/.."], "holds no completed runs"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    folder = put_predictions(make_run(tmp_path, "ResNet-8"), [0, 1])
    if message == "holds no completed runs":
        (folder / "evaluation.json").unlink()
    assert ensemble.main([part.format(run=folder) for part in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_report_averages_the_seeds_of_each_label(tmp_path):
    # Three seeds, each wrong about 10 of 100 images, never about the same.
    for seed in range(3):
        wrong = (np.arange(100) // 10) == seed
        put_predictions(make_run(tmp_path, "ResNet-8", seed), wrong)
    put_predictions(make_run(tmp_path, "plain-8", 0), np.zeros(100, bool))
    (row,) = seeds.table(sweep.load(tmp_path)).rows
    # Outvoted everywhere; two seeds differ on the 20 images that one of them is wrong about.
    assert row == ("ResNet-8", "3", "10.00", "0.00", "0.00 to 3.70", "-10.00", "20.00")
    assert 'id="table-seeds"' in write_report(tmp_path).html.read_text()


def test_seeds_whose_predictions_are_damaged_are_named_below_the_table(tmp_path):
    for label in ("ResNet-8", "plain-8"):
        for seed in range(2):
            put_predictions(make_run(tmp_path, label, seed), np.zeros(100, bool))
    (tmp_path / "plain-8-seed1" / "predictions.npz").unlink()
    table = seeds.table(sweep.load(tmp_path))
    assert [row[0] for row in table.rows] == ["ResNet-8"]
    assert "Left out: plain-8 (plain-8-seed1: predictions.npz is not there" in table.caption


def test_one_seed_is_no_ensemble(tmp_path):
    put_predictions(make_run(tmp_path, "ResNet-8"), np.zeros(100, bool))
    assert seeds.table(sweep.load(tmp_path)) is None
