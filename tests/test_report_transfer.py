"""What a report says of nets that were trained before."""

import json

import numpy as np
import pytest
import scipy.stats

from resnet_jax import run_folder
from resnet_jax.report import charts, outputs, sweep, tables, transfer
from resnet_jax.report.outputs import write_report
from tests.test_report_runs import make_run

BINARY = {"name": "cifar10", "sha256": "e" * 64, "original": True, "classes": 2}
# PAPERS' matrix: TP 745, FP 221, FN 255, TN 779.
MATRIX = (745, 221, 255, 779)


def evaluation(tp, fp, fn, tn, *, area=0.8, step=100):
    """A final report on binary images, written as `metrics.classification` does, areas apart."""
    count = tp + fp + fn + tn
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    positive = {
        **{"class": "automobile", "support": tp + fn, "precision": precision, "recall": recall},
        **{"f1": 2 * precision * recall / (precision + recall)},
        **{"precision_interval": [0.7, 0.8], "recall_interval": [0.6, 0.9]},
    }
    negative = {"class": "airplane", "support": tn + fp, "precision": 0.1, "recall": 0.1, "f1": 0.1}
    areas = {
        **{"class": "automobile", "roc_auc": area, "average_precision": area},
        "roc_auc_interval": [area - 0.01, area + 0.01],
        "roc": {"x": [0.0, fp / (fp + tn), 1.0], "y": [0.0, recall, 1.0]},
        "precision_recall": {"x": [0.0, 1.0], "y": [1.0, 0.5]},
    }
    test = {
        **{"accuracy": (tp + tn) / count, "error": 100 * (fp + fn) / count, "examples": count},
        **{"error_interval": [22.0, 25.7], "per_class": [negative, positive]},
        "confusion_matrix": [[tn, fp], [fn, tp]],
        "averages": {"macro": {"precision": 0.11, "recall": 0.12, "f1": 0.13}},
        "ranking": {"per_class": [areas], "macro": {"roc_auc": area, "average_precision": area}},
    }
    return {"step": step, "train_error": 5.0, "splits": {"test": test}}


def run(root, label, seed, matrix=MATRIX, *, size=32, wrong=(), cost=None, **fields):
    """A run with a frozen backbone, and predictions of 100 images of which some are wrong."""
    settings = {
        **{"data.name": "cifar10", "data.classes": ("airplane", "automobile")},
        **{"data.resize": size, "transfer.trained_from": "head", "model.family": "swin"},
        **{"model.variant": "tiny", "model.batch_norm": "none", **fields},
    }
    folder = make_run(
        *(root, label, seed),
        residual=True,
        depth=20,
        fields=settings,
        dataset=BINARY,
        classes=("airplane", "automobile"),
    )
    labels = np.arange(100) % 2
    if wrong:  # the evaluation has to be that of the predictions
        missed = sum(labels[i] for i in wrong)
        matrix = (50 - missed, len(wrong) - missed, missed, 50 - len(wrong) + missed)
        matrix = tuple(map(int, matrix))
    (folder / run_folder.EVALUATION).write_text(json.dumps(evaluation(*matrix)))
    logits = np.eye(2)[np.where(np.isin(np.arange(100), list(wrong)), 1 - labels, labels)]
    arrays = {"test_logits": logits, "test_labels": labels}
    arrays["test_ids"] = np.array([f"t{i}" for i in range(100)])
    np.savez(folder / run_folder.PREDICTIONS, **arrays)
    if cost:
        (folder / run_folder.ANALYSIS).mkdir()
        (folder / run_folder.ANALYSIS / run_folder.INFERENCE).write_text(json.dumps(cost))
    return folder


COST = {
    **{"parameters": 27_520_892, "trained_parameters": 1538, "multiply_adds": 112_700_000},
    **{"milliseconds_per_image": 5.06, "milliseconds_range": [4.8, 5.77], "batch": 32},
    **{"device": "cpu", "hardware": {"processor": "Test CPU", "usable_cores": 1}},
}


def of(make, found):
    """A table of a sweep."""
    return make(found, transfer.entries(found))


def cell(table, label, column):
    (row,) = [row for row in table.rows if row[0] == label]
    return row[table.columns.index(column)]


def test_measures_are_those_of_the_published_matrix_with_intervals_over_images(tmp_path):
    run(tmp_path, "resnet50-32px", 0)
    table = of(transfer.table, sweep.load(tmp_path))
    assert cell(table, "resnet50-32px", "accuracy (95 %)") == "0.762 (0.743 to 0.780)"
    assert cell(table, "resnet50-32px", "precision (95 %)") == "0.771 (0.700 to 0.800)"
    assert cell(table, "resnet50-32px", "recall (95 %)") == "0.745 (0.600 to 0.900)"
    assert cell(table, "resnet50-32px", "F1 (95 %)") == "0.758"
    assert cell(table, "resnet50-32px", "ROC area (95 %)") == "0.800 (0.790 to 0.810)"
    assert cell(table, "resnet50-32px", "net") == "Swin-T"
    assert cell(table, "resnet50-32px", "n") == "1"


def test_with_several_seeds_intervals_are_students_over_seeds(tmp_path):
    shares = []
    for seed, right in enumerate((700, 740, 780)):
        run(tmp_path, "swin-32px", seed, (right, 221, 1000 - right, 779))
        shares.append((right + 779) / 2000)
    low, high = scipy.stats.t.interval(
        0.95, 2, np.mean(shares), np.std(shares, ddof=1) / np.sqrt(3)
    )
    table = of(transfer.table, sweep.load(tmp_path))
    want = f"{np.mean(shares):.3f} ({low:.3f} to {high:.3f})"
    assert cell(table, "swin-32px", "accuracy (95 %)") == want


def test_several_classes_are_measured_by_their_means(tmp_path):
    folder = run(tmp_path, "swin-32px", 0)
    told = json.loads((folder / run_folder.EVALUATION).read_text())
    ranking = told["splits"]["test"]["ranking"]
    ranking["per_class"] = 2 * ranking["per_class"]
    (folder / run_folder.EVALUATION).write_text(json.dumps(told))
    table = of(transfer.table, sweep.load(tmp_path))
    found = [cell(table, "swin-32px", f"{n} (95 %)") for n in ("precision", "recall", "F1")]
    assert found == ["0.110", "0.120", "0.130"]


def test_what_was_trained_and_from_which_weights_stands_in_words(tmp_path):
    weights = {"model.weights": "runs/pretrained/backbone-seed{seed}", "transfer.new_head": True}
    run(tmp_path, "a", 0, **weights)
    run(tmp_path, "b", 0, **{**weights, "model.weights": "torchvision/swin_t.IMAGENET1K_V1"})
    run(tmp_path, "c", 0, **{"transfer.trained_from": "stage 4"})
    run(tmp_path, "d", 0, **{"transfer.trained_from": "", "transfer.unfreeze_interval": 9})
    table = of(transfer.table, sweep.load(tmp_path))
    words = [(row[0], row[2], row[3]) for row in table.rows]
    assert words == [
        ("a", "backbone", "head"),
        ("b", "swin_t.IMAGENET1K_V1", "head"),
        ("c", "random", "from stage 4"),
        ("d", "random", "all, part by part"),
    ]


def test_sizes_are_compared_with_one_another_and_nets_within_a_size(tmp_path):
    for size in (32, 64):
        run(tmp_path, f"swin-{size}px", 0, size=size, wrong=range(size // 8))
        run(tmp_path, f"resnet-{size}px", 0, size=size, wrong=range(10))
    found = sweep.load(tmp_path)
    assert not found.excluded
    entries = transfer.entries(found)
    assert [(e.series, e.size) for e in entries] == [
        *(("resnet", 32), ("swin", 32), ("resnet", 64), ("swin", 64))
    ]
    pairs = of(transfer.paired_table, found)
    assert [row[:3] for row in pairs.rows] == [
        ("resnet-32px", "swin-32px", "0"),
        ("resnet-64px", "swin-64px", "0"),
    ]
    # 10 wrong against 4 of the same ones: 6 discordant, p = 2 / 2^6.
    first = dict(zip(pairs.columns, pairs.rows[0], strict=True))
    assert (first["only a wrong"], first["only b wrong"]) == ("6", "0")
    assert float(first["p"]) == pytest.approx(2 / 2**6, rel=1e-2)
    figures = dict(charts.draw_all(found))
    accuracy, area = figures["transfer"].axes
    assert accuracy.get_ylabel() == "accuracy, test" and area.get_ylabel() == "ROC area, test"
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["32", "64"]
    shown = [axes for axes in figures["roc"].axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["32 pixels", "64 pixels"]
    assert "pair" not in figures and "depth" not in figures


def test_at_one_size_all_measures_stand_side_by_side_with_the_curves(tmp_path):
    run(tmp_path, "swin-32px", 0)
    run(tmp_path, "swin-32px", 1)
    figures = dict(charts.draw_all(sweep.load(tmp_path)))
    measures, curves = figures["transfer"].axes
    names = [text.get_text() for text in measures.get_xticklabels()]
    assert names == ["accuracy", "precision", "recall", "F1", "ROC area"]
    assert len(curves.lines) == 3  # chance, and one a seed
    np.testing.assert_allclose(curves.lines[1].get_xydata()[1], [0.221, 0.745])
    assert "roc" not in figures


def test_the_sentences_tell_the_best_and_what_may_be_chance(tmp_path):
    for seed in range(3):
        run(tmp_path, "good-32px", seed, (900 + seed, 100, 100 - seed, 900))
        run(tmp_path, "near-32px", seed, (890 + 15 * seed, 100, 110 - 15 * seed, 900))
        run(tmp_path, "poor-32px", seed, (500 + seed, 100, 500 - seed, 900))
    (told,) = transfer.sentences(transfer.entries(sweep.load(tmp_path)))
    best, rest = told.split("good is ") if "near is best" in told else told.split("near is ")
    second, poor = rest.split("poor is ")
    assert best.startswith("At 32 pixels") and "n = 3" in best
    assert "which may be chance" in second and "which may be chance" not in poor
    assert poor.startswith("20.") and "paired over 3 seeds" in poor


def test_costs_stand_with_where_they_were_measured(tmp_path):
    run(tmp_path, "swin-32px", 0, cost=COST)
    table = of(transfer.cost_table, sweep.load(tmp_path))
    assert table.rows == (
        (
            *("swin-32px", "Swin-T", "32", "27,520,892", "1,538", "112.7"),
            *("5.060", "4.800", "5.770"),
        ),
    )
    assert table.facts["time measured on"] == "cpu (Test CPU, 1 core), batch 32"
    # Without a measurement there is no table of them, and everything else is there.
    run(tmp_path / "other", "swin-32px", 0)
    assert of(transfer.cost_table, sweep.load(tmp_path / "other")) is None


def test_the_page_asks_which_net_is_best_and_nothing_of_depth(tmp_path):
    for label in ("swin-32px", "resnet-32px"):
        run(tmp_path, label, 0, cost=COST)
    paths = write_report(tmp_path)
    page = paths.html.read_text()
    assert transfer.QUESTION in page and 'id="table-transfer"' in page
    assert 'id="table-pairs"' in page and 'id="table-costs"' in page
    assert "degradation" not in page.split('id="data"')[0]
    assert 'id="table-published"' not in page
    assert paths.text.startswith("At 32 pixels")
    assert {path.name for path in paths.tables} >= {"transfer.csv", "pairs.md", "costs.tex"}


def test_a_sweep_of_depths_knows_nothing_of_transfer(tmp_path):
    make_run(tmp_path, "plain-20", 0)
    found = sweep.load(tmp_path)
    assert transfer.entries(found) == [] and transfer.findings(found) is None
    paths = outputs.write_report(tmp_path)
    assert 'id="table-transfer"' not in paths.html.read_text()
    assert paths.text == paths.verdict.text


def test_a_label_without_two_classes_predictions_or_costs_has_dashes(tmp_path):
    folder = run(tmp_path, "swin-32px", 0)
    told = json.loads((folder / run_folder.EVALUATION).read_text())
    del told["splits"]["test"]["ranking"]
    (folder / run_folder.EVALUATION).write_text(json.dumps(told))
    (folder / run_folder.PREDICTIONS).unlink()
    table = of(transfer.table, sweep.load(tmp_path))
    assert cell(table, "swin-32px", "ROC area (95 %)") == tables.NOTHING
    assert of(transfer.paired_table, sweep.load(tmp_path)) is None
    write_report(tmp_path)
