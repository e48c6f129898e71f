import csv
import io
import re

import pytest

from resnet_jax.report import published, recipes, sweep, tables
from tests.test_report_runs import make_run, make_sweep, run_config

CIFAR = {"data.name": "cifar10", "train.steps": 64_000}
ORIGINAL = {"name": "cifar10", "sha256": "c" * 64, "original": True}


def cifar_sweep(root, dataset=ORIGINAL):
    for seed, test in enumerate((8.0, 9.0, 10.0)):
        options = {"test": test, "fields": CIFAR, "dataset": dataset, "interval": 6400}
        make_run(root, "ResNet-20", seed, **options)
    return sweep.load(root)


def rows(table):
    return list(csv.DictReader(io.StringIO(tables.to_csv(table))))


def test_published_and_measured_stand_side_by_side(tmp_path):
    (row,) = rows(tables.against_published(cifar_sweep(tmp_path)))
    assert row["published test error %"] == "8.75 (as stated)"
    assert row["source"] == "He et al. 2015 (arXiv 1512.03385), Table 6"
    # Mean and deviation of 8, 9, 10; 9 - 8.75.
    assert (row["measured test error %"], row["standard deviation"]) == ("9.00", "1.00")
    assert (row["n"], row["difference"]) == ("3", "+0.25")
    assert "steps" not in row["recipe differences"]


def test_a_copy_of_the_images_is_a_recipe_difference(tmp_path):
    loaded = cifar_sweep(tmp_path, ORIGINAL | {"original": False})
    (row,) = rows(tables.against_published(loaded))
    assert "a copy of the images, not the original files" in row["recipe differences"]
    assert row["dataset"].startswith("cifar10 (a copy, not the original files)")


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"model.depth": 110}, 6.61),
        ({"model.depth": 110, "model.activation_order": "full_preactivation"}, 6.37),
        ({"model.depth": 110, "model.activation_order": "bn_after_addition"}, 8.17),
        ({"model.depth": 110, "model.shortcut": "C"}, 12.22),
        (
            {
                "model.depth": 110,
                "model.shortcut_transform": "shortcut_only_gating",
                "model.gate_bias": -6.0,
            },
            6.91,
        ),
        (
            {
                **{"model.depth": 164, "model.block": "bottleneck", "model.shortcut": "B"},
                "model.activation_order": "full_preactivation",
            },
            5.46,
        ),
    ],
)
def test_published_values_are_found_by_what_identifies_the_net(fields, value):
    assert published.find(run_config(**{**CIFAR, **fields})).value == value


@pytest.mark.parametrize(
    "fields",
    [
        {"model.depth": 26},
        {"model.width": 2.0},
        {"model.shortcut": "B"},
        {"data.name": "digits"},
        {"data.classes": ["cat", "dog"]},
        {"data.class_ratios": [2.0] + [1.0] * 9},
    ],
)
def test_other_nets_and_data_have_no_published_value(fields):
    assert published.find(run_config(**{**CIFAR, "model.depth": 20, **fields})) is None


def test_recipe_differences_are_computed_from_the_config():
    fields = {"optimizer.learning_rate": 0.01, "train.steps": 400, "train.batch_size": 64}
    found = recipes.recipe_differences(run_config(**{**CIFAR, **fields}), ORIGINAL)
    assert found[:3] == [
        *("steps 400, not 64,000", "batch size 64, not 128", "learning rate 0.01, not 0.1"),
    ]
    fields = {"data.resampling": "over", "train.class_weights": "balanced"}
    found = recipes.recipe_differences(run_config(**{**CIFAR, **fields}), ORIGINAL)
    assert found[:2] == ["resampling over, not none", "class weights balanced, not none"]
    base = recipes.recipe_differences(run_config(**CIFAR), ORIGINAL)
    assert base == ["batch statistics by moving average, not over a large batch"]


def imagenet_config(**fields):
    net = {"model.family": "imagenet_resnet", "data.name": "imagenet2012"}
    seen = {"evaluation.crops": "ten", "data.image_size": 224, "model.bottleneck_stride": "1x1"}
    return run_config(**{**net, **seen, **fields})


@pytest.mark.parametrize(
    ("fields", "value"),
    # He et al. 2015, Tables 2 and 3, and the README of fb.resnet.torch.
    [
        ({"model.depth": 18, "model.residual": False}, 27.94),
        ({"model.depth": 34, "model.residual": False}, 28.54),
        ({"model.depth": 34}, 25.03),
        ({"model.depth": 34, "model.shortcut": "C"}, 24.19),
        ({"model.depth": 50, "model.block": "bottleneck", "model.shortcut": "B"}, 22.85),
        (
            {"model.depth": 50, "model.block": "bottleneck", "model.shortcut": "B"}
            | {"model.bottleneck_stride": "3x3", "evaluation.crops": "center"},
            24.01,
        ),
    ],
)
def test_published_values_of_imagenet_are_found_by_net_and_crops(fields, value):
    assert published.find(imagenet_config(**fields)).value == value


@pytest.mark.parametrize(
    "fields",
    [
        {"evaluation.crops": "multi_scale"},
        {"data.image_size": 64},
        {"data.name": "image_folder"},
        {"model.family": "cifar_resnet"},
    ],
)
def test_what_sees_other_images_of_imagenet_has_no_published_value(fields):
    assert published.find(imagenet_config(**{"model.depth": 34, **fields})) is None


def test_departures_from_the_imagenet_recipe_are_listed():
    recipe = {"train.steps": 600_000, "train.batch_size": 256, "optimizer.schedule": "plateau"}
    recipe |= {"train.reestimation_batches": 100, "data.normalization": "imagenet"}
    dataset = {"name": "imagenet2012", "original": True}
    found = recipes.recipe_differences(imagenet_config(**{"model.depth": 34, **recipe}), dataset)
    assert found == ["normalization imagenet, not per-pixel mean"]
    changed = imagenet_config(**{"model.depth": 34, **recipe, "data.augmentation": "inception"})
    found = recipes.recipe_differences(changed, {"name": "image_folder", "original": None})
    assert "augmentation inception, not he2015" in found
    assert "data set image_folder, not ImageNet 2012" in found


@pytest.mark.parametrize("render", [tables.markdown, tables.to_csv, tables.latex])
def test_no_number_stands_without_n_commit_dataset_and_hardware(tmp_path, render):
    for table in tables.all_tables(sweep.load(make_sweep(tmp_path))):
        text = render(table)
        assert "n" in table.columns
        for fact in ("aaaaaaaaaaaa", "digits", "SHA-256 dddddddddddd", "Test CPU, 2 cores"):
            assert fact in text, (table.name, fact)


def test_every_row_of_a_csv_file_has_every_fact(tmp_path):
    for table in tables.all_tables(sweep.load(make_sweep(tmp_path))):
        for row in rows(table):
            assert row["commit"] == "a" * 12 and "Test CPU" in row["hardware"]
            assert row["dataset"].startswith("digits") and None not in row


HOSTILE = "=a|b_c$d&e%f#g{h}i~j^k\\l<m>\n`n`"


def test_hostile_names_are_escaped_in_every_format(tmp_path):
    make_run(tmp_path, "plain-8", name=f"{HOSTILE}-seed0")
    table = tables.by_label(sweep.load(tmp_path))
    lines = tables.markdown(table).splitlines()
    (line,) = [line for line in lines if "plain |" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == len(table.columns) + 1
    assert "<m>" not in line and r"\`n\`" in line
    (row,) = rows(table)
    assert row["label"] == "'" + HOSTILE.replace("\n", " ")
    latex = tables.latex(table)
    escaped = r"=a\textbar{}b\_c\$d\&e\%f\#g\{h\}i\textasciitilde{}j\textasciicircum{}k"
    assert escaped + r"\textbackslash{}l\textless{}m\textgreater{} `n`" in latex
    assert latex.count(r"\\") == 2  # the heading and one row


def test_negative_numbers_and_intervals_stay_numbers_in_csv(tmp_path):
    for seed, test in enumerate((1.0, 30.0)):
        make_run(tmp_path, "plain-8", seed, test=test)
    (row,) = rows(tables.by_label(sweep.load(tmp_path)))
    assert row["95 % interval (test)"].startswith("-")


def test_diverged_runs_have_no_number(tmp_path):
    make_run(tmp_path, "plain-8", 0, state="diverged", step=30)
    loaded = sweep.load(tmp_path)
    (row,) = rows(tables.against_published(loaded))
    assert row["measured test error %"] == "1 of 1 diverged" and row["n"] == "0"
    assert rows(tables.by_run(loaded))[0]["test error %"] == "-"
