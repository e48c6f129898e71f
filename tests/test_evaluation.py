import json

import numpy as np
import pytest
import scipy.special
import sklearn.calibration
import sklearn.metrics

from resnet_jax.config import EvaluationConfig
from resnet_jax.errors import InputError
from resnet_jax.metrics import classification, counts, findings, intervals, scores, thresholds
from resnet_jax.train import setup

DEFAULT = EvaluationConfig(bootstrap_samples=0)


def binary(tp, fp, fn, tn):
    """What a confusion of negative and positive says."""
    return counts.measure(np.array([[tn, fp], [fn, tp]]), ("negative", "positive"))


def confused(matrix):
    """Logits and labels that give a confusion matrix."""
    cells = np.argwhere(np.ones_like(matrix))
    true, predicted = np.repeat(cells, np.ravel(matrix), axis=0).T
    return 8.0 * np.eye(len(matrix))[predicted], true


def judged(matrix, train_error=float("nan"), **settings):
    """The findings on a confusion matrix, by subject."""
    names = tuple(f"class {i}" for i in range(len(matrix)))
    report = classification.report(*confused(np.array(matrix)), names, DEFAULT)
    lines = findings.judge(
        {"val": report, "test": report}, train_error, EvaluationConfig(**settings)
    )
    return {line["subject"]: line for line in lines}


def random_scores(seed, examples=300, classes=4, ties=False, missing=False):
    """Probabilities and labels of a middling classifier."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, classes - missing, examples)
    logits = random.normal(size=(examples, classes)) + 1.2 * np.eye(classes)[labels]
    if ties:
        logits = logits.round()
    return scipy.special.softmax(logits, -1), labels


# --- Worked out by hand, or published.


def test_45_5_3_47_has_the_precision_and_recall_of_textbooks():
    # 45/48, 45/50, 47/52, 47/50
    first, second = counts.measure(np.array([[45, 5], [3, 47]]), ("a", "b"))["per_class"]
    assert (first["precision"], first["recall"]) == pytest.approx((0.9375, 0.9))
    assert (second["precision"], second["recall"]) == pytest.approx((0.9038, 0.94), abs=5e-5)


def test_745_221_255_779_has_the_published_scores():
    report = binary(tp=745, fp=221, fn=255, tn=779)
    row = report["per_class"][1]
    assert report["accuracy"] == pytest.approx(0.762)
    assert row["precision"] == pytest.approx(0.7712215320910973)
    assert row["recall"] == pytest.approx(0.745)
    assert row["f1"] == pytest.approx(0.757884028484232)


def test_98_percent_accuracy_with_12_percent_recall_is_not_better_than_the_majority_class():
    report = binary(tp=12, fp=12, fn=88, tn=4888)
    assert report["accuracy"] == pytest.approx(0.98)
    assert report["per_class"][1]["recall"] == pytest.approx(0.12)
    assert report["baseline"] == {"class": "negative", "accuracy": 0.98, "beaten": False}
    lines = judged([[4888, 12], [88, 12]])
    line = lines["not better than the majority class"]
    assert line["level"] == "bad" and "98.00 %" in line["text"]
    assert "class 1 0.12" in lines["classes that are missed"]["text"]


def test_an_f1_of_95_percent_can_still_be_no_better_than_the_majority_class():
    report = binary(tp=900, fp=95, fn=0, tn=5)
    assert report["accuracy"] == pytest.approx(0.905)
    assert report["per_class"][1]["f1"] == pytest.approx(0.95, abs=2e-3)
    assert report["balanced_accuracy"] == pytest.approx(0.525)
    # (900 * 5 - 95 * 0) / sqrt(995 * 900 * 100 * 5)
    assert report["mcc"] == pytest.approx(0.2127, abs=1e-4)
    assert not report["baseline"]["beaten"]
    assert "not better than the majority class" in judged([[5, 95], [0, 900]])


def test_a_classifier_that_is_better_than_the_majority_class_is_said_to_be():
    assert binary(tp=45, fp=3, fn=5, tn=47)["baseline"]["beaten"]
    assert judged([[47, 3], [5, 45]])["better than the majority class"]["level"] == "good"


def test_wilsons_interval_is_the_published_one():
    # Newcombe 1998, Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (r, n), published in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert intervals.wilson(r, n) == pytest.approx(published, abs=5e-5)
    assert np.isnan(intervals.wilson(0, 0)).all()


@pytest.mark.parametrize(
    ("of", "area"), [(lambda p: p, 1.0), (lambda p: 1 - p, 0.0), (lambda p: 0 * p + 0.5, 0.5)]
)
def test_the_area_is_1_in_order_0_inverted_and_half_if_all_scores_are_equal(of, area):
    score = of(np.array([0.1, 0.2, 0.8, 0.9]))
    probabilities = np.stack([1 - score, score], 1)
    labels = np.array([0, 0, 1, 1])
    ranking = scores.ranking(probabilities, labels, ("no", "yes"), positive=1, samples=0)
    assert ranking["per_class"][0]["roc_auc"] == area
    assert ranking["macro"]["roc_auc"] == area


def test_areas_over_one_class_only_are_not_a_number_and_the_reason_is_told():
    probabilities, _ = random_scores(0, classes=2)
    report = classification.report(
        np.log(probabilities), np.zeros(300, int), ("no", "yes"), DEFAULT, positive=1
    )
    assert np.isnan(report["ranking"]["per_class"][0]["roc_auc"])
    assert np.isnan(report["mcc"])
    assert report["undefined"]["areas of yes"] == "all examples are of another class"
    assert report["undefined"]["recall of yes"] == "the split has no example of it"
    assert report["undefined"]["MCC"] == "all examples are of one class"


def test_calibration_is_the_one_worked_out_by_hand():
    # Two bins: (0.5, 1] holds 0.6 wrong, 0.8 right, 1.0 right: 0.8 said, 2/3 right.
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8], [1.0, 0.0]])
    found = scores.calibration(probabilities, np.array([1, 1, 0]), bins=2)
    assert found["ece"] == pytest.approx(0.8 - 2 / 3)
    assert found["bins"] == [
        {"examples": 3, "confidence": pytest.approx(0.8), "accuracy": pytest.approx(2 / 3)}
    ]
    # (0.6² + 0.2² + 0²) / 3
    assert found["brier"] == pytest.approx(0.4 / 3)


def test_a_net_that_knows_that_it_knows_nothing_is_calibrated():
    probabilities = np.full((100, 10), 0.1)
    found = scores.calibration(probabilities, np.arange(100) % 10, bins=15)
    assert found["ece"] == pytest.approx(0.0)
    assert found["brier"] == pytest.approx(0.9)  # 0.9² + 9 * 0.1²


# --- scikit-learn on random data.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("missing", [False, True])
def test_rates_are_those_of_scikit_learn(seed, missing):
    probabilities, labels = random_scores(seed, ties=seed % 2 == 0, missing=missing)
    predicted = probabilities.argmax(1)
    report = counts.measure(counts.confusion(labels, predicted, 4), tuple("abcd"))
    present = np.unique(labels)
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=present, average=None)
    assert report["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert report["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predicted))
    for kind in ("macro", "micro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(sklearn.metrics, f"{name}_score")
            expected = score(labels, predicted, average=kind, labels=range(4), zero_division=np.nan)
            assert report["averages"][kind][name] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_matrices_of_parts_add_up_to_that_of_all_in_any_order(seed):
    random = np.random.RandomState(seed)
    probabilities, labels = random_scores(seed)
    predicted, part = probabilities.argmax(1), random.randint(0, 5, len(labels))
    parts = [counts.confusion(labels[part == i], predicted[part == i], 4) for i in range(6)]
    random.shuffle(parts)
    merged = counts.measure(sum(parts), tuple("abcd"))
    assert merged == counts.measure(counts.confusion(labels, predicted, 4), tuple("abcd"))


def test_masked_examples_change_nothing():
    probabilities, labels = random_scores(0)
    mask = np.arange(300) < 200
    mask[:50] = False
    logits = np.log(probabilities)
    masked = classification.report(logits, labels, tuple("abcd"), DEFAULT, mask=mask)
    assert masked == classification.report(logits[50:200], labels[50:200], tuple("abcd"), DEFAULT)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_areas_and_curves_are_those_of_scikit_learn(ties, classes):
    probabilities, labels = random_scores(3, classes=classes, ties=ties)
    names = tuple("abcd"[:classes])
    ranking = scores.ranking(probabilities, labels, names, positive=None, samples=0)
    for label, row in enumerate(ranking["per_class"]):
        truth, score = labels == label, probabilities[:, label]
        assert row["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))
        expected = sklearn.metrics.average_precision_score(truth, score)
        assert row["average_precision"] == pytest.approx(expected)
        # The thinned curve still has the area of the whole one.
        assert sklearn.metrics.auc(**row["roc"]) == pytest.approx(row["roc_auc"], abs=0.01)
        assert (row["roc"]["x"][0], row["roc"]["x"][-1]) == (0.0, 1.0)


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_areas_are_those_of_scikit_learn(ties):
    probabilities, labels = random_scores(5, examples=80, classes=3, ties=ties)
    weights = np.random.RandomState(1).multinomial(80, np.full(80, 1 / 80), 20)
    found = intervals.areas(probabilities[:, 0], labels == 0, weights)
    scikit = (sklearn.metrics.roc_auc_score, sklearn.metrics.average_precision_score)
    for values, score in zip(found, scikit, strict=True):
        expected = [score(labels == 0, probabilities[:, 0], sample_weight=w) for w in weights]
        assert values == pytest.approx(expected)


def test_a_bootstrapped_area_has_the_spread_that_theory_gives():
    # Hanley and McNeil 1982, for exponential scores: Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A).
    random = np.random.RandomState(0)
    n, rate = 400, 1 / 3  # the area is 1 / (1 + rate)
    score = np.concatenate([random.exponential(1, n), random.exponential(1 / rate, n)])
    labels = np.repeat([0, 1], n)
    (low, high), _ = intervals.bootstrap_areas(
        np.stack([-score, score], 1), labels, [1], samples=500
    )[0]
    area = sklearn.metrics.roc_auc_score(labels, score)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n - 1) * (q1 + q2 - 2 * area**2)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance) / n, rel=0.15)
    assert low < area < high


def test_the_top_5_error_is_that_of_scikit_learn():
    probabilities, labels = random_scores(2, classes=10)
    expected = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5)
    assert scores.top_5_error(probabilities, labels) == pytest.approx(100 * (1 - expected))
    assert np.isnan(scores.top_5_error(probabilities[:, :5], labels.clip(max=4)))


def test_the_calibration_bins_are_those_of_scikit_learn():
    probabilities, labels = random_scores(7, examples=500)
    found = scores.calibration(probabilities, labels, bins=10)["bins"]
    accuracy, confidence = sklearn.calibration.calibration_curve(
        probabilities.argmax(1) == labels, probabilities.max(1), n_bins=10
    )
    assert [b["accuracy"] for b in found] == pytest.approx(accuracy)
    assert [b["confidence"] for b in found] == pytest.approx(confidence)
    assert sum(b["examples"] for b in found) == 500


@pytest.mark.parametrize("classes", [2, 3])
def test_the_brier_score_is_that_of_scikit_learn(classes):
    probabilities, labels = random_scores(8, classes=classes)
    expected = sklearn.metrics.brier_score_loss(
        labels, probabilities if classes > 2 else probabilities[:, 1]
    )
    assert scores.calibration(probabilities, labels, bins=15)["brier"] == pytest.approx(expected)


# --- Operating points.


def points(val, test, **settings):
    return thresholds.operating_points(
        val, test, ("no", "yes"), EvaluationConfig(**settings), positive=1
    )[0]


def one_row(table, name):
    return next(row for row in table["rows"] if row["name"] == name)


def two_columns(score):
    score = np.asarray(score, float)
    return np.stack([1 - score, score], 1)


# Ten val images: sorted by score the truth reads 0 0 0 1 0 1 0 1 1 1.
VAL = (
    two_columns([0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]),
    np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1]),
)
TEST = two_columns([0.25, 0.35, 0.65, 0.85]), np.array([0, 1, 0, 1])


def test_with_equal_costs_the_threshold_makes_the_fewest_mistakes():
    # From 0.6 up: one missed (0.3) and one wrong (0.7); from 0.8 up: two missed, none wrong.
    table = points(VAL, TEST)
    row = one_row(table, "cheapest")
    assert row["threshold"] == 0.6
    assert (row["val"]["fn"], row["val"]["fp"], row["val"]["cost"]) == (1, 1, pytest.approx(0.2))
    # On test 0.65 is wrong, 0.85 right, 0.35 missed.
    assert row["test"] | {"precision": 0, "recall": 0, "f1": 0} == {
        **{"tp": 1, "fp": 1, "fn": 1, "tn": 1, "cost": pytest.approx(0.5)},
        **{"precision": 0, "recall": 0, "f1": 0},
    }


def test_dear_misses_lower_the_threshold_and_dear_false_alarms_raise_it():
    dear_miss = points(VAL, TEST, false_negative_cost=(1.0, 10.0))
    assert one_row(dear_miss, "cheapest")["threshold"] == 0.3  # none missed, two wrong
    assert one_row(dear_miss, "cheapest")["val"]["cost"] == pytest.approx(2 / 10)
    dear_alarm = points(VAL, TEST, false_positive_cost=(10.0,))
    assert one_row(dear_alarm, "cheapest")["threshold"] == 0.8  # two missed, none wrong
    assert one_row(dear_alarm, "cheapest")["val"]["cost"] == pytest.approx(2 / 10)


def test_where_no_true_image_is_worth_an_alarm_nothing_is_called_positive():
    upside_down = VAL[0], 1 - VAL[1]
    row = one_row(points(upside_down, TEST, false_positive_cost=(10.0,)), "cheapest")
    assert row["threshold"] == np.inf and row["val"]["tp"] == row["val"]["fp"] == 0


def test_be_sure_is_as_precise_as_asked_and_find_all_finds_as_much_as_asked():
    table = points(VAL, TEST, sure_precision=0.95, find_recall=0.95)
    sure, finds = one_row(table, "be sure"), one_row(table, "find all")
    assert sure["threshold"] == 0.8 and sure["val"]["precision"] == 1.0
    assert finds["threshold"] == 0.3 and finds["val"]["recall"] == 1.0


def test_a_precision_that_no_threshold_has_is_told():
    score = two_columns([0.9, 0.5, 0.1])
    table = points((score, np.array([0, 1, 0])), TEST)
    row = one_row(table, "be sure")
    assert np.isnan(row["threshold"]) and "0.95" in row["reason"] and "val" not in row


def test_without_positive_images_in_val_nothing_can_be_chosen():
    table = points((VAL[0], np.zeros(10, int)), TEST)
    assert np.isnan(one_row(table, "cheapest")["threshold"])
    assert one_row(table, "cheapest")["reason"] == "val has no examples of the class"
    assert one_row(table, "default")["test"]["recall"] == pytest.approx(0.5)


def test_the_threshold_does_not_depend_on_test():
    other = TEST[0], 1 - TEST[1]
    chosen = [one_row(points(VAL, test), "cheapest")["threshold"] for test in (TEST, other)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_cheaper_than_the_cheapest(seed):
    probabilities, labels = random_scores(seed, classes=2, ties=True)
    score, positive = probabilities[:, 1], labels == 1
    costs = (3.0, 1.0)

    def cost(threshold):
        found = thresholds.counts(score, positive, threshold)
        return costs[0] * found["fn"] + costs[1] * found["fp"]

    best = thresholds.cheapest(score, positive, costs)
    assert cost(best) == min(cost(t) for t in [*np.linspace(-0.01, 1.01, 500), *score])


# --- Findings.


def test_each_finding_turns_at_its_threshold():
    matrix = [[90, 10], [10, 90]]  # 10 % error on val
    assert judged(matrix, train_error=1.0)["no overfitting"]["level"] == "good"
    line = judged(matrix, train_error=1.0, overfitting_gap=8.9)["overfitting"]
    assert line["level"] == "warning" and "9.00 points" in line["text"]
    assert "underfitting" in judged(matrix, train_error=20.5)
    assert "fits the training images" in judged(matrix, train_error=19.5)
    assert "classes that are missed" in judged(matrix, low_recall=0.91)
    assert "every class is found" in judged(matrix, low_recall=0.90)


def test_without_a_training_error_fitting_is_not_judged():
    subjects = judged([[90, 10], [10, 90]])
    assert not {"overfitting", "no overfitting", "underfitting"} & subjects.keys()


def test_a_net_that_is_always_sure_and_sometimes_wrong_is_overconfident():
    line = judged([[70, 30], [30, 70]])["overconfident"]
    assert line["level"] == "warning" and "0.300" in line["text"]  # 1.000 said, 0.700 right


def test_only_the_worst_missed_classes_are_named():
    matrix = np.full((10, 10), 5) + 5 * np.eye(10, dtype=int)
    assert "and 5 more" in judged(matrix)["classes that are missed"]["text"]


def test_leaked_images_are_bad_if_the_error_without_them_lies_outside_the_interval():
    report = classification.report(*confused(np.array([[95, 5], [5, 95]])), ("a", "b"), DEFAULT)
    lines = {}
    for clean_error, removed in ((5.5, 10), (20.0, 60), (5.0, 0)):
        clean = {"removed": removed, "error": clean_error, "examples": 200 - removed}
        test = report | {"deduplicated": clean}
        lines[clean_error] = findings.judge({"test": test}, float("nan"), DEFAULT)[-1]
    assert [lines[e]["level"] for e in (5.5, 20.0, 5.0)] == ["warning", "bad", "good"]
    assert "20.00 % instead of 5.00 %" in lines[20.0]["text"]


# --- Settings that do not fit the data.


def test_costs_of_another_number_of_classes_are_refused():
    with pytest.raises(InputError, match="false_negative_cost has 3 numbers; give one .* or 10"):
        setup.check_costs(EvaluationConfig(false_negative_cost=(1.0, 2.0, 3.0)), 10)
    setup.check_costs(EvaluationConfig(false_negative_cost=(1.0,) * 10), 10)


def test_an_audit_of_other_images_is_refused(tmp_path):
    path = tmp_path / "audit.json"
    audit = {"dataset": {"sha256": "abc"}, "test_duplicates": ["test_7"]}
    path.write_text(json.dumps(audit))
    dataset = {"name": "cifar10", "sha256": "abc"}
    assert setup.leaked_ids(str(path), dataset) == {"test_7"}
    assert setup.leaked_ids("", dataset) is None
    with pytest.raises(InputError, match="is of other images or splits than cifar10"):
        setup.leaked_ids(str(path), dataset | {"sha256": "xyz"})
    for text in ("{}", "[1]", '{"dataset": 3}'):
        path.write_text(text)
        with pytest.raises(InputError, match="is not an audit"):
            setup.leaked_ids(str(path), dataset)
    with pytest.raises(InputError, match="is not an audit"):
        setup.leaked_ids(str(tmp_path / "none.json"), dataset)
