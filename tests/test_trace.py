import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.special
from flax import nnx
from jax import lax

from resnet_jax import run_folder
from resnet_jax.analysis import trace as command
from resnet_jax.analysis.trace import trace
from resnet_jax.config import DataConfig, ModelConfig, to_json, validate
from resnet_jax.data import datasets
from resnet_jax.errors import InputError
from resnet_jax.models import complexity, registry
from resnet_jax.models.parts import compose
from resnet_jax.models.receptive_field import PIXEL, Walk
from resnet_jax.report import analyses, traces
from resnet_jax.train import prediction
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.setup import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[1]
PREACTIVATED = {"activation_order": "full_preactivation", "shortcut": "B"}
BOTTLENECK = {"depth": 11, "block": "bottleneck", **PREACTIVATED}
CLASSES = ("3", "5", "8")
KINDS = [
    {},
    {"residual": False, "width": 0.5},
    {"shortcut": "C", "shortcut_transform": "exclusive_gating"},
    BOTTLENECK,
    {"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5},
    {"shortcut_transform": "dropout", "dtype": "bfloat16"},
    {"activation_order": "relu_only_preactivation", "shortcut": "B"},
    {"activation_order": "bn_after_addition"},
]


def net(channels=3, num_classes=10, **fields):
    config = ModelConfig(**{"depth": 8, **fields})
    return registry.build(config, channels=channels, num_classes=num_classes)


def traced(**fields):
    """A net to be traced alone: no weights are drawn."""
    return nnx.eval_shape(lambda: net(**fields))


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_the_parts_one_after_the_other_are_the_nets_program(fields):
    values = nnx.split(traced(**fields))

    def program(run):
        image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
        kind, state = values
        return str(
            jax.make_jaxpr(lambda state, x: run(nnx.merge(kind, state, copy=True), x))(state, image)
        )

    whole = program(lambda net, x: net(x, train=False))
    assert program(lambda net, x: compose(net.parts(), x)) == whole


def test_blocks_one_after_the_other_are_the_net():
    values = nnx.split(net(depth=14))

    @jax.jit
    def both(x):
        model = nnx.merge(*values, copy=True)
        return compose(model.parts(blocks=True), x), model(x, train=False)

    np.testing.assert_array_equal(*both(jnp.ones((2, 4, 4, 3))))


@pytest.mark.parametrize("fields", KINDS[:4], ids=str)
def test_the_parts_cost_what_the_net_costs(fields):
    model = traced(**fields)
    whole = registry.functional(model)
    want = complexity.multiply_adds(whole.apply, whole.params, whole.stats, (1, 16, 16, 3))
    for blocks in (False, True):
        parts = complexity.of_parts(model, (16, 16, 3), blocks=blocks)
        assert sum(part.parameters for part in parts) == registry.count_parameters(whole.params)
        assert sum(part.multiply_adds for part in parts) == want


def test_each_part_has_the_shape_and_the_costs_that_the_paper_gives_it():
    # He et al. 2015, Sec. 4.2: depth 8 has one block a stage, of two 3x3 layers with a BN each.
    def block(before, width, side):
        weights = 9 * before * width + 9 * width * width
        return weights + 4 * width, weights * side * side

    model = traced()
    assert [tuple(part[:4]) for part in complexity.of_parts(model, (32, 32, 3))] == [
        ("stem", (32, 32, 16), 27 * 16 + 2 * 16, 27 * 16 * 32 * 32),
        ("stage 1", (32, 32, 16), *block(16, 16, 32)),
        ("stage 2", (16, 16, 32), *block(16, 32, 16)),
        ("stage 3", (8, 8, 64), *block(32, 64, 8)),
        ("global average pooling", (64,), 0, 0),
        ("head", (10,), 650, 640),
    ]
    names = [part.name for part in complexity.of_parts(traced(**BOTTLENECK), (8, 8, 3))]
    assert names[4:6] == ["final activation", "global average pooling"]


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_stages_see_what_their_convolutions_add_up_to(depth):
    # Each 3x3 layer adds 2 pixels of its input, which are 1, 2 and 4 pixels of the image apart;
    # a stage's first layer still has the pixels of the stage before.
    n = (depth - 2) // 6
    want = [3, 3 + 4 * n, 3 + 4 * n + 2 + 4 * (2 * n - 1), 28 * n - 3]
    *maps, pooling, head = complexity.of_parts(traced(depth=depth), (32, 40, 3))
    assert [part.receptive_field for part in maps] == [(size, size) for size in want]
    assert not any(part.sees_all for part in maps)
    for part in (pooling, head):
        assert part.sees_all and part.receptive_field == (32, 40)


def spans(function, *shape):
    shape = shape or (1, 40, 40, 1)
    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32)).jaxpr
    (found,) = Walk(shape[1:3]).through(program, [PIXEL])
    return found


def support(function, row, column, side=40):
    """The rows and columns of the image that one pixel of the output has gradient at."""

    def pixel(x):
        return function(x)[:, row, column].sum()

    gradient = jax.grad(pixel)(jnp.ones((1, side, side, 1), jnp.float32))
    found = np.nonzero(np.asarray(gradient)[0, :, :, 0])
    return [(int(where.min()), int(where.max())) for where in found]


def convolved(x, kernel=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)), **more):
    numbers = ("NHWC", "HWIO", "NHWC")
    weights = jnp.ones((*kernel, x.shape[-1], 1))
    return lax.conv_general_dilated(x, weights, strides, padding, dimension_numbers=numbers, **more)


@pytest.mark.parametrize("layers", [1, 2, 5, 10])
def test_n_convolutions_of_3x3_see_1_plus_2n_pixels(layers):
    def stack(x):
        for _ in range(layers):
            x = convolved(x)
        return x

    assert [span.size for span in spans(stack)] == [1 + 2 * layers] * 2


def summed(x, side, padding):
    return lax.reduce_window(x, 0.0, lax.add, (1, side, side, 1), (1, 2, 2, 1), padding)


OPERATIONS = [
    convolved,
    lambda x: convolved(x, (7, 5), (2, 3), ((3, 3), (2, 2))),
    lambda x: convolved(x, (3, 3), (2, 2), ((0, 1), (1, 0))),
    lambda x: convolved(x, (3, 3), padding=((2, 2), (2, 2)), rhs_dilation=(2, 2)),
    lambda x: convolved(x[:, 3::2, 1::3], (4, 2)),
    lambda x: jnp.pad(x, ((0, 0), (2, 0), (1, 3), (1, 1))),
    lambda x: summed(convolved(x, (5, 5)), 3, ((0, 0), (0, 1), (1, 0), (0, 0))),
    lambda x: convolved(summed(x, 2, "VALID")),
    lambda x: x[:, ::2, ::2] + convolved(x, (3, 3), (2, 2)),
    lambda x: jax.jit(nnx.relu)(convolved(convolved(x, (1, 9), padding=((0, 0), (4, 4))))),
    lambda x: jnp.concatenate([convolved(x, (5, 5), padding=((2, 2), (2, 2))), x], -1),
]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_what_an_operation_sees_is_where_the_gradient_is_not_zero(number):
    function = OPERATIONS[number]
    for place in ((7, 7), (8, 9)):
        want = [
            (span.jump * i + span.low, span.jump * i + span.high)
            for span, i in zip(spans(function), place, strict=True)
        ]
        assert support(function, *place) == want


@pytest.mark.parametrize("fields", [{}, BOTTLENECK], ids=str)
def test_what_the_last_stage_sees_is_where_its_gradient_is_not_zero(fields):
    # Positive weights, so that no path cancels another and every ReLU is open.
    model = net(1, width=0.25, **fields)
    for _, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if value[...].ndim == 4:
            value[...] = jnp.full_like(value[...], 0.1)
    values = nnx.split(model)

    def last(x):
        stem_and_stages = nnx.merge(*values, copy=True).parts()[:4]
        return compose(stem_and_stages, x)

    (field,) = [
        part.receptive_field
        for part in complexity.of_parts(model, (64, 64, 1))
        if part.name == "stage 3"
    ]
    found = support(jax.jit(last), 8, 8, side=64)
    assert [high - low + 1 for low, high in found] == list(field)


def test_the_pooling_stem_of_imagenet_nets_sees_11_pixels():
    # He et al. 2015, Table 1: 7x7 at stride 2, then max pooling of 3x3 at stride 2: 7 + 2 * 2.
    def stem(x):
        x = convolved(x, (7, 7), (2, 2), ((3, 3), (3, 3)))
        return nnx.max_pool(nnx.relu(x), (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    assert [(span.size, span.jump) for span in spans(stem)] == [(11, 4), (11, 4)]


@pytest.mark.parametrize(
    "function", [lambda x: x.mean((1, 2)), lambda x: x * x.max((1, 2), keepdims=True),
                 lambda x: x.reshape(len(x), -1) @ jnp.ones((1600, 3))],
)  # fmt: skip
def test_a_reduction_over_all_pixels_sees_the_whole_image(function):
    assert spans(function) == Walk((40, 40)).all


@pytest.mark.parametrize(
    "function", [lambda x: x[:, ::-1], lambda x: x.transpose(0, 2, 1, 3), lambda x: x.mean(1),
                 lambda x: jnp.sort(x, 1), lambda x: x[:, ::2] + x[:, :20],
                 lambda x: jnp.concatenate([x, x], 1)],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_and_not_guessed(function):
    with pytest.raises(NotImplementedError, match="receptive field: "):
        spans(function)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves for a trace: two checkpoints, of which the first is the best on val."""
    folder = tmp_path_factory.mktemp("runs") / "three"
    config = validate(
        {
            "model": {"depth": 8, **PREACTIVATED},
            "data": {"name": "digits", "crop_padding": 0, "flip": False, "classes": CLASSES},
            "parallel": {"devices": 1},
        }
    )
    experiment = Experiment.prepare(config)
    checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, keep=2)
    random = np.random.RandomState(0)
    for step, error in ((2, 10.0), (4, 20.0)):
        drawn = jax.tree.map(
            lambda x: (x + random.uniform(0, 0.1, x.shape)).astype(x.dtype),
            (experiment.state.params, experiment.state.stats),
        )
        state = dataclasses.replace(
            experiment.state, params=drawn[0], stats=drawn[1], step=np.int32(step)
        )
        checkpoints.save(step, state, error)
    checkpoints.close()
    run_folder.write_text(folder / run_folder.CONFIG, to_json(config))
    experiment.preprocessing.save(folder / run_folder.PREPROCESSING)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """The first test digit."""
    path = tmp_path_factory.mktemp("images") / "a digit.v1.png"
    digits = datasets.load(DataConfig(name="digits"))
    PIL.Image.fromarray(digits.test.images[0][..., 0]).save(path)
    return path


@pytest.mark.parametrize("which", ["last", "best"])
def test_an_images_trace_ends_in_what_predict_says_of_it(run, picture, which):
    found = trace(run, picture, which=which, blocks=which == "best")
    predicted = prediction.predict(run, [picture], which=which)
    assert found.report["step"] == predicted["step"] == {"best": 2, "last": 4}[which]
    (row,) = predicted["images"]
    want = {place["class"]: place["probability"] for place in row["classes"]}
    probabilities = scipy.special.softmax(found.logits)
    np.testing.assert_allclose(probabilities, [want[name] for name in CLASSES], atol=1e-6)
    assert [r["class"] for r in found.report["classes"]] == list(want)


def test_of_many_classes_the_most_probable_are_told(run, picture, monkeypatch, found):
    assert len(found.report["classes"]) == 3
    assert command.TOP == 5
    monkeypatch.setattr(command, "TOP", 2)
    assert trace(run, picture).report["classes"] == found.report["classes"][:2]


@pytest.fixture(scope="module")
def found(run, picture):
    return trace(run, picture, blocks=True)


def test_means_and_deviations_are_those_of_what_the_parts_make(run, picture, found):
    request = prediction.Request.read(run, [picture], "last")
    _, state = request.restored()
    model = net(1, 3, **PREACTIVATED)
    registry.update(model, *jax.tree.map(jnp.asarray, (state.params, state.stats)))
    mean = np.load(run / run_folder.PREPROCESSING)["mean"]
    x = np.asarray(PIL.Image.open(picture), np.float32)[None, ..., None] / 255 - mean
    last = np.asarray(compose(model.parts()[:-2], jnp.asarray(x)))
    rows = {row["name"]: row for row in found.report["parts"]}
    for name, value in {"input": x, "final activation": last}.items():
        assert rows[name]["mean"] == pytest.approx(value.mean(), rel=1e-4)
        assert rows[name]["deviation"] == pytest.approx(value.std(), rel=1e-4)
    # Zhou et al. 2016, eq. 1 and 2: the map's mean and the bias are the class's score.
    kernel, bias = (np.asarray(x[...]) for x in (model.head.kernel, model.head.bias))
    for label in range(3):
        activation = command.class_activation_map(model, last[0], label)
        assert activation.shape == (2, 2)
        assert activation.mean() + bias[label] == pytest.approx(found.logits[label], rel=1e-4)
        assert activation[1, 0] == pytest.approx(last[0, 1, 0] @ kernel[:, label], rel=1e-3)
    first = command.class_activation_map(model, last[0], int(found.logits.argmax()))
    np.testing.assert_allclose(found.picture.activation, first, rtol=1e-4)


def test_a_stage_stands_before_its_blocks_and_costs_what_they_cost():
    x, model = np.zeros((1, 8, 8, 3), np.uint8), net(depth=14)
    statistics = types.SimpleNamespace(mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    values = command.outputs(model, DataConfig(), x, statistics, blocks=True)
    rows = command.rows(values, complexity.of_parts(model, (8, 8, 3), blocks=True))
    assert [row["name"] for row in rows[:6]] == [
        *("input", "stem", "stage 1", "stage 1, block 1", "stage 1, block 2", "stage 2")
    ]
    by_name = {row["name"]: row for row in rows}
    for number in (1, 2, 3):
        stage, *blocks = (
            by_name[f"stage {number}{rest}"] for rest in ("", ", block 1", ", block 2")
        )
        for key in ("parameters", "multiply_adds"):
            assert stage[key] == sum(block[key] for block in blocks)
        for key in ("shape", "receptive_field", "mean", "deviation"):
            assert stage[key] == blocks[-1][key]
    without = complexity.of_parts(model, (8, 8, 3))
    assert [row for row in rows if "," not in row["name"]][1:] == [
        by_name[part.name] | part._asdict() for part in without
    ]


def flags(monkeypatch, **values):
    names = {"workdir": None, "checkpoint": "last", "blocks": False, "out": None, **values}
    for name, value in names.items():
        value = types.SimpleNamespace(value=None if value is None else value)
        monkeypatch.setattr(command, f"_{name.upper()}", value, raising=False)


def test_the_figure_and_its_numbers_are_written_where_asked_or_into_the_run(
    run, picture, found, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "trace", lambda *a, **k: found)
    for out, name in (
        (None, run / run_folder.ANALYSIS / "trace-a digit.v1.png"),
        (str(tmp_path / "new" / "figure.svg"), tmp_path / "new" / "figure.svg"),
    ):
        flags(monkeypatch, workdir=str(run), out=out)
        command.main(["trace", str(picture)])
        assert capsys.readouterr().out.splitlines()[-1] == str(name)
        assert name.stat().st_size > 5000
        stored = json.loads(name.with_suffix(".json").read_text())
        assert stored["classes"] == found.report["classes"]
        assert stored["parts"][0]["shape"] == [8, 8, 1]
        assert stored["image"] == "a digit.v1.png" and stored["dataset"] == "digits"


def test_in_a_pipe_each_part_and_each_class_is_a_line(found, capsys, monkeypatch):
    command.show(found.report)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == list(command.COLUMNS)
    stem = next(line for line in lines if line[0] == "stem")
    assert stem[1:5] == ["8x8x16", "176", "9,216", "3x3"]
    assert lines[-4][0] == "head" and lines[-4][4] == "whole image"
    assert [line[1] for line in lines[-3:]] == [row["class"] for row in found.report["classes"]]
    monkeypatch.setenv("FORCE_COLOR", "1")
    command.show(found.report)
    printed = capsys.readouterr().out
    assert "┃" in printed and "\t" not in printed


def refusal(monkeypatch, *images, **values):
    flags(monkeypatch, **values)
    with pytest.raises(InputError) as error:
        command.main(["trace", *map(str, images)])
    (line,) = str(error.value).splitlines()
    return line


def test_bad_input_is_told_in_one_line(run, picture, tmp_path, monkeypatch):
    workdir = str(run)
    assert "--workdir is missing" in refusal(monkeypatch, picture)
    assert "got 0; name one file" in refusal(monkeypatch, workdir=workdir)
    assert "got 2; name one file" in refusal(monkeypatch, picture, picture, workdir=workdir)
    assert re.search(
        r"--out=a.txt must end in .png, .pdf, .svg",
        refusal(monkeypatch, picture, workdir=workdir, out="a.txt"),
    )
    assert "missing.png does not exist" in refusal(
        monkeypatch, tmp_path / "missing.png", workdir=workdir
    )
    assert "is this a run's folder?" in refusal(monkeypatch, picture, workdir=str(tmp_path))


def test_a_figure_that_cannot_be_written_is_told_in_one_line(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: .*; choose another --out"):
        command.write(found, tmp_path / "file" / "a.png")


def test_a_diverged_net_has_no_trace(run, picture, monkeypatch):
    broken = [np.zeros((8, 8, 1)), np.full(3, np.nan)]
    monkeypatch.setattr(command, "outputs", lambda *a, **k: broken)
    with pytest.raises(InputError, match="what is not finite; the run has diverged"):
        trace(run, picture)


def test_the_command_prints_and_draws_each_block_if_asked_to(run, picture, tmp_path):
    out = tmp_path / "a.png"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.trace", f"--workdir={run}", str(picture)]
        + ["--blocks", "--checkpoint=best", f"--out={out}"],
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "stage 3, block 1\t2x2x64" in done.stdout
    stored = json.loads(out.with_suffix(".json").read_text())
    assert {row["class"] for row in stored["classes"]} == set(CLASSES)
    with PIL.Image.open(out) as figure:
        assert figure.width > 1000


def test_the_strongest_channels_are_those_of_most_energy():
    maps = np.zeros((2, 2, 20))
    maps[0, 0, 3], maps[..., 7], maps[1, 1, 11] = -9, 4, 5
    assert traces.strongest(maps)[:3].tolist() == [3, 7, 11]
    assert len(traces.strongest(maps)) == 16
    assert len(traces.strongest(maps[..., :5])) == 5


def test_a_mosaic_shows_every_pixel_of_every_map_and_gaps_between():
    maps = np.arange(2 * 4 * 3, dtype=float).reshape(2, 4, 3)
    shown = traces.mosaic(maps)
    # Three maps in two columns, each enlarged 16 times to 32 x 64, 4 pixels apart.
    assert shown.shape == (2 * 32 + 4, 2 * 64 + 4)
    np.testing.assert_array_equal(shown[:32:16, :64:16], maps[..., 0])
    np.testing.assert_array_equal(shown[:32:16, 68::16], maps[..., 1])
    np.testing.assert_array_equal(shown[36::16, :64:16], maps[..., 2])
    assert np.isnan(shown[32:36]).all() and np.isnan(shown[36:, 64:]).all()


def test_colour_images_and_names_that_look_like_formulas_are_drawn(tmp_path):
    report = {
        **{"image": "$x_1.png", "step": 3, "dataset": "synthetic", "commit": None},
        "net": {"family": "plain", "depth": 8, "activation_order": "original"},
        "classes": [{"class": "$a^b$ " + 40 * "long", "probability": 1.0}],
    }
    maps = {f"stage {i}": np.zeros((4, 4, 3)) for i in range(6)}
    image = np.zeros((32, 48, 3), np.uint8)
    figure = traces.draw(traces.Picture(report, image, maps, np.ones((2, 3))))
    figure.savefig(tmp_path / "a.png")
    titles = [axes.get_title() for axes in figure.get_axes()]
    assert "input, 32x48x3" in titles and sum("stage" in title for title in titles) == 6


def test_a_figure_from_outside_of_git_says_that_the_commit_is_unknown():
    told = analyses.note([{"dataset": "digits", "commit": None}], "one image")
    assert told == "one image · digits · commit unknown"
