import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.metrics import accumulate, classification
from resnet_jax.metrics.accumulate import ClassificationMetrics, Top1Error, Window
from resnet_jax.metrics.sinks import TensorBoard
from resnet_jax.metrics.writer import MetricsWriter


@pytest.fixture(autouse=True)
def lenient_promotion():
    """clu mixes whole numbers with floating ones, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def one_hot(predicted, classes, scale=1.0):
    return scale * np.eye(classes, dtype=np.float32)[np.asarray(predicted)]


def measured(predicted, labels, loss=None, mask=None):
    """Metrics of one batch of three classes."""
    loss = np.zeros(len(labels)) if loss is None else loss
    return ClassificationMetrics.single_from_model_output(
        logits=jnp.asarray(one_hot(predicted, 3)),
        labels=jnp.asarray(labels, jnp.int32),
        loss=jnp.asarray(loss, jnp.float32),
        mask=None if mask is None else jnp.asarray(mask),
    )


def test_the_error_is_the_share_of_wrong_predictions_in_percent():
    metric = Top1Error.from_model_output(
        logits=jnp.asarray(one_hot([0, 1, 2, 0], 3)), labels=jnp.asarray([0, 1, 1, 2])
    )
    assert float(metric.compute()) == 50.0


def test_no_error_is_0_and_nothing_right_is_100_percent():
    assert accumulate.merge([measured([0, 1, 2], [0, 1, 2])])["error"] == 0.0
    assert accumulate.merge([measured([1, 2, 0], [0, 1, 2])])["error"] == 100.0


def test_masked_examples_count_neither_above_nor_below_the_line():
    part = measured([0, 1, 2, 2], [0, 0, 2, 0], loss=[1, 2, 3, 100], mask=[True, True, True, False])
    merged = accumulate.merge([part])
    assert merged["error"] == pytest.approx(100 / 3)
    assert merged["loss"] == pytest.approx(2.0)


def test_batches_weigh_by_their_examples():
    # 1 of 4 wrong, then 1 of 1: 2 of 5, not the mean of 25 % and 100 %.
    parts = [
        measured([0, 0, 0, 1], [0, 0, 0, 0], loss=[1, 1, 1, 1]),
        measured([1], [0], loss=[6]),
    ]
    merged = accumulate.merge(parts)
    assert merged["error"] == pytest.approx(40.0)
    assert merged["loss"] == pytest.approx(2.0)


@pytest.mark.parametrize("sizes", [(10,), (5, 5), (1, 9), (3, 3, 3, 1), (1,) * 10, (0, 10)])
def test_merging_any_split_of_the_examples_equals_one_pass(sizes):
    random = np.random.RandomState(0)
    predicted, labels = random.randint(0, 3, 10), random.randint(0, 3, 10)
    loss = random.uniform(0, 3, 10)
    edges = np.cumsum([0, *sizes])
    parts = [
        measured(predicted[a:b], labels[a:b], loss[a:b])
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    merged = accumulate.merge(parts)
    assert merged["error"] == pytest.approx(100 * np.mean(predicted != labels))
    assert merged["loss"] == pytest.approx(loss.mean(), rel=1e-6)


def test_metrics_of_several_steps_in_one_call_merge_like_single_ones():
    parts = [measured([0, 1], [0, 2], loss=[1, 3]), measured([2, 2], [2, 2], loss=[5, 7])]
    assert accumulate.merge(parts) == {"error": 25.0, "loss": 4.0}


def test_metrics_over_no_examples_are_not_a_number_rather_than_zero():
    merged = accumulate.merge([measured([0, 1], [0, 2], mask=[False, False])])
    assert np.isnan(merged["error"]) and np.isnan(merged["loss"])


def test_a_window_has_means_over_its_steps_and_starts_again_after_a_log_line():
    first = Window.of_step(measured([0], [0], loss=[1]), jnp.asarray(2.0))
    second = Window.of_step(measured([0], [1], loss=[3]), jnp.asarray(6.0))
    both = Window.zero().add(first, restart=jnp.array(False)).add(second, restart=jnp.array(False))
    assert both.compute() == pytest.approx({"loss": 2.0, "error": 50.0, "gradient_norm": 4.0})
    again = both.add(second, restart=jnp.array(True))
    assert again.compute() == pytest.approx({"loss": 3.0, "error": 100.0, "gradient_norm": 6.0})
    assert np.isnan(list(Window.zero().compute().values())).all()


def from_confusion(matrix):
    pairs = [
        (true, predicted)
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        for _ in range(count)
    ]
    labels, predicted = np.array(pairs).T
    return one_hot(predicted, len(matrix)), labels


def test_precision_recall_and_f1_are_those_worked_out_by_hand():
    matrix = [[45, 5], [3, 47]]
    report = classification.report(*from_confusion(matrix), ("cat", "dog"))
    assert report["confusion_matrix"] == matrix
    assert report["examples"] == 100
    assert report["accuracy"] == pytest.approx(0.92)
    assert report["error"] == pytest.approx(8.0)
    cat, dog = report["per_class"]
    # 45 / (45 + 3), 45 / (45 + 5), 2 * 45 / (48 + 50)
    assert (cat["precision"], cat["recall"]) == pytest.approx((0.9375, 0.9))
    assert cat["f1"] == pytest.approx(90 / 98)
    # 47 / (47 + 5), 47 / (47 + 3), 2 * 47 / (52 + 50)
    assert (dog["precision"], dog["recall"]) == pytest.approx((47 / 52, 0.94))
    assert dog["f1"] == pytest.approx(94 / 102)
    assert [(row["class"], row["support"]) for row in report["per_class"]] == [
        ("cat", 50),
        ("dog", 50),
    ]


def test_the_report_is_that_of_scikit_learn_on_random_predictions():
    random = np.random.RandomState(0)
    logits = random.normal(size=(200, 4)).astype(np.float32)
    labels = random.randint(0, 4, 200)
    report = classification.report(logits, labels, ("a", "b", "c", "d"))
    expected = sklearn.metrics.classification_report(
        labels, logits.argmax(1), target_names=["a", "b", "c", "d"], output_dict=True
    )
    assert report["accuracy"] == pytest.approx(expected["accuracy"])
    for row in report["per_class"]:
        reference = expected[row["class"]]
        assert row["precision"] == pytest.approx(reference["precision"])
        assert row["recall"] == pytest.approx(reference["recall"])
        assert row["f1"] == pytest.approx(reference["f1-score"])
        assert row["support"] == reference["support"]
    assert report["loss"] == pytest.approx(
        sklearn.metrics.log_loss(
            labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True, dtype=np.float64)
        ),
        rel=1e-5,
    )


def test_rows_of_the_confusion_matrix_are_true_classes():
    # One example of class 0 that is taken for class 2.
    report = classification.report(one_hot([2], 3), np.array([0]), ("a", "b", "c"))
    assert report["confusion_matrix"] == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_what_is_undefined_is_not_a_number():
    # Class 2 is neither predicted nor there; class 1 is there but never predicted.
    report = classification.report(one_hot([0, 0, 0], 3), np.array([0, 0, 1]), ("a", "b", "c"))
    first, second, third = report["per_class"]
    assert (first["precision"], first["recall"]) == pytest.approx((2 / 3, 1.0))
    assert np.isnan(second["precision"]) and second["recall"] == 0.0
    assert np.isnan(third["precision"]) and np.isnan(third["recall"]) and np.isnan(third["f1"])
    assert third["support"] == 0


def test_the_loss_of_a_net_that_knows_nothing_is_the_logarithm_of_the_classes():
    logits, labels = np.zeros((4, 10), np.float32), np.arange(4)
    report = classification.report(logits, labels, tuple("0123456789"))
    assert report["loss"] == pytest.approx(np.log(10))


def test_the_loss_of_huge_logits_is_finite():
    # -log softmax([1000, 0])[1] = 1000
    report = classification.report(np.float32([[1000, 0]]), np.array([1]), ("a", "b"))
    assert report["loss"] == pytest.approx(1000.0)


def test_no_examples_cannot_be_measured():
    with pytest.raises(ValueError, match="no examples"):
        classification.report(np.zeros((0, 2), np.float32), np.zeros(0, int), ("a", "b"))


def test_records_are_read_in_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert run_folder.read_records(path) == [{"step": 1}, {"step": 2}]


def test_a_missing_or_empty_metrics_file_has_no_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert run_folder.read_records(path) == []
    path.write_text("")
    assert run_folder.read_records(path) == []


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3}', "\x00\x00"])
def test_a_last_line_that_was_not_finished_is_left_out(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + tail)
    assert [record["step"] for record in run_folder.read_records(path)] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 is damaged"):
        run_folder.read_records(path)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, steps, *, after_step, tensorboard=False):
    sinks = [TensorBoard(workdir)] if tensorboard else []
    writer = MetricsWriter(workdir, after_step=after_step, sinks=sinks)
    for step in steps:
        writer.write(step, "train", {"loss": float(step)})
        writer.write(step, "val", {"error": 10.0 * step})
    writer.close()


def test_a_record_has_its_step_its_split_and_its_values(tmp_path):
    write(tmp_path, [1], after_step=0)
    assert lines(tmp_path) == [
        {"step": 1, "split": "train", "loss": 1.0},
        {"step": 1, "split": "val", "error": 10.0},
    ]


def test_a_resumed_run_has_every_record_once(tmp_path):
    write(tmp_path, [1, 2, 3], after_step=0)
    # The checkpoint of step 1 was the last one: steps 2 and 3 are made again.
    write(tmp_path, [2, 3, 4], after_step=1)
    steps = [(record["step"], record["split"]) for record in lines(tmp_path)]
    assert steps == [(step, split) for step in (1, 2, 3, 4) for split in ("train", "val")]


def test_a_resumed_run_drops_the_record_that_was_being_written(tmp_path):
    write(tmp_path, [1, 2], after_step=0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "spl')
    write(tmp_path, [3], after_step=2)
    assert [record["step"] for record in lines(tmp_path)] == [1, 1, 2, 2, 3, 3]


def test_a_run_that_starts_anew_drops_all_older_records(tmp_path):
    write(tmp_path, [1, 2], after_step=0)
    write(tmp_path, [1], after_step=0)
    assert [record["step"] for record in lines(tmp_path)] == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_becomes_null_and_is_marked(tmp_path, value):
    writer = MetricsWriter(tmp_path, after_step=0)
    writer.write(1, "train", {"loss": value, "error": 50.0})
    writer.write(2, "train", {"loss": 1.0, "error": 50.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    first, second = lines(tmp_path)
    assert first == {"step": 1, "split": "train", "loss": None, "error": 50.0, "nonfinite": True}
    assert "nonfinite" not in second


def test_records_can_be_read_while_the_run_goes_on(tmp_path):
    writer = MetricsWriter(tmp_path, after_step=0)
    writer.write(1, "train", {"loss": 1.0})
    assert [record["step"] for record in run_folder.read_records(tmp_path / "metrics.jsonl")] == [1]
    writer.close()


def events(workdir):
    accumulator = EventAccumulator(str(workdir / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_written(tmp_path):
    write(tmp_path, [1, 2], after_step=0, tensorboard=True)
    assert events(tmp_path) == {
        "train/loss": [(1, 1.0), (2, 2.0)],
        "val/error": [(1, 10.0), (2, 20.0)],
    }


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    write(tmp_path, [1, 2, 3], after_step=0, tensorboard=True)
    write(tmp_path, [2, 4], after_step=1, tensorboard=True)
    assert events(tmp_path)["train/loss"] == [(1, 1.0), (2, 2.0), (4, 4.0)]


def test_without_tensorboard_there_are_no_event_files(tmp_path):
    write(tmp_path, [1], after_step=0, tensorboard=False)
    assert not (tmp_path / "tensorboard").exists()
