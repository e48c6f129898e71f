import json

import numpy as np

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
    for name, steps in (("ResNet-14", (0, 100)), ("plain-14", (100,))):
        folder = make_run(tmp_path, name, 0) / run_folder.ANALYSIS
        folder.mkdir()
        (folder / "signals.json").write_text(json.dumps(report(*steps)))
    figure = dict(charts.draw_all(sweep.load(tmp_path)))["signals"]
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
