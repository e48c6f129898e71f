import json

import numpy as np
import pytest

from resnet_jax import run_folder
from resnet_jax.config import EvaluationConfig
from resnet_jax.metrics import classification, findings, thresholds
from resnet_jax.report import evaluation, records, style, sweep, tables
from resnet_jax.report.outputs import write_report
from tests.test_report_html import HOSTILE, browse
from tests.test_report_runs import make_run

SETTINGS = EvaluationConfig(bootstrap_samples=40)


def evaluated(root, label="ResNet-8", seed=0, *, names=("cat", "dog", "eel"), leaked=False):
    """A completed run whose evaluation is a real one, of random scores."""
    folder = make_run(root, label, seed, classes=names)
    random = np.random.RandomState(seed)
    splits, scores = {}, {}
    for split in ("val", "test"):
        labels = random.randint(0, len(names), 60)
        logits = random.normal(size=(60, len(names))) + 1.5 * np.eye(len(names))[labels]
        scores[split] = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels)
        splits[split] = classification.report(logits, labels, tuple(names), SETTINGS)
    if leaked:
        splits["test"]["deduplicated"] = {"removed": 7, "error": 43.21, "error_interval": [40, 46]}
    points = thresholds.operating_points(
        scores["val"], scores["test"], tuple(names), SETTINGS, positive=None
    )
    told = {
        "step": 100,
        "splits": splits,
        "operating_points": points,
        "findings": findings.judge(splits, 5.0, SETTINGS),
    }
    run_folder.write_json(folder / "evaluation.json", told)
    probabilities, labels = scores["test"]
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)[:5]
    np.savez(
        folder / "mistakes.npz",
        images=random.randint(0, 256, (len(wrong), 8, 8, 1)).astype(np.uint8),
        labels=labels[wrong],
        predicted=probabilities.argmax(1)[wrong],
        probability_predicted=probabilities.max(1)[wrong],
        probability_true=probabilities[wrong, labels[wrong]],
        ids=np.array([f"image_{i}" for i in wrong]),
    )
    return folder


LOOK = """
const text = (id) => document.getElementById(id).textContent;
const rows = (id) => document.querySelectorAll("#" + id + " tbody tr").length;
const traces = (id) => (document.getElementById(id).data || []).length;
const choose = (id, i) => {
  const select = document.getElementById(id);
  select.selectedIndex = i; select.dispatchEvent(new Event("change"));
};
const page_ = document.documentElement;
const found = { violations: window.violations.length, ready: page_.dataset.ready };
found.runs = document.getElementById("class-run").options.length;
found.traces = ["confusion", "roc", "precision-recall", "reliability"].map(traces);
found.rows = ["classes", "points"].map(rows);
found.pictures = document.querySelectorAll("#mistakes img").length;
found.findings = document.querySelectorAll("#run-findings li").length;
const counts = document.getElementById("confusion").data[0].text[0];
document.getElementById("as-rates").click();
found.rates = document.getElementById("confusion").data[0].text[0].map(Number);
found.sum = counts.reduce((a, b) => a + b, 0);
const changes = (id, by) => {
  const before = text(id); choose(by, 1); return text(id) !== before;
};
found.otherClass = changes("points", "point-class");
found.otherSplit = changes("points", "point-split");
found.otherRun = changes("summary", "class-run");
found.wide = page_.scrollWidth - page_.clientWidth;
found.requests = performance.getEntriesByType("resource").map((e) => e.name);
found.elements = document.querySelectorAll("img[src='x'], svg[onload], [onmouseover]").length;
page_.dataset.found = JSON.stringify(found);
"""


def test_the_page_shows_each_runs_evaluation_and_its_choices_work(tmp_path):
    for seed in range(2):
        evaluated(tmp_path / "runs", seed=seed)
    found, console = browse(
        write_report(tmp_path / "runs").html, tmp_path, "--window-size=1200,900", probe=LOOK
    )
    assert console == []
    assert sum(found.pop("rates")) == pytest.approx(100, abs=0.2)
    assert found.pop("sum") > 5
    assert found == {
        **{"violations": 0, "ready": "yes", "requests": [], "elements": 0, "wide": 0},
        # Two runs with val and test; 3 classes, and chance in the ROC plot; the diagonal, the
        # shares and the counts; 8 thresholds of the grid and 4 with a name.
        **{"runs": 4, "traces": [1, 4, 3, 3], "rows": [3, 12], "pictures": 10},
        **{"findings": 5, "otherClass": True, "otherSplit": True, "otherRun": True},
    }


@pytest.mark.parametrize("options", [["--window-size=500,900"], ["--force-dark-mode"]])
def test_hostile_class_names_do_nothing(tmp_path, options):
    evaluated(tmp_path / "runs", names=HOSTILE)
    evaluated(tmp_path / "runs", names=HOSTILE, seed=1)
    found, console = browse(write_report(tmp_path / "runs").html, tmp_path, *options, probe=LOOK)
    assert console == [] and found["requests"] == [] and found["violations"] == 0
    assert found["elements"] == 0 and found["ready"] == "yes" and found["wide"] <= 0


def test_a_report_on_one_run_has_its_findings_above_its_curves(tmp_path):
    evaluated(tmp_path)
    page = write_report(tmp_path).html.read_text()
    assert page.index("better than the majority class") < page.index('id="curves"')
    assert 'id="run-findings"' not in page.partition("<script")[0]


def test_a_report_on_several_runs_has_a_table_of_findings(tmp_path):
    evaluated(tmp_path)
    evaluated(tmp_path, seed=1)
    page = write_report(tmp_path).html.read_text().partition("<script")[0]
    assert page.index('id="curves"') < page.index('id="findings"')
    table = page.partition('<table id="findings">')[2].partition("</table>")[0]
    assert table.count("<tr>") == 2 and "better than the majority class" in table


def test_the_error_without_leaked_images_is_an_extra_column_where_there_is_an_audit(tmp_path):
    evaluated(tmp_path, leaked=True)
    evaluated(tmp_path, seed=1)
    table = tables.by_run(sweep.load(tmp_path))
    column = table.columns.index("test error % without duplicates")
    assert [row[column] for row in table.rows] == ["43.21", "-"]
    assert column in table.numeric and table.columns[column + 1] == "commit"


def test_without_an_audit_there_is_no_such_column(tmp_path):
    evaluated(tmp_path)
    assert not any("duplicates" in name for name in tables.by_run(sweep.load(tmp_path)).columns)


def test_the_summary_has_values_intervals_and_reasons():
    logits = np.array([[2.0, 0.0]] * 50)  # one class alone, and always named
    report = classification.report(logits, np.zeros(50, int), ("a", "b"), SETTINGS)
    told = run_folder.without_nan(report)
    rows = {row[0]: row[1:] for row in evaluation.summary(told)}
    assert rows["MCC"] == ["undefined", "", "all examples are of one class"]
    # Wilson: 0 of 50 wrong has the upper bound z^2 / (n + z^2) = 3.8415 / 53.8415.
    assert rows["error %"][:2] == ["0.00", "0.00 to 7.13"]
    assert "top-5 error %" not in rows


def test_damaged_pictures_are_told_and_cost_nothing_else(tmp_path):
    folder = evaluated(tmp_path)
    (folder / "mistakes.npz").write_bytes(b"PK\x03\x04 not an archive")
    page = write_report(tmp_path).html.read_text()
    assert "mistakes.npz is damaged" in page and "better than the majority class" in page


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["findings"], [3]),
        (["findings"], [{"level": "good"}]),
        (["operating_points"], [{"class": "cat"}]),
        (["splits", "test", "ranking"], [1]),
        (["splits", "test", "calibration"], 7),
        (["splits", "test", "error_interval"], ["low", "high"]),
    ],
)
def test_a_damaged_evaluation_leaves_its_run_out_by_name(tmp_path, path, value):
    evaluated(tmp_path, seed=1)
    folder = evaluated(tmp_path)
    told = json.loads((folder / "evaluation.json").read_text())
    part = told
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / "evaluation.json").write_text(json.dumps(told))
    found = sweep.load(tmp_path)
    assert [item.name for item in found.excluded] == [folder.name]
    assert "evaluation.json is damaged" in found.excluded[0].reason


def test_evaluations_of_earlier_versions_are_shown_as_far_as_they_go(tmp_path):
    run = records.load(make_run(tmp_path, "plain-8"))
    view = evaluation.view(run.evaluation)
    assert view["findings"] == [] and view["points"] == []
    assert view["splits"]["test"]["rows"][0][:2] == [["0.500", ""], ["0.250", ""]]
    assert write_report(tmp_path).html.is_file()


def test_a_part_of_a_data_set_is_not_called_by_its_name_alone():
    whole = {"name": "cifar10", "original": True, "classes": 10}
    assert style.dataset_name(whole) == "cifar10"
    assert style.dataset_name(whole | {"classes": 2}) == "cifar10, 2 of its classes"
