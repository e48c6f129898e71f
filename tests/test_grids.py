import collections
import importlib
import pathlib

import pytest

from experiments import (
    ambiguities,
    degradation,
    demo,
    imagenet_degradation,
    imagenet_shortcuts,
    learning_rate_by_depth,
    preactivation,
    shortcut_strength,
    shortcut_variants,
    shortcuts,
)
from experiments.plan import plan
from resnet_jax.config import differences, stage_sizes

MODULES = {
    module.__name__.rsplit(".")[-1]: module
    for module in (
        ambiguities,
        degradation,
        demo,
        imagenet_degradation,
        imagenet_shortcuts,
        learning_rate_by_depth,
        preactivation,
        shortcut_strength,
        shortcut_variants,
        shortcuts,
    )
}


def base(grid, path=None):
    name = pathlib.Path(path or grid.base).with_suffix("").as_posix().replace("/", ".")
    return importlib.import_module(name).get_config()


def configs(name, path=None, **given):
    """The validated config of each run of a grid, by name."""
    grid = MODULES[name].GRID
    asked = {key: given.get(key, getattr(grid, key)) for key in ("depths", "families", "seeds")}
    runs = plan(base(grid, path), grid.rows(**asked), pathlib.Path("/nowhere"), in_order=True)
    named = {run.name: run.config for run in runs}
    assert len(named) == len(runs), "two runs have one name"
    return named


def changed(old, new):
    """The fields in which two runs differ."""
    return {line.split(":")[0] for line in differences(old, new, operational=True)}


BOTH = ("plain", "residual")


# Fields outside the net that a grid is about.
COMPARED = {
    "learning_rate_by_depth": {"optimizer.learning_rate"},
    "ambiguities": {
        *("data.train_on", "data.crop_fill"),
        *("optimizer.decay_batch_norm", "train.reestimation_batches"),
    },
}

OTHER = {name: "imagenet64_resnet34" if "imagenet" in name else "digits" for name in MODULES}


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_every_row_is_valid_and_has_a_name_that_is_a_folders(name, other):
    path = f"configs/{OTHER[name]}.py" if other else None
    for row, run in configs(name, path, families=BOTH).items():
        assert f"-{run.model.depth}-seed{run.train.seed}" in row
        stage_sizes(run.model)


@pytest.mark.parametrize("name", MODULES)
def test_names_are_apart_even_where_case_does_not_count(name):
    names = [row.lower() for row in configs(name, families=BOTH)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MODULES)
def test_runs_of_one_label_differ_in_the_seed_alone_and_labels_in_more(name):
    labels = collections.defaultdict(list)
    for row, run in configs(name, families=BOTH, seeds=(3, 5)).items():
        labels[row.rpartition("-seed")[0]].append(run)
    for first, second in labels.values():
        assert changed(first, second) == {"train.seed"}
    firsts = [runs[0] for runs in labels.values()]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("name", MODULES)
def test_a_grid_is_named_as_its_module_and_tells_its_command(name):
    module = MODULES[name]
    assert module.GRID.name == name
    assert f"python -m experiments.{name} --workdir=" in module.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_all_runs_of_a_depth_share_one_recipe(name):
    allowed = COMPARED.get(name, set())
    runs = list(configs(name, families=BOTH, seeds=(0,)).values())
    for depth in {run.model.depth for run in runs}:
        first, *others = (run for run in runs if run.model.depth == depth)
        for run in others:
            recipe = {field for field in changed(first, run) if not field.startswith("model.")}
            assert recipe <= allowed


def only(name, depth, label=""):
    return {
        row.removesuffix("-seed0"): run
        for row, run in configs(name, depths=(depth,), families=BOTH, seeds=(0,)).items()
        if label in row
    }


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_twins_of_figure_6_differ_in_their_shortcuts_alone(depth):
    runs = only("degradation", depth)
    assert set(runs) == {f"plain-{depth}", f"ResNet-{depth}"}
    assert changed(*runs.values()) == {"model.residual"}
    warmups = {run.optimizer.warmup for run in runs.values()}
    assert warmups == {"until_error" if depth == 110 else "none"}


def test_twins_of_table_2_have_the_paper_s_depths_and_differ_in_their_shortcuts_alone():
    assert set(configs("imagenet_degradation")) == {
        *("plain-18-seed0", "ResNet-18-seed0", "plain-34-seed0", "ResNet-34-seed0")
    }
    for depth in (18, 34):
        runs = only("imagenet_degradation", depth)
        assert changed(*runs.values()) == {"model.residual"}
        assert {run.model.shortcut for run in runs.values()} == {"A"}
        assert {run.evaluation.crops for run in runs.values()} == {"ten"}


def test_the_rows_of_table_3_are_the_plain_net_and_the_three_options():
    runs = {row: run.model for row, run in configs("imagenet_shortcuts").items()}
    assert {row: (net.residual, net.shortcut, net.depth) for row, net in runs.items()} == {
        "plain-34-seed0": (False, "A", 34),
        **{f"{option}-34-seed0": (True, option, 34) for option in "ABC"},
    }


def test_options_a_b_and_c_differ_in_the_option_and_the_plain_net_in_having_none():
    runs = only("shortcuts", 20)
    assert set(runs) == {"plain-20", "A-20", "B-20", "C-20"}
    assert changed(runs["A-20"], runs["B-20"]) == {"model.shortcut"}
    assert changed(runs["A-20"], runs["C-20"]) == {"model.shortcut"}
    assert changed(runs["A-20"], runs["plain-20"]) == {"model.residual"}


@pytest.mark.parametrize(("depth", "block"), [(110, ("basic", "A")), (164, ("bottleneck", "B"))])
def test_the_rows_of_table_2_differ_in_the_order_of_activation_alone(depth, block):
    runs = only("preactivation", depth)
    assert len(runs) == 6
    original = runs[f"original-{depth}"]
    assert (original.model.block, original.model.shortcut) == block
    for label, run in runs.items():
        special = {f"original-{depth}": set(), f"plain-{depth}": {"model.residual"}}
        assert changed(original, run) == special.get(label, {"model.activation_order"})


def test_the_rows_of_table_1_are_the_papers():
    # He et al. 2016, Table 1: transform, on the shortcut, on F, initial bias of the gates.
    runs = [run.model for run in only("shortcut_variants", 110).values() if run.model.residual]
    scaled = {
        (model.shortcut_scale, model.branch_scale)
        for model in runs
        if model.shortcut_transform == "constant_scaling"
    }
    gates = {
        (model.shortcut_transform, model.gate_bias)
        for model in runs
        if "gating" in model.shortcut_transform
    }
    assert scaled == {(0, 1), (0.5, 1), (0.5, 0.5)}
    assert gates == {
        *(("exclusive_gating", bias) for bias in (0, -5, -6, -7)),
        *(("shortcut_only_gating", bias) for bias in (0, -6)),
    }
    others = [model for model in runs if model.shortcut_transform in ("identity", "dropout")]
    assert [(model.shortcut_transform, model.shortcut) for model in others] == [
        ("identity", "A"),
        ("identity", "C"),
        ("dropout", "A"),
    ]
    assert all(model.activation_order == "original" for model in runs)


@pytest.mark.parametrize("name", ["preactivation", "shortcut_variants", "shortcut_strength"])
def test_all_runs_of_he_2016_start_with_400_iterations_at_a_tenth_of_the_rate(name):
    for run in configs(name, families=BOTH).values():
        start = run.optimizer
        assert (start.warmup, start.warmup_steps) == ("constant", 400)
        assert (start.warmup_learning_rate, start.learning_rate) == (0.01, 0.1)


def test_strengths_differ_in_the_scale_of_the_shortcut_alone():
    runs = only("shortcut_strength", 56, "s=")
    assert list(runs) == [
        *(f"s={s}-56" for s in ("0", "0.25", "0.5", "0.75", "1")),
        "s=0to1-56",
        "s=1to0-56",
    ]
    scales = [run.model.shortcut_scale for run in runs.values()]
    assert scales == [0, 0.25, 0.5, 0.75, 1, 0, 1]
    ends = [run.model.shortcut_scale_end for run in runs.values()][-2:]
    assert ends == [1, 0]
    for run in runs.values():
        fields = changed(runs["s=1-56"], run)
        assert fields <= {f"model.shortcut_{f}" for f in ("transform", "scale", "scale_end")}


def test_twins_of_one_rate_differ_in_their_shortcuts_alone_and_rates_in_the_rate_alone():
    runs = only("learning_rate_by_depth", 56)
    assert len(runs) == 10
    assert changed(runs["lr=0.1-plain-56"], runs["lr=0.1-ResNet-56"]) == {"model.residual"}
    pair = runs["lr=0.003-plain-56"], runs["lr=0.3-plain-56"]
    assert changed(*pair) == {"optimizer.learning_rate"}
    assert {run.optimizer.learning_rate for run in runs.values()} == {0.003, 0.01, 0.03, 0.1, 0.3}


def test_the_demos_runs_differ_in_depth_shortcuts_and_seed_alone():
    first, *others = configs("demo").values()
    assert len(others) == 17
    fields = set().union(*(changed(first, run) for run in others))
    assert fields == {"model.depth", "model.residual", "train.seed"}
