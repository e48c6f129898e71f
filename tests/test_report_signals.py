import json

import numpy as np
import pytest

from resnet_jax import run_folder
from resnet_jax.report import charts, outputs, style, sweep
from tests.test_report_runs import make_run

RESPONSES = [1.0, 3.0, 2.0]


def layer(number, response):
    return {
        "layer": f"layer {number}",
        "response": response,
        "activation": 1.0,
        "dead": None if number == 1 else 0.25,
        "activation_gradient": 0.0 if number == 2 else 0.5,
        "gradient": 10.0**number,
        "weight": 4.0,
        "update": 2.0,
    }


def put(folder, found):
    folder.mkdir()
    (folder / "signals.json").write_text(json.dumps(found))


def written(tmp_path, *runs):
    for name, steps in runs:
        put(make_run(tmp_path, name, 0) / run_folder.ANALYSIS, report(*steps))
    return dict(charts.draw_all(sweep.load(tmp_path)))


def report(*steps):
    moment = {"loss": 1.0, "layers": [layer(i, r) for i, r in enumerate(RESPONSES)]}
    return {
        "examples": 128,
        "split": "train",
        "dataset": "digits",
        "commit": "c" * 40,
        "moments": [{"step": step, **moment} for step in steps],
    }


def test_each_moment_of_each_run_is_a_curve_over_layers(tmp_path):
    figures = written(tmp_path, ("ResNet-14", (0, 100)), ("plain-14", (100,)))
    figure = figures["signals"]
    assert "signals_over_time" not in figures  # two moments are no film
    response, in_order, gradient, at_output, update, dead = figure.axes
    looks = sorted((line.get_color(), line.get_linestyle()) for line in response.lines)
    blue, orange = style.COLOURS[:2]
    assert looks.count((blue, "-")) == looks.count((orange, "-")) == 1
    assert len(looks) == 3 and [look for _, look in looks].count("--") == 1
    np.testing.assert_allclose(response.lines[0].get_xydata(), [[1, 1], [2, 3], [3, 2]])
    np.testing.assert_allclose(in_order.lines[0].get_ydata(), [3, 2, 1])
    np.testing.assert_allclose(gradient.lines[0].get_ydata(), [1, 10, 100])
    assert gradient.get_yscale() == "log" and response.get_yscale() == "linear"
    # What is zero is left out of a logarithmic axis, and what was not noted of any.
    np.testing.assert_allclose(at_output.lines[0].get_xydata(), [[1, 0.5], [2, 0.5]])
    np.testing.assert_allclose(dead.lines[0].get_xydata(), [[1, 25], [3, 25]])
    np.testing.assert_allclose(update.lines[0].get_ydata(), 0.5)
    (legend,) = figure.legends
    labels = sorted(text.get_text() for text in legend.get_texts())
    assert labels == [
        "ResNet-14, seed 0, step 0",
        "ResNet-14, seed 0, step 100",
        "plain-14, seed 0, step 100",
    ]
    assert "128 train images" in legend.get_title().get_text()
    assert 'alt="signals"' in outputs.write_report(tmp_path).html.read_text()


def test_a_run_that_was_looked_at_often_is_a_map_over_layers_and_steps(tmp_path):
    figures = written(tmp_path, ("ResNet-14", (0, 50, 100)), ("plain-14", (0, 100)))
    assert len(figures["signals"].axes[0].lines) == 4  # of each run the first and the last
    maps = [axes for axes in figures["signals_over_time"].axes if axes.collections]
    response, gradient, update, dead = maps[:4]
    assert response.get_ylabel().startswith("ResNet-14, seed 0")
    for axes, values in (
        (response, RESPONSES),
        (gradient, [1, 10, 100]),
        (update, [0.5, 0.5, 0.5]),
        (dead, [25, np.nan, 25]),
    ):
        drawn = np.ma.filled(axes.collections[0].get_array().astype(float), np.nan)
        np.testing.assert_allclose(drawn, np.array([values] * 3).T)
    assert gradient.collections[0].norm(10.0) == pytest.approx(0.5)  # logarithmic, 1 to 100
    assert response.collections[0].norm(2.0) == pytest.approx(0.5)


def test_runs_share_one_scale(tmp_path):
    figures = written(tmp_path, ("ResNet-14", (0, 50, 100)), ("plain-14", (0, 50, 100)))
    maps = [a.collections[0] for a in figures["signals_over_time"].axes if a.collections]
    assert maps[0].norm is maps[4].norm


def test_runs_are_told_apart_by_their_labels(tmp_path):
    for label, fields in (
        ("plain-14-frozen", {"residual": False, "depth": 14}),
        ("mine", {"residual": True, "depth": 14}),
    ):
        put(make_run(tmp_path, label, 0, **fields) / run_folder.ANALYSIS, report(0, 9))
    (legend,) = dict(charts.draw_all(sweep.load(tmp_path)))["signals"].legends
    texts = {text.get_text() for text in legend.get_texts()}
    assert {"plain-14-frozen, seed 0, step 9", "mine (ResNet-14), seed 0, step 9"} <= texts


def test_responses_that_are_decades_apart_have_a_logarithmic_axis(tmp_path):
    found = report(0, 50, 100)
    found["moments"][1]["layers"] = [layer(i, r) for i, r in enumerate([1.0, 500.0, 2.0])]
    folder = make_run(tmp_path, "ResNet-14", 0) / run_folder.ANALYSIS
    put(folder, found)
    figures = dict(charts.draw_all(sweep.load(tmp_path)))
    film = figures["signals_over_time"].axes[0].collections[0]
    assert film.norm(10**1.5) == pytest.approx(np.log(10**1.5) / np.log(500))
    assert figures["signals"].axes[0].get_yscale() == "linear"  # of the first and the last moment
    found["moments"][-1] = found["moments"][1] | {"step": 100}
    (folder / "signals.json").write_text(json.dumps(found))
    figure = dict(charts.draw_all(sweep.load(tmp_path)))["signals"]
    assert [axes.get_yscale() for axes in figure.axes[:2]] == ["log", "log"]


def test_what_was_not_finite_is_left_out_and_the_rest_is_drawn(tmp_path):
    found = report(0, 50, 100)
    found["moments"][-1]["layers"][0] = {**dict.fromkeys(layer(0, 1.0)), "layer": "stem"}
    put(make_run(tmp_path, "ResNet-14", 0) / run_folder.ANALYSIS, found)
    figures = dict(charts.draw_all(sweep.load(tmp_path)))
    style.save(figures["signals_over_time"], tmp_path / "film.png")
    last = figures["signals"].axes[0].lines[-1]
    np.testing.assert_allclose(last.get_xydata(), [[2, 3], [3, 2]])
