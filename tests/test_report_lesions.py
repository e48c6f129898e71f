import json

import numpy as np

from resnet_jax import run_folder
from resnet_jax.report import charts, outputs, sweep
from tests.test_report_runs import make_run


def report(**changed):
    return {
        "error": 10.0,
        "split": "val",
        "examples": 144,
        "dataset": "digits",
        "step": 100,
        "draws": 2,
        "commit": "c" * 40,
        "single": [
            {"stage": 1 + i // 2, "block": 1 + i % 2, "changes_shape": i in (2, 4), "error": 20 + i}
            for i in range(6)
        ],
        "several": [{"removed": 2, "errors": [30.0, 50.0]}],
        "truncated": [
            {"blocks_per_stage": 2, "error": 10.0},
            {"blocks_per_stage": 1, "error": 60.0},
        ],
        "reordered": [{"swaps": 1, "kendall_tau": 0.5, "error": 40.0}],
        "paths": [
            {"length": 1, "share_of_paths": 0.2, "norm": 3.0, "share_of_gradient": 0.75},
            {"length": 3, "share_of_paths": 0.2, "norm": 1.0, "share_of_gradient": 0.25},
        ],
        **changed,
    }


def write(run, found):
    folder = run / run_folder.ANALYSIS
    folder.mkdir()
    (folder / "lesion.json").write_text(json.dumps(found))


def test_what_was_found_in_each_run_is_drawn_and_stands_on_the_page(tmp_path):
    write(make_run(tmp_path, "ResNet-14", 0), report())
    plain = report(error=12.0)
    del plain["paths"]
    write(make_run(tmp_path, "plain-14", 0), plain)
    make_run(tmp_path, "plain-14", 1)  # was not taken apart
    figure = dict(charts.draw_all(sweep.load(tmp_path)))["lesions"]
    single, several, truncated, reordered, paths, notes = figure.axes
    assert len(reordered.lines) == 2 and len(paths.lines) == 3
    np.testing.assert_allclose(single.lines[0].get_ydata(), range(20, 26))
    np.testing.assert_allclose(several.lines[0].get_xydata(), [[0, 12], [2, 40]])
    np.testing.assert_allclose(truncated.lines[0].get_xydata(), [[2, 10], [1, 60]])
    # Half of the paths have one of the two lengths each, and three quarters of the gradient.
    np.testing.assert_allclose(paths.lines[1].get_ydata(), [75, 25])
    np.testing.assert_allclose(paths.lines[2].get_ydata(), [50, 50])
    for axes in figure.axes:
        for line in filter(lambda line: len(line.get_xdata()), axes.lines):
            low, high = sorted(axes.get_xlim())
            assert low <= min(line.get_xdata()) and max(line.get_xdata()) <= high
    assert truncated.xaxis_inverted() and reordered.xaxis_inverted()
    labels = [text.get_text() for text in notes.get_legend().get_texts()]
    assert sorted(labels) == [
        "ResNet-14, seed 0: 10.0 % intact",
        "plain-14, seed 0: 12.0 % intact",
    ]
    assert "144 val images" in notes.texts[0].get_text()
    paths_written = outputs.write_report(tmp_path)
    assert 'alt="lesions"' in paths_written.html.read_text()


def test_runs_that_were_not_taken_apart_have_no_such_figure(tmp_path):
    make_run(tmp_path, "plain-14", 0)
    assert "lesions" not in dict(charts.draw_all(sweep.load(tmp_path)))
