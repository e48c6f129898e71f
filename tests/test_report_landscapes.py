import json

import numpy as np
import pytest
from matplotlib.axes import Axes

from resnet_jax import run_folder
from resnet_jax.report import charts, landscapes, outputs, style, sweep
from tests.test_report_runs import make_run

AT = [-0.5, 0.0, 0.5]


def report(factor=1.0, **changed):
    return {
        "split": "train",
        "examples": 256,
        "dataset": "digits",
        "step": 100,
        "commit": "c" * 40,
        "batch_norm": "running",
        "batch_size": 128,
        "directions": {"seed": 0, "cosine": 0.01},
        "loss": 0.01 * factor,
        "error": 1.0,
        "line": {
            "at": AT,
            "loss": [3.0 * factor, 0.01 * factor, None],
            "error": [90.0, 1.0, None],
        },
        "plane": {
            "at": AT,
            "loss": [[9.0, 3.0, None], [3.0 * factor, 0.01 * factor, 2.0], [9.0, 3.0, 9.0]],
            "error": [[90.0, 80.0, None], [80.0, 1.0, 80.0], [90.0, 80.0, 90.0]],
        },
        "sharpness": {
            "eigenvalues": [{"value": v, "residual": 0.1} for v in (50 * factor, 9.0, 4.0)],
            "lowest": {"value": -0.5, "residual": 0.1},
            "trace": {"mean": 70.0, "standard_error": 5.0},
            "curvatures": [1.0, 2.0],
            "probes": 2,
            "products": 80,
        },
        **changed,
    }


def write(run, found):
    folder = run / run_folder.ANALYSIS
    folder.mkdir()
    (folder / "landscape.json").write_text(json.dumps(found))


def drawn(folder):
    return dict(charts.draw_all(sweep.load(folder)))["landscapes"]


def test_twins_share_axes_levels_and_colours(tmp_path):
    write(make_run(tmp_path, "ResNet-14", 0), report())
    write(make_run(tmp_path, "plain-14", 0), report(factor=100.0))
    make_run(tmp_path, "plain-14", 1)  # was not measured
    figure = drawn(tmp_path)
    loss, error, eigenvalues, curvatures, one, other, bar = figure.axes
    assert {line.get_color() for line in loss.lines} == set(style.COLOURS[:2])
    by_dash = {line.get_linestyle(): line for line in loss.lines}
    np.testing.assert_allclose(by_dash["-"].get_ydata(), [3, 0.01, np.nan])
    np.testing.assert_allclose(by_dash["--"].get_ydata(), [300, 1, np.nan])
    assert loss.get_yscale() == "log" and error.get_ylim() == (0, 100)
    assert one.get_xlim() == other.get_xlim() == one.get_ylim() == (-0.5, 0.5)
    filled = [axes.collections[0] for axes in (one, other)]
    np.testing.assert_array_equal(filled[0].levels, filled[1].levels)
    assert filled[0].get_cmap().name == filled[1].get_cmap().name == "cividis"
    assert (filled[0].norm.vmin, filled[0].norm.vmax) == (filled[1].norm.vmin, filled[1].norm.vmax)
    assert sorted(axes.get_title() for axes in (one, other)) == [
        "ResNet-14, seed 0",
        "plain-14, seed 0",
    ]
    assert [text.get_text() for text in bar.get_yticklabels()] == [
        "0.01",
        "0.1",
        "1",
        "10",
        "100",
    ]  # the highest loss is 300
    (legend,) = figure.legends
    told = legend.get_title().get_text()
    assert "BN: running statistics" in told and "256 train images" in told
    tops = sorted(line.get_ydata()[0] for line in eigenvalues.lines if line.get_marker() in "os")
    np.testing.assert_allclose(tops, [-0.5, -0.5, 50, 5000])
    for place, line in enumerate(curvatures.lines):
        np.testing.assert_allclose(line.get_ydata(), [1, 2])
        np.testing.assert_allclose(np.round(line.get_xdata()), place)
    assert (eigenvalues.get_yscale(), curvatures.get_yscale()) == ("symlog", "log")
    for axes in (eigenvalues, curvatures):
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())
    assert 'alt="landscapes"' in outputs.write_report(tmp_path).html.read_text()


def test_the_second_direction_goes_up(tmp_path, monkeypatch):
    write(make_run(tmp_path, "ResNet-14", 0), report())
    drawn_values, own = [], Axes.contourf

    def kept(axes, *args, **how):
        drawn_values.append(args)
        return own(axes, *args, **how)

    monkeypatch.setattr(Axes, "contourf", kept)
    drawn(tmp_path)
    ((x, y, values, _),) = drawn_values
    assert list(x) == list(y) == AT
    np.testing.assert_allclose(10.0 ** values[1], [3, 0.01, 2])  # a row is a step of the second
    assert values.mask[0, 2] and values.mask.sum() == 1


def test_levels_enclose_what_has_a_colour_and_end_where_losses_are_as_good_as_infinite():
    def steps(*losses):
        return landscapes.levels([(None, {"plane": {"loss": [list(losses)]}})])

    np.testing.assert_allclose(
        steps(0.02, 2.0, None), 10.0 ** np.array([-2, -1.5, -1, -0.5, 0, 0.5])
    )
    assert steps(0.0, 1e30)[[0, -1]] == pytest.approx([landscapes.LOWEST, landscapes.HIGHEST])
    assert len(steps(1.0)) >= 3  # a flat plane has a colour too


@pytest.mark.parametrize("left", ["plane", "sharpness"])
def test_what_was_not_measured_has_no_panel_or_says_so(tmp_path, left):
    found = report()
    del found[left]
    write(make_run(tmp_path, "ResNet-14", 0), found)
    figure = drawn(tmp_path)
    assert len(figure.axes) == (4 if left == "plane" else 6)
    said = [text.get_text() for axes in figure.axes[2:4] for text in axes.texts]
    assert said == (["not measured"] * 2 if left == "sharpness" else [])
    style.save(figure, tmp_path / "x.png")


def test_eigenvalues_that_were_not_found_and_planes_without_a_number_are_drawn(tmp_path):
    nothing = {"eigenvalues": [], "lowest": None, "curvatures": [], "products": 1}
    found = report(sharpness=nothing, loss=None)
    found["plane"]["loss"] = [[None] * 3] * 3
    write(make_run(tmp_path, "plain-14", 0), found)
    figure = drawn(tmp_path)
    style.save(figure, tmp_path / "x.png")
    assert "loss not finite" in figure.legends[0].get_texts()[0].get_text()


def test_more_nets_than_columns_stand_in_further_rows(tmp_path):
    for seed in range(4):
        write(make_run(tmp_path, "ResNet-14", seed), report())
    panels = [axes for axes in drawn(tmp_path).axes if "seed" in axes.get_title()]
    rows = {axes.get_subplotspec().rowspan.start for axes in panels}
    assert len(panels) == 4 and rows == {0, 1}


def test_runs_that_were_not_measured_have_no_such_figure(tmp_path):
    make_run(tmp_path, "plain-14", 0)
    assert "landscapes" not in dict(charts.draw_all(sweep.load(tmp_path)))
