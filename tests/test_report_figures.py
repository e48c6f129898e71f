import hashlib

import matplotlib
import numpy as np
import pytest

from resnet_jax.report import charts, style, sweep
from tests.test_report_runs import make_run, make_sweep


def drawn(root):
    return dict(charts.draw_all(sweep.load(root)))


def test_a_sweep_has_the_papers_figures(tmp_path):
    assert set(drawn(make_sweep(tmp_path))) == {"pair", "plain", "depth"}


def test_the_pair_has_plain_left_residual_right_on_equal_axes_with_one_colour_a_depth(tmp_path):
    left, right = drawn(make_sweep(tmp_path, depths=(8, 14)))["pair"].axes
    assert (left.get_title(), right.get_title()) == ("plain nets", "residual nets")
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    for axes in (left, right):
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        # For each depth training dashed, then test solid.
        blue, orange = style.COLOURS[:2]
        assert looks == [(blue, "--"), (blue, "-"), (orange, "--"), (orange, "-")]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["plain-8 (n = 3)", "plain-14 (n = 3)", "training error", "test error"]


def test_figures_say_what_the_band_is_and_where_numbers_come_from(tmp_path):
    for name, figure in drawn(make_sweep(tmp_path, seeds=3)).items():
        note = figure.get_supxlabel()
        for fact in ("95 % t-interval of 3 seeds", "digits", "aaaaaaaaaaaa", "Test CPU", "n = 3"):
            assert fact in note, (name, fact)
    two = drawn(make_sweep(tmp_path / "two", seeds=2))["pair"]
    assert "range of 2 seeds" in two.get_supxlabel()


def test_long_runs_are_counted_in_units_of_1e4_and_drawn_up_to_20_percent_too(tmp_path):
    for seed in (0, 1):
        fields = {"train.steps": 64_000}
        make_run(tmp_path, "plain-20", seed, test=9.0, fields=fields, interval=6400)
        make_run(tmp_path, "plain-110", seed, train=64, test=65, fields=fields, interval=6400)
    found = drawn(tmp_path)
    (axes,) = found["pair"].axes
    assert axes.get_xlabel() == "iteration (1e4)" and axes.get_xlim() == (0, 6.4)
    (axes,) = found["pair_to_20_percent"].axes
    assert axes.get_ylim() == (0, 20)
    assert "plain-110 ends at 65.0 % (test)" in found["pair_to_20_percent"].get_supxlabel()


def test_error_over_depth_shows_means_and_intervals(tmp_path):
    for seed, train in enumerate((3.0, 5.0, 10.0)):
        make_run(tmp_path, "plain-8", seed, train=train)
        make_run(tmp_path, "plain-14", seed, train=50.0)
    train, _ = drawn(tmp_path)["depth"].axes
    np.testing.assert_allclose(train.lines[0].get_ydata(), [6, 50])
    (bars,) = train.containers
    (segment, _) = bars[2][0].get_segments()
    # 6 +- t(0.975, 2) * sqrt(13 / 3), but no error is below 0.
    np.testing.assert_allclose(segment[:, 1], [0, 6 + 4.302652729911275 * np.sqrt(13 / 3)])


def test_a_single_runs_figure_has_four_panels(tmp_path):
    figure = drawn(make_run(tmp_path, "plain-8"))["run"]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["loss (nats)", "error (%)", "learning rate", "gradient norm"]


def test_learning_rates_by_depth_become_a_heat_map(tmp_path):
    for rate, train in ((0.1, 40.0), (0.01, 10.0)):
        for depth in (8, 14):
            fields = {"optimizer.learning_rate": rate, "model.residual": False}
            label = f"plain-{depth}-lr{rate}"
            make_run(tmp_path, label, depth=depth, train=train + depth, fields=fields)
    figure = drawn(tmp_path)["learning_rate_by_depth"]
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(image, [[18, 24], [48, 54]])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0.01", "0.1"]
    assert "variants" in drawn(tmp_path)


def test_strengths_of_the_shortcut_become_a_curve_with_plain_at_0_and_residual_at_1(tmp_path):
    make_run(tmp_path, "plain-8", train=40.0)
    make_run(tmp_path, "ResNet-8", train=4.0)
    for scale in (0.25, 0.5):
        fields = {"model.shortcut_transform": "constant_scaling", "model.shortcut_scale": scale}
        label = f"ResNet-8-s{scale}"
        make_run(tmp_path, label, depth=8, residual=True, train=40 * (1 - scale), fields=fields)
    train, _ = drawn(tmp_path)["shortcut_strength"].axes
    np.testing.assert_allclose(
        train.lines[0].get_xydata(), [[0, 40], [0.25, 30], [0.5, 20], [1, 4]]
    )


def test_diverged_runs_are_drawn_and_named(tmp_path):
    make_run(tmp_path, "plain-8", 0)
    make_run(tmp_path, "plain-14", 0, state="diverged", step=50)
    (axes,) = drawn(tmp_path)["pair"].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "plain-14: 1 diverged" in labels


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_drawing_again_gives_the_same_bytes(tmp_path, seeds):
    make_sweep(tmp_path, seeds=seeds)
    first, second = (
        {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in charts.save_all(sweep.load(tmp_path), tmp_path / ".out" / again)
        }
        for again in ("1", "2")
    )
    assert first == second and len(first) == 6
    svg = (tmp_path / ".out" / "1" / "pair.svg").read_text()
    assert "<dc:date>" not in svg


def test_importing_and_drawing_leave_matplotlibs_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    charts.save_all(sweep.load(make_sweep(tmp_path)), tmp_path / ".out")
    assert dict(matplotlib.rcParams) == before
