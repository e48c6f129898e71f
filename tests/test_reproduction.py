"""The papers' tables: how their runs are made, kept and told of."""

import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from configs import (
    cifar_preresnet110,
    cifar_preresnet164,
    cifar_resnet20,
    cifar_resnet56,
    cifar_resnet110,
)
from experiments import keeping, kept, reproduce, reproduced
from experiments.ambiguities import READINGS
from experiments.measured import SECTIONS
from experiments.plan import plan
from resnet_jax import run_folder
from resnet_jax.config import DataConfig, SyntheticConfig, differences, to_json, validate
from resnet_jax.errors import InputError
from resnet_jax.report import style, sweep
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.setup import Experiment
from tests.helpers import prepare_cifar10, random_images

ROOT = pathlib.Path(__file__).resolve().parents[1]

OLD = ROOT / "docs" / "results" / "cifar10_degradation_1000_steps"


def configs(table, iterations=reproduce.ITERATIONS, depths=None, seeds=(0,), width=1.0):
    """The configs of a table's runs, by name, in order."""
    entry = reproduce.TABLES[table]
    rows = reproduce.rows(
        entry, depths=depths or entry.depths, iterations=iterations, width=width, seeds=seeds
    )
    base = cifar_resnet20.get_config()
    runs = plan(base, list(rows), pathlib.Path("/nowhere"), in_order=True)
    return {run.name: run.config for run in runs}


def test_runs_begin_in_the_order_of_what_they_tell():
    assert list(configs("he2015_fig6", depths=(20, 56), seeds=(0, 1))) == [
        *("ResNet-20-seed0", "plain-20-seed0", "ResNet-56-seed0", "plain-56-seed0"),
        *("ResNet-20-seed1", "plain-20-seed1", "ResNet-56-seed1", "plain-56-seed1"),
    ]
    depths = [config.model.depth for config in configs("he2015_table6").values()]
    assert depths == [20, 56, 110, 32, 44]


def test_runs_of_the_full_length_have_the_published_recipes():
    table = configs("he2015_table6")
    assert not differences(validate(cifar_resnet56.get_config()), table["ResNet-56-seed0"])
    assert not differences(validate(cifar_resnet110.get_config()), table["ResNet-110-seed0"])
    late = configs("he2016_table2")
    for depth, config in ((110, cifar_preresnet110), (164, cifar_preresnet164)):
        run = late[f"full_preactivation-{depth}-seed0"]
        assert not differences(validate(config.get_config()), run)
    scaled = configs("he2016_table1")["constant_scaling=0.5-F=0.5-110-seed0"]
    assert differences(late["original-110-seed0"], scaled) == [
        *("model.shortcut_transform: 'identity' -> 'constant_scaling'",),
        *("model.shortcut_scale: 1.0 -> 0.5", "model.branch_scale: 1.0 -> 0.5"),
    ]
    # He et al. 2016, Table 1 has twelve rows; Table 2 five orders at two depths.
    assert len(configs("he2016_table1")) == 12 and len(configs("he2016_table2")) == 10


def test_fewer_iterations_scale_the_drops_and_nothing_else():
    full, short = (configs("he2015_fig6", n)["plain-20-seed0"] for n in (64_000, 4_000))
    assert differences(full, short) == [
        "optimizer.milestones: (32000, 48000) -> (2000, 3000)",
        "train.steps: 64000 -> 4000",
    ]
    assert full.optimizer.milestones == (32_000, 48_000)


@pytest.mark.parametrize(
    ("table", "name"),
    [("he2015_fig6", "ResNet-110-seed0"), ("he2016_table2", "full_preactivation-164-seed0")],
)
def test_what_the_largest_nets_go_on_from_has_no_file_above_16_mb(table, name, tmp_path):
    data = DataConfig(name="synthetic", synthetic=SyntheticConfig(examples=200))
    experiment = Experiment.prepare(dataclasses.replace(configs(table)[name], data=data))
    dice = np.random.default_rng(0)  # as hard to compress as momentum is after some steps

    def noise(leaf):
        leaf = np.asarray(leaf)
        return dice.normal(size=leaf.shape).astype(leaf.dtype) if leaf.ndim else leaf

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, jax.tree.map(noise, experiment.state), None)
    checkpoints.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert 8 * 1_600_000 < sum(sizes) and max(sizes) < 16e6


def test_narrower_nets_are_as_narrow_and_have_a_folder_of_their_own():
    net = configs("he2015_table6", 4_000, width=0.5)["ResNet-20-seed0"].model
    assert (net.width, net.depth) == (0.5, 20)
    table = reproduce.TABLES["he2015_table6"]
    names = {reproduce.folder_name(table, n, w) for n in (4_000, 64_000) for w in (0.5, 1.0)}
    assert len(names) == 4 and "he2015" in names


def records(steps, interval, seed=0):
    dice = np.random.default_rng(seed)
    return [
        {"step": step, "split": "train", "loss": dice.random(), "error": 100 * dice.random()}
        for step in range(interval, steps + 1, interval)
    ]


@pytest.mark.parametrize("interval", [100, 50, 7])
def test_a_thinned_curve_has_the_means_of_the_whole(interval):
    whole = records(64_000, interval)
    thin = kept.thinned(whole)
    assert 250 <= len(thin) <= 500 and thin[-1]["step"] == whole[-1]["step"]
    before = 0
    for record in thin:
        part = [r["error"] for r in whole if before < r["step"] <= record["step"]]
        assert record["error"] == pytest.approx(np.mean(part))
        before = record["step"]


def test_a_thinned_record_weighs_steps_and_keeps_what_is_not_finite_apparent():
    whole = [
        {"step": 10, "split": "train", "loss": 1.0, "error": 80.0, "learning_rate": 0.1},
        {"step": 40, "split": "train", "loss": None, "error": 40.0, "learning_rate": 0.01},
        {"step": 40, "split": "val", "loss": 2.0, "error": 50.0},
    ]
    first, second = kept.thinned(whole, points=1)
    # Ten steps at 80 % and thirty at 40 %.
    assert first["error"] == pytest.approx((10 * 80 + 30 * 40) / 40)
    assert math.isnan(first["loss"]) and first["learning_rate"] == 0.01
    assert second == whole[2]


def test_pieces_are_one_attempt_and_another_machine_is_another():
    one = {"started": "a", "commit": "c", "devices": ["cpu"], "command": ["main.py"]}
    other = {**one, "devices": ["gpu"]}
    found = kept.merged([one, {**one, "started": "b"}, other, {**one, "started": "d"}])
    assert [(a["started"], a["devices"], a["pieces"]) for a in found] == [
        ("a", ["cpu"], 3),
        ("a", ["gpu"], 1),
    ]


@pytest.fixture
def runs(tmp_path):
    """A sweep's folder with runs that were made, one that was not finished, and signals."""
    folder = tmp_path / "runs" / "he2015_1000_iterations"
    # They were made at another learning rate, which no table has.
    wanted = configs("he2015_fig6", 1000, seeds=(0, 1))
    for run in OLD.glob("*-seed?"):
        shutil.copytree(run, folder / run.name)
        (folder / run.name / run_folder.CONFIG).write_text(to_json(wanted[run.name]))
        layers = [
            {"name": f"{i}", "response": 0.1 * i, "gradient": 1.0, "weight": 1.0, "dead": None,
             "update": 1.0, "activation_gradient": 1.0}
            for i in (1, 2, 3)
        ]  # fmt: skip
        moments = [{"step": step, "layers": layers} for step in (0, 500, 1000)]
        about = {"examples": 128, "split": "train", "dataset": "cifar10", "commit": "0" * 40}
        found = {**about, "moments": moments}
        (folder / run.name / "analysis").mkdir()
        run_folder.write_json(folder / run.name / kept.SIGNALS, found)
    status = run_folder.read_json(folder / "plain-56-seed1" / run_folder.STATUS)
    shutil.copytree(folder / "plain-56-seed1", folder / "plain-56-seed2")
    (folder / "notes.txt").touch()
    stopped = {**status, "state": run_folder.STOPPED}
    run_folder.write_json(folder / "plain-56-seed2" / run_folder.STATUS, stopped)
    return folder


def test_what_is_kept_of_runs_gives_the_report_that_they_give(runs, tmp_path):
    names = keeping.keep(runs, tmp_path / "kept")
    assert sorted(names) == sorted(run.name for run in OLD.glob("*-seed?"))
    small = tmp_path / "kept" / runs.name
    assert not (small / "plain-56-seed2").exists()
    want, got = sweep.load(runs), sweep.load(small)
    assert [group.label for group in got.groups] == [group.label for group in want.groups]
    for a, b in zip(got.groups, want.groups, strict=True):
        for split in ("train", "val", "test"):
            assert a.final(split) == pytest.approx(b.final(split))
    assert (got.commit, got.dataset, got.hardware) == (want.commit, want.dataset, want.hardware)
    moments = run_folder.read_json(small / "plain-20-seed0" / kept.SIGNALS)["moments"]
    assert [moment["step"] for moment in moments] == [0, 1000]


def cells_of(text, net, place=None):
    """The cells of a net's row, which is its only one if no place among several is given."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {net} |")]
    assert place is not None or len(rows) == 1
    row = rows[place or 0]
    return [cell.strip() for cell in row.strip("|").split("|")]


def final_test_errors(net):
    """In percent, of both seeds."""
    files = [OLD / f"{net}-seed{seed}" / "evaluation.json" for seed in (0, 1)]
    return [json.loads(file.read_text())["splits"]["test"]["error"] for file in files]


def changed(folder, file, **fields):
    """A run's JSON file with other values."""
    run_folder.write_json(folder / file, {**run_folder.read_json(folder / file), **fields})


def test_a_table_says_of_every_number_where_it_comes_from(runs, tmp_path):
    keeping.keep(runs, tmp_path / "kept")
    document = pathlib.Path("README.md")
    text = "before\n<!-- he2015_table6: begin -->\nold\n<!-- he2015_table6: end -->\nafter\n"
    text = reproduced.written(text, reproduced.read(tmp_path / "kept"), document)
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    cells = cells_of(text, "ResNet-20")
    errors = final_test_errors("ResNet-20")
    mean, sd = np.mean(errors), np.std(errors, ddof=1)
    assert cells[:3] == ["ResNet-20", "8.75 (as stated)", f"{mean:.2f} +- {sd:.2f}"]
    assert cells[4:8] == ["2", "1,000", "1", "a copy"]
    assert "AMD EPYC" in cells[8] and cells[9] == "c7e369c9ce24"
    assert "1,000 iterations at width 1: steps 1,000, not 64,000" in text
    assert "the number published beside them is of another run" in text
    assert "Not run yet: ResNet-32 (published: 7.51 (as stated)), ResNet-44" in text


def told(runs, tmp_path, name):
    """A section of what a sweep's folder gives."""
    for run in runs.glob("*-seed*"):
        if run_folder.read_json(run / run_folder.STATUS)["state"] in run_folder.FINISHED:
            kept.keep(run, tmp_path / "kept" / runs.name / run.name)
    return SECTIONS[name](reproduced.read(tmp_path / "kept"), tmp_path)


def test_fig_6_tells_the_verdict_and_what_it_is_of(runs, tmp_path):
    text = told(runs, tmp_path, "he2015_fig6")
    image, caption, plain, residual = text.strip().split("\n\n")
    assert image.endswith("](kept/he2015_1000_iterations/fig6.png)")
    assert caption.startswith("8 runs of 1,000 iterations at width 1; cifar10 (a copy")
    assert "AMD EPYC, 1 core" in caption and caption.endswith("commit c7e369c9ce24.")
    # The numbers of that result's own README.
    assert "rises by 25.56 points" in plain and "20.60 to 30.53" in plain
    assert "rises by 1.41 points" in residual


def test_fig_7_is_of_completed_runs_after_their_last_step(runs, tmp_path):
    (runs / "ResNet-20-seed1" / kept.SIGNALS).unlink()
    early = run_folder.read_json(runs / "plain-20-seed1" / kept.SIGNALS)
    changed(runs / "plain-20-seed1", kept.SIGNALS, moments=early["moments"][:2])
    changed(runs / "plain-56-seed1", run_folder.STATUS, state=run_folder.DIVERGED)
    moments = run_folder.read_json(runs / "ResNet-56-seed1" / kept.SIGNALS)["moments"]
    for layer, response in zip(moments[-1]["layers"], (0.1, 0.4, 1.0), strict=True):
        layer["response"] = response
    changed(runs / "ResNet-56-seed1", kept.SIGNALS, moments=moments)
    text = told(runs, tmp_path, "he2015_fig7")
    # Responses of 0.1, 0.2 and 0.3, and once of 0.1, 0.4 and 1.0.
    for net, n in (("ResNet-20", 1), ("plain-20", 1), ("plain-56", 1)):
        assert cells_of(text, net)[1:5] == ["0.200", "0.200", str(n), "1,000"]
    mean, median = f"0.350 +- {0.3 / 2**0.5:.3f}", f"0.300 +- {0.2 / 2**0.5:.3f}"
    assert cells_of(text, "ResNet-56")[1:4] == [mean, median, "2"]
    assert "128 train images at once" in text


def test_both_figures_are_drawn_from_records(runs, tmp_path):
    keeping.keep(runs, tmp_path / "kept")
    drawn = dict(reproduced.images(reproduced.read(tmp_path / "kept")))
    assert [path.name for path in drawn] == ["fig6.png", "fig7.png"]
    plain, residual = drawn[tmp_path / "kept" / runs.name / "fig6.png"].axes
    assert (plain.get_title(), residual.get_title()) == ("plain nets", "residual nets")
    order, size = drawn[tmp_path / "kept" / runs.name / "fig7.png"].axes
    heights = [[list(line.get_ydata()) for line in axes.lines] for axes in (order, size)]
    assert np.allclose(heights[0], [[0.1, 0.2, 0.3]] * 4)
    assert np.allclose(heights[1], [[0.3, 0.2, 0.1]] * 4)
    assert order.get_yscale() == size.get_yscale() == "linear"


def test_responses_that_lie_far_apart_are_drawn_on_a_logarithmic_axis(runs, tmp_path):
    moments = run_folder.read_json(runs / "plain-56-seed0" / kept.SIGNALS)["moments"]
    moments[-1]["layers"][0]["response"] = 20.0
    changed(runs / "plain-56-seed0", kept.SIGNALS, moments=moments)
    keeping.keep(runs, tmp_path / "kept")
    drawn = dict(reproduced.images(reproduced.read(tmp_path / "kept")))
    for axes in drawn[tmp_path / "kept" / runs.name / "fig7.png"].axes:
        assert axes.get_yscale() == "log"
        assert axes.get_ylim()[0] <= 0.1 and axes.get_ylim()[1] >= 10


def on(device, folder):
    """Has a run made on another device."""
    attempt = run_folder.attempts(folder)[0]
    changed(folder, run_folder.PROVENANCE, attempts=[{**attempt, "devices": [device]}])


def test_each_row_has_its_own_hardware_and_what_departs_alone_is_said(runs, tmp_path):
    on("H100", runs / "ResNet-20-seed1")
    for net, seed in itertools.product(("ResNet-56", "plain-56"), (0, 1)):
        folder = runs / f"{net}-seed{seed}"
        on("H100", folder)
        optimizer = run_folder.read_json(folder / run_folder.CONFIG)["optimizer"]
        changed(folder, run_folder.CONFIG, optimizer={**optimizer, "momentum": 0.8})
    text = told(runs, tmp_path, "he2015_table6")
    assert cells_of(text, "ResNet-56")[8].startswith("H100 (AMD EPYC, 1 core)")
    assert cells_of(text, "plain-20")[8] == "cpu (AMD EPYC, 1 core)"
    assert cells_of(text, "ResNet-20")[8] == (
        "cpu (AMD EPYC, 1 core): seed 0; H100 (AMD EPYC, 1 core): seed 1"
    )
    assert "plain-56, ResNet-56 alone: momentum 0.8, not 0.9" in text


def test_nets_that_diverged_are_no_number(runs, tmp_path):
    for seed in (0, 1):
        changed(runs / f"plain-56-seed{seed}", run_folder.STATUS, state=run_folder.DIVERGED)
    cells = cells_of(told(runs, tmp_path, "he2015_table6"), "plain-56")
    assert cells[2:5] == ["- (2 diverged)", "- (2 diverged)", "0"]
    text = told(runs, tmp_path, "he2015_fig6")
    assert "all 2 seeds of plain-56 diverged" in text and "nan" not in text


def test_how_wide_the_nets_are_is_said_in_every_section(runs, tmp_path):
    for folder in runs.glob("*-seed?"):
        model = run_folder.read_json(folder / run_folder.CONFIG)["model"]
        changed(folder, run_folder.CONFIG, model={**model, "width": 0.5})
    assert cells_of(told(runs, tmp_path, "he2015_table6"), "ResNet-20")[6] == "0.5"
    assert cells_of(told(runs, tmp_path, "he2015_fig7"), "ResNet-20")[5] == "0.5"
    assert "8 runs of 1,000 iterations at width 0.5; " in told(runs, tmp_path, "he2015_fig6")


def test_sweeps_of_one_table_are_told_one_after_the_other_the_longest_first(runs, tmp_path):
    longer = runs.with_name("he2015_2000_iterations")
    for seed in (0, 1):
        shutil.copytree(runs / f"ResNet-20-seed{seed}", longer / f"ResNet-20-seed{seed}")
        train = run_folder.read_json(runs / f"ResNet-20-seed{seed}" / run_folder.CONFIG)["train"]
        folder = longer / f"ResNet-20-seed{seed}"
        changed(folder, run_folder.CONFIG, train={**train, "steps": 2000})
        text = (folder / run_folder.METRICS).read_text().replace('"step": 1000,', '"step": 2000,')
        (folder / run_folder.METRICS).write_text(text)
    told(longer, tmp_path, "he2015_table6")
    figures = told(runs, tmp_path, "he2015_fig6")
    places = [figures.index(text) for text in ("2 runs of 2,000 iter", "8 runs of 1,000 iter")]
    assert places == sorted(places) and figures.count("fig6.png") == 2
    table = told(runs, tmp_path, "he2015_table6").splitlines()
    rows = [row.split(" | ") for row in table if row.startswith("| ResNet-20 |")]
    assert [(row[1], row[5]) for row in rows] == [
        *(("8.75 (as stated)", "2,000"), ("8.75 (as stated)", "1,000")),
    ]


def test_nets_of_which_nothing_is_published_have_rows_too(runs, tmp_path):
    for name, net in (("ResNet-20", "ResNet-26"), ("plain-20", "plain-26")):
        model = run_folder.read_json(runs / f"{name}-seed0" / run_folder.CONFIG)["model"]
        for seed in (0, 1):
            folder = (runs / f"{name}-seed{seed}").rename(runs / f"{net}-seed{seed}")
            changed(folder, run_folder.CONFIG, model={**model, "depth": 26})
    text = told(runs, tmp_path, "he2015_table6")
    for net in ("ResNet-26", "plain-26"):
        assert cells_of(text, net)[1] == "-" and cells_of(text, net)[4] == "2"


@pytest.fixture
def readings(runs):
    """A sweep of readings: black padding and exact statistics have plain-20's errors."""
    folder = runs.with_name("ambiguities_1000_iterations")
    wanted = configs("ambiguities", 1000, seeds=(0, 1))
    for seed, (source, label) in itertools.product(
        (0, 1),
        (
            *(("ResNet-20", "ResNet-20"), ("plain-20", "black_padding-ResNet-20")),
            *(
                ("plain-20", "exact_statistics-ResNet-20"),
                ("ResNet-56", "trained_on_val-ResNet-20"),
            ),
        ),
    ):
        run = folder / f"{label}-seed{seed}"
        shutil.copytree(runs / f"{source}-seed{seed}", run)
        (run / run_folder.CONFIG).write_text(to_json(wanted[run.name]))
    return folder


def reading_of(text, words):
    """Of a reading's row: test error, difference, and what is said of it."""
    words = next(reading.words for reading in READINGS if words in reading.words)
    (row,) = [line for line in text.splitlines() if f"| ResNet-20 | {words} |" in line]
    return [cell.strip() for cell in row.strip("|").split("|")][2:5]


def test_readings_are_compared_with_the_net_that_they_are_of(readings, tmp_path):
    # Images that are divided otherwise have another fingerprint.
    for seed in (0, 1):
        run = readings / f"trained_on_val-ResNet-20-seed{seed}"
        attempt = run_folder.attempts(run)[0]
        data = attempt["dataset"] | {"sha256": "e" * 64}
        changed(run, run_folder.PROVENANCE, attempts=[attempt | {"dataset": data}])
    keeping.keep(readings, tmp_path / "kept")
    text = told(readings, tmp_path, "ambiguities")
    own, other = (np.array(final_test_errors(net)) for net in ("ResNet-20", "plain-20"))
    assert reading_of(text, "as here")[1:] == ["-", "-"]
    welch = scipy.stats.ttest_ind(other, own, equal_var=False).confidence_interval(0.95)
    paired = scipy.stats.ttest_rel(other, own).confidence_interval(0.95)
    for words, interval in (("padded black", welch), ("statistics", paired)):
        found = [float(n) for n in re.findall(r"[+-][\d.]+", reading_of(text, words)[1])]
        wanted = [np.mean(other) - np.mean(own), interval.low, interval.high]
        assert found == pytest.approx(wanted, abs=0.0051)
    assert cells_of(text, "ResNet-20", place=0)[1] == "as here"


def test_the_same_training_is_none_on_another_machine(readings, tmp_path):
    for seed in (0, 1):
        on("H100", readings / f"exact_statistics-ResNet-20-seed{seed}")
    text = told(readings, tmp_path, "ambiguities")
    assert reading_of(text, "statistics")[1] == reading_of(text, "padded black")[1]


def test_a_single_pair_of_the_same_training_is_compared_with_its_own_seed(readings, tmp_path):
    shutil.rmtree(readings / "exact_statistics-ResNet-20-seed1")
    gap, words = reading_of(told(readings, tmp_path, "ambiguities"), "statistics")[1:]
    errors = [final_test_errors(net)[0] for net in ("ResNet-20", "plain-20")]
    assert float(gap) == pytest.approx(errors[1] - errors[0], abs=0.006)
    assert words == "one seed: no interval"


def test_a_reading_without_the_net_that_it_is_of_has_no_difference(readings, tmp_path):
    for seed in (0, 1):
        shutil.rmtree(readings / f"ResNet-20-seed{seed}")
    text = told(readings, tmp_path, "ambiguities")
    assert reading_of(text, "padded black")[1:] == ["-", "not without a run as here"]


def test_one_seed_tells_nothing_of_a_reading(readings, tmp_path):
    for run in readings.glob("*-seed1"):
        shutil.rmtree(run)
    gap, words = reading_of(told(readings, tmp_path, "ambiguities"), "padded black")[1:]
    errors = [final_test_errors(net)[0] for net in ("ResNet-20", "plain-20")]
    assert float(gap) == pytest.approx(errors[1] - errors[0], abs=0.006)
    assert words == "one seed: no interval"


def test_table_2_names_its_orders_and_every_row_of_the_grids_tables_is_there():
    table = SECTIONS["he2016_table2"]([], ROOT)
    assert cells_of(table, "ResNet-164, full preactivation")[1] == "5.46 (median of 5 runs)"
    assert cells_of(table, "ResNet-110")[1].startswith("6.61")
    rows = [line for line in table.splitlines() if line.startswith("| ResNet-")]
    assert len(rows) == 10
    rows = SECTIONS["he2016_table1"]([], ROOT).splitlines()
    assert sum(" | " in row and row.startswith("| ") for row in rows) - 2 == 12
    assert rows[-1] == "None is run yet."


def test_what_does_not_fit_to_the_others_is_not_kept(runs, tmp_path):
    folder = runs / "ResNet-20-seed1"
    attempts = run_folder.attempts(folder)
    other = {**attempts[0], "commit": "f" * 40}
    changed(folder, run_folder.PROVENANCE, attempts=[*attempts, other])
    with pytest.raises(InputError, match="ResNet-20-seed1 cannot stand beside .* from one commit"):
        keeping.keep(runs, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_records_of_another_commit_or_of_other_images_say_so(runs, tmp_path):
    folder = runs / "ResNet-20-seed1"
    attempt = run_folder.attempts(folder)[0]
    data = attempt["dataset"] | {"sha256": "e" * 64}
    changed(folder, run_folder.PROVENANCE, attempts=[attempt | {"dataset": data}])
    with pytest.raises(InputError, match="fingerprint eeeeeeeeeeee, the other runs have") as told:
        keeping.keep(runs, tmp_path / "kept")
    assert "from one commit" not in str(told.value)


@pytest.mark.parametrize("commit", ["c7e369c" + "+changes", None])
def test_what_nobody_can_make_again_is_not_kept(runs, tmp_path, commit):
    for run in runs.glob("*-seed?"):
        attempts = [attempt | {"commit": commit} for attempt in run_folder.attempts(run)]
        changed(run, run_folder.PROVENANCE, attempts=attempts)
    with pytest.raises(InputError, match="from which nobody can make it again"):
        keeping.keep(runs, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_only_what_a_table_has_is_kept(runs, tmp_path):
    config = run_folder.read_json(runs / "plain-20-seed0" / run_folder.CONFIG)
    model = {**config["model"], "zero_padding": "both"}
    changed(runs / "plain-20-seed0", run_folder.CONFIG, model=model)
    with pytest.raises(InputError, match="plain-20-seed0 is not as .*model.zero_padding: 'end'"):
        keeping.keep(runs, tmp_path / "kept")
    changed(runs / "plain-20-seed0", run_folder.CONFIG, model=config["model"])
    data = {**config["data"], "name": "digits"}
    changed(runs / "plain-20-seed0", run_folder.CONFIG, data=data)
    with pytest.raises(InputError, match="data.name: 'cifar10' -> 'digits'"):
        keeping.keep(runs, tmp_path / "kept")
    changed(runs / "plain-20-seed0", run_folder.CONFIG, data=config["data"])
    (runs / "plain-20-seed0").rename(runs / "unadorned-20-seed0")
    with pytest.raises(InputError, match="unadorned-20-seed0 is no run of experiments.reproduce"):
        keeping.keep(runs, tmp_path / "kept")
    wrong = runs.rename(runs.with_name("he2015_2000_iterations"))
    with pytest.raises(InputError, match="train.steps: 2000 -> 1000"):
        keeping.keep(wrong, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_run_that_is_kept_again_leaves_nothing_of_its_older_record(runs, tmp_path):
    keeping.keep(runs, tmp_path / "kept")
    record = tmp_path / "kept" / runs.name / "plain-20-seed0"
    assert (record / kept.SIGNALS).is_file()
    (runs / "plain-20-seed0" / kept.SIGNALS).unlink()
    keeping.keep(runs, tmp_path / "kept")
    assert not (record / kept.SIGNALS).exists() and (record / run_folder.METRICS).is_file()


def test_a_record_is_not_lost_to_another_run_of_its_name(runs, tmp_path):
    keeping.keep(runs, tmp_path / "kept")
    attempts = run_folder.attempts(runs / "plain-20-seed0")
    attempts[0]["started"] = "2030-01-01T00:00:00Z"
    changed(runs / "plain-20-seed0", run_folder.PROVENANCE, attempts=attempts)
    with pytest.raises(InputError, match="begun 2030-01-01T00:00:00Z, and what is kept under its"):
        keeping.keep(runs, tmp_path / "kept")


def test_runs_that_were_replaced_and_folders_of_no_table_are_not_kept(runs, tmp_path):
    (runs / ".replaced").mkdir()
    shutil.copytree(runs / "ResNet-20-seed0", runs / ".replaced" / "ResNet-20-seed0-1")
    assert len(keeping.keep(runs, tmp_path / "kept")) == 8
    for folder in (runs.parent, runs / "ResNet-20-seed0", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="not a sweep's folder of experiments.reproduce"):
            keeping.keep(folder, tmp_path / "kept")


def command(*flags):
    line = [sys.executable, "-m", "experiments.reproduce", *flags]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_the_command_goes_on_where_its_time_was_over_and_what_it_made_can_be_kept(tmp_path):
    images = {"train": random_images(200), "test": random_images(50, seed=1)}
    labels = {split: np.arange(len(some)) % 10 for split, some in images.items()}
    data = prepare_cifar10(tmp_path / "data", images, labels)
    flags = (
        *("--table=he2015_fig6", "--iterations=8", "--width=0.25", "--depths=8", "--seeds=0"),
        *(f"--workdir={tmp_path}", f"--config.data.data_dir={data}"),
        "--config.evaluation.bootstrap_samples=0",
    )
    assert command(*flags, "--minutes=0").returncode == 75
    folder = tmp_path / "he2015_8_iterations_width_0.25"
    assert {run_folder.read_json(p)["state"] for p in folder.glob("*/status.json")} == {"queued"}
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    for run in folder.glob("*-seed0"):  # whatever is being changed here just now
        attempts = [attempt | {"commit": "0" * 40} for attempt in run_folder.attempts(run)]
        changed(run, run_folder.PROVENANCE, attempts=attempts)
    assert keeping.keep(folder, tmp_path / "kept") == ["ResNet-8-seed0", "plain-8-seed0"]
    (found,) = reproduced.read(tmp_path / "kept")
    assert found.iterations == 8 and [group.n for group in found.runs.groups] == [1, 1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--table=he2015_table7"], "he2015_table6"),
        (
            ["--table=he2015_fig6", "--config.train.steps=100"],
            "--config.train.steps has no effect here, where all rows set it; use this command's",
        ),
        (
            ["--table=he2015_fig6", "--config.optimizer.warmup=constant"],
            "--config.optimizer.warmup has no effect here",
        ),
    ],
)
def test_what_names_no_table_or_has_no_effect_is_refused_in_one_line(flags, words):
    done = command(*flags)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_document_with_a_block_of_no_table_is_refused(tmp_path):
    text = "<!-- he2015_table7: begin -->\n<!-- he2015_table7: end -->"
    with pytest.raises(InputError, match="he2015_table7"):
        reproduced.written(text, [], tmp_path / "README.md")


def test_a_sweep_without_a_finished_run_is_not_kept(tmp_path):
    (tmp_path / "he2015").mkdir()
    with pytest.raises(InputError, match="no finished run"):
        keeping.keep(tmp_path / "he2015", tmp_path / "kept")


@pytest.mark.parametrize("document", reproduced.DOCUMENTS, ids=str)
def test_the_documents_say_what_the_records_say(document):
    text = (ROOT / document).read_text()
    assert reproduced.BLOCK.search(text)
    assert reproduced.written(text, reproduced.read(reproduced.RESULTS), document) == text


def test_the_figures_are_those_that_the_records_give(tmp_path):
    all_kept = reproduced.read(reproduced.RESULTS)
    drawn = dict(reproduced.images(all_kept))
    assert drawn.keys() == set(reproduced.RESULTS.rglob("*.png"))
    for path, figure in drawn.items():
        style.save(figure, tmp_path / "figure.png")
        want, got = (np.asarray(Image.open(p), float) for p in (path, tmp_path / "figure.png"))
        assert want.shape == got.shape
        assert Image.open(path).text["records"] == reproduced.fingerprint(path.parent)
        # Nothing but how a platform rounds the edges of lines may differ.
        assert (abs(want - got) > 16).mean() < 1e-3, path
