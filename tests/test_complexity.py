import pathlib
import subprocess
import sys
import types

import pytest

from resnet_jax.analysis import complexity as command
from resnet_jax.analysis import expected
from resnet_jax.config import ModelConfig
from resnet_jax.models import complexity, registry
from resnet_jax.models.repeated import UNROLLED, Repetition
from tests import nets

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMAGE, BATCH = (32, 32, 3), 16
# Values of one feature map in stages 1, 2 and 3 (He 2015, Sec. 4.2).
MAPS = (32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64)


def net(**fields):
    return registry.build(ModelConfig(**{"depth": 8, **fields}), channels=3, num_classes=10)


def kept(model, **more):
    return complexity.activation_bytes(model, IMAGE, **{"batch": BATCH, **more})


def multiply_adds(model):
    found = registry.functional(model)
    return complexity.multiply_adds(found.apply, found.params, found.stats, (1, *IMAGE))


@pytest.mark.parametrize("residual", [True, False])
def test_each_layer_keeps_what_its_derivatives_need(residual):
    # A convolution needs its input; BN its input, for the variance, and its centred input, for the
    # scale; ReLU which values it lets through. The last ReLU feeds a mean, which needs nothing, and
    # the head its own input. What BN keeps for each channel is less than a thousandth of it.
    layers = 3 * MAPS[0] + 2 * MAPS[1] + 2 * MAPS[2]
    want = BATCH * (layers * (3 * 4 + 1) - MAPS[2] * 4 + 64 * 4)
    found = kept(net(residual=residual))
    assert found == pytest.approx(want, rel=1e-3) and found > want


def test_with_recomputation_a_block_more_costs_its_input_alone():
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        deep, shallow = (kept(net(depth=d, dtype=dtype), recompute=True) for d in (14, 8))
        assert deep - shallow == BATCH * sum(MAPS) * size


def test_what_is_kept_grows_in_proportion_to_the_batch_but_for_the_statistics():
    model = net()
    one, two, three = (kept(model, batch=size) for size in (4, 8, 12))
    assert three - two == two - one > 0.998 * one


@pytest.mark.parametrize("recompute", [False, True])
def test_a_loop_over_blocks_keeps_what_the_blocks_one_by_one_keep(monkeypatch, recompute):
    model = net(depth=14, shortcut="C")
    looped = kept(model, recompute=recompute)
    monkeypatch.setattr(complexity, "Repetition", lambda loop, again: Repetition(False, again))
    assert kept(model, recompute=recompute) == looped
    assert model.repetition == UNROLLED


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        # A mask of a byte a value on each block; a scale is not trained, and keeps nothing.
        ({"shortcut_transform": "dropout"}, 1),
        ({"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5}, 0),
    ],
    ids=str,
)
def test_nets_that_need_keys_or_progress_are_counted_too(fields, more):
    extra = kept(net(**fields)) - kept(net())
    assert extra == pytest.approx(more * BATCH * sum(MAPS), abs=2000)


def test_a_loops_multiply_adds_count_as_often_as_it_runs():
    config = ModelConfig(depth=20, shortcut="C")
    looped = registry.build(config, channels=3, num_classes=10, repetition=Repetition(loop=True))
    assert multiply_adds(looped) == multiply_adds(net(depth=20, shortcut="C"))


def test_a_plain_net_costs_what_its_option_a_twin_costs():
    plain, residual = (
        command.cost(ModelConfig(depth=20, residual=kind), IMAGE, 10, BATCH)
        for kind in (False, True)
    )
    assert plain._replace(net="", published="") == residual._replace(net="", published="")
    assert residual.parameters == 269_722
    assert (plain.net, residual.net) == ("plain-20", "ResNet-20 A")
    assert (plain.published, residual.published) == ("", "0.27M")


@pytest.mark.parametrize(
    ("counted", "printed"),
    [
        *((expected.PARAMETERS[d][0], text) for d, text in expected.PRINTED.items()),
        (1_703_258, expected.PREACTIVATION_PRINTED[164]),
    ],
)
def test_the_papers_figures_are_the_counted_ones_rounded(counted, printed):
    digits = len(printed.rstrip("M").split(".")[1])
    # He 2015 print 0.85M for 853,018 and 0.66M for 658,586: rounded, not cut.
    assert f"{counted / 1e6:.{digits}f}M" == printed


def test_1001_layers_are_printed_as_ten_million_and_counted_as_more():
    # He 2016, Table 4, has 10.2M; what its Sec. 5 describes has 10,327,706.
    deep = ModelConfig(
        depth=1001, block="bottleneck", shortcut="B", activation_order="full_preactivation"
    )
    assert expected.printed_parameters(deep, 3, 10) == "10.2M"
    assert expected.published_parameters(deep, 3, 10) == 10_327_706


@pytest.mark.parametrize(
    "fields",
    [{"shortcut": "B"}, {"width": 2.0}, {"shortcut_transform": "dropout"}, {"depth": 26}],
    ids=str,
)
def test_nothing_is_published_of_other_nets(fields):
    config = ModelConfig(**{"depth": 20, **fields})
    assert expected.printed_parameters(config, 3, 10) == ""
    assert expected.printed_parameters(ModelConfig(depth=20), 1, 10) == ""


def test_a_name_says_what_is_unusual():
    config = ModelConfig(
        depth=164, block="bottleneck", activation_order="full_preactivation", width=0.5
    )
    assert command.name(config) == "ResNet-164 A, bottleneck, full preactivation, width 0.5"


def test_the_family_is_six_depths_each_plain_and_with_three_shortcuts(monkeypatch, capsys):
    names = [command.name(config) for config in command.family()]
    assert len(names) == len(set(names)) == 6 * 4
    assert names[:4] == ["plain-20", "ResNet-20 A", "ResNet-20 B", "ResNet-20 C"]
    monkeypatch.setattr(command.expected, "PARAMETERS", {8: None})
    for flag, value in (("_CONFIG", None), ("_BATCH", None), ("_FAMILY", "cifar")):
        monkeypatch.setattr(command, flag, types.SimpleNamespace(value=value), raising=False)
    command.main(["complexity"])
    printed = capsys.readouterr().out
    assert "for one image of 32x32x3" in printed and "a step of 128" in " ".join(printed.split())
    # Stem, three blocks, head, by hand; B has two 1x1 convolutions and their BN more.
    plain = (27 + 2) * 16 + 4_672 + 13_952 + 55_552 + 650
    for count in (plain, plain + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64):
        assert f"{count:,}" in printed


def test_the_imagenet_family_is_the_papers_nets_and_what_came_before_them():
    names = [command.name(config) for config in command.family("imagenet")]
    assert names == [
        *("plain-18", "ResNet-18 A", "ResNet-18 B", "plain-34"),
        *(f"ResNet-34 {option}" for option in "ABC"),
        *(f"ResNet-{depth} B" for depth in (50, 101, 152)),
        *(f"VGG-{d}{bn}" for d in (11, 13, 16, 19) for bn in ("", ", synced BN")),
        *("MobileNetV3-Large", "MobileNetV3-Small", "Swin-T", "Swin-S", "Swin-B"),
    ]
    # Nothing is computed anew of a net without blocks.
    found = command.cost(nets.vgg(11, width=1 / 16), (224, 224, 3), 10, 1)
    assert found.activations == found.recomputed > 0


def test_a_depth_that_does_not_exist_ends_the_command_in_one_line_with_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.complexity"]
        + ["--config=configs/digits.py", "--config.model.depth=57"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "got 57; the nearest are 56 and 62" in line
