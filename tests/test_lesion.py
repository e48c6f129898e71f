import itertools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from resnet_jax import run_folder
from resnet_jax.analysis import gates, lesion
from resnet_jax.analysis.trained import Trained
from resnet_jax.config import ModelConfig
from resnet_jax.models import registry
from resnet_jax.train import loop
from tests.digits_run import digits_run

RANDOM = np.random.RandomState(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(4, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 3])


def net(**model):
    """A net whose statistics and scales are not those of an untrained one."""
    config = ModelConfig(**{"depth": 14, **model})
    built = registry.build(config, channels=3, num_classes=4)
    found = registry.functional(built)

    def drawn(path, x):
        is_variance = path[-1].key == "variance"
        values = (
            RANDOM.uniform(0.5, 1.5, x.shape) if is_variance else RANDOM.normal(0, 0.1, x.shape)
        )
        return values.astype(x.dtype)

    stats = jax.tree_util.tree_map_with_path(drawn, found.stats)
    registry.update(built, found.params, stats)
    return config, built


def logits(model, params=None, stats=None):
    found = registry.functional(model)
    return found.apply(params or found.params, stats or found.stats, IMAGES, False)[0]


KINDS = [
    {},
    {"residual": False},
    {"shortcut": "B", "activation_order": "full_preactivation"},
    {"activation_order": "full_preactivation", "residual": False},
    {"depth": 20, "block": "bottleneck", "shortcut": "B"},
    {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.5, "branch_scale": 0.5},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("gradient_only", [False, True])
def test_gates_that_are_not_moved_change_nothing(kind, gradient_only):
    config, model = net(**kind)
    edited = gates.gated(model, config, gradient_only=gradient_only)
    if config.residual or not gradient_only:
        np.testing.assert_allclose(logits(edited), logits(model), rtol=2e-5, atol=2e-5)


class OnlyShortcut(nnx.Module):
    """What is left of a block without its branch, in the original order of activation."""

    def __init__(self, block, shortcut):
        self.kept = shortcut or block.shortcut

    def __call__(self, x, *, train, keys=None, shortcut_scale=None):
        return nnx.relu(self.kept(x, train=train))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("place", [(0, 1), (1, 0), (2, 1)])
def test_a_block_taken_out_by_its_gates_is_as_one_taken_out_of_the_net(residual, place):
    config, model = net(residual=residual)
    _, twin = net()
    edited = gates.gated(model, config)
    params = gates.with_gates(registry.functional(edited).params, [place])
    stage, block = place
    by_hand = nnx.clone(model)
    by_hand.stages[stage][block] = OnlyShortcut(
        by_hand.stages[stage][block], twin.stages[stage][block].shortcut
    )
    # Not as a program: that repeats one block for all that are alike, and these are not.
    np.testing.assert_allclose(
        logits(edited, params), by_hand(IMAGES, train=False), rtol=2e-5, atol=2e-5
    )
    assert np.abs(logits(edited, params) - logits(model)).max() > 1e-2


def test_all_lesions_and_orders_of_a_net_are_one_program():
    config, model = net(depth=20)
    found = registry.functional(gates.gated(model, config))
    traces = []

    @jax.jit
    def apply(params, stats):
        traces.append(None)
        return found.apply(params, stats, IMAGES, False)[0].sum()

    def error(params, stats):
        return float(apply(params, stats))

    lesion.single(error, found.params, found.stats)
    lesion.several(error, found.params, found.stats, counts=[1, 2], draws=2, seed=0)
    lesion.truncated(error, found.params, found.stats)
    lesion.reordered(error, found.params, found.stats, swaps=[0, 3], draws=2, seed=0)
    assert len(traces) == 1


def collected(measure, model, config, **how):
    """The (params, stats) that an experiment asks the error of, and what it reports."""
    found, asked = registry.functional(gates.gated(model, config)), []

    def error(params, stats):
        asked.append((params, stats))
        return float(len(asked))

    return measure(error, found.params, found.stats, **how), asked, found


def taken_out(params):
    return [
        place
        for place in gates.places(params)
        if params["stages"][place[0]][place[1]]["addition"][gates.BRANCH] == 0
    ]


def test_each_block_is_taken_out_once_and_those_that_change_the_shape_are_marked():
    config, model = net()
    rows, asked, _ = collected(lesion.single, model, config)
    assert [taken_out(params) for params, _ in asked] == [[p] for p in gates.places(asked[0][0])]
    assert [(r["stage"], r["block"]) for r in rows] == list(itertools.product((1, 2, 3), (1, 2)))
    assert [r["changes_shape"] for r in rows] == [False, False, True, False, True, False]
    assert [r["error"] for r in rows] == [1, 2, 3, 4, 5, 6]


def test_blocks_taken_out_together_are_different_ones_and_never_change_the_shape():
    config, model = net(depth=20)
    rows, asked, _ = collected(lesion.several, model, config, counts=[2, 5], draws=3, seed=1)
    out = [taken_out(params) for params, _ in asked]
    assert [len(places) for places in out] == [2] * 3 + [5] * 3
    assert all((s, 0) not in places for places in out for s in (1, 2))
    assert len(set(map(tuple, out))) > 2
    assert [len(row["errors"]) for row in rows] == [3, 3]


def test_truncation_leaves_the_first_blocks_of_each_stage():
    config, model = net(depth=20)
    rows, asked, _ = collected(lesion.truncated, model, config)
    assert [row["blocks_per_stage"] for row in rows] == [3, 2, 1]
    assert [taken_out(params) for params, _ in asked] == [
        [],
        [(0, 2), (1, 2), (2, 2)],
        [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)],
    ]


def test_reordering_exchanges_whole_blocks_of_one_stage_with_their_statistics():
    config, model = net(depth=26)
    rows, asked, found = collected(
        lesion.reordered, model, config, swaps=[0, 1, 6], draws=2, seed=0
    )
    assert [row["swaps"] for row in rows] == [0, 1, 1, 6, 6]
    assert rows[0]["kendall_tau"] == 1
    original = [
        float(np.sum(found.params["stages"][s][b]["convs"][0]["kernel"]))
        for s, b in gates.places(found.params)
    ]
    for row, (params, stats) in zip(rows, asked, strict=True):
        sums = [
            float(np.sum(params["stages"][s][b]["convs"][0]["kernel"]))
            for s, b in gates.places(params)
        ]
        assert sorted(sums) == sorted(original)
        moved = [p for p, a, b in zip(gates.places(params), sums, original, strict=True) if a != b]
        assert len(moved) <= 2 * row["swaps"] and not {(1, 0), (2, 0)} & set(moved)
        assert (row["kendall_tau"] == 1) == (not moved)
        for stage, block in gates.places(params):
            total = sums[gates.places(params).index((stage, block))]
            old = gates.places(params)[original.index(total)]
            assert old[0] == stage
            mine, its = stats["stages"][stage][block], found.stats["stages"][old[0]][old[1]]
            np.testing.assert_array_equal(mine["norms"][0]["mean"], its["norms"][0]["mean"])


def test_kendalls_tau_is_the_share_of_pairs_in_order_minus_those_out_of_order():
    def tau(*orders):
        return lesion.kendall_tau([np.array(order) for order in orders])

    assert tau([0, 1, 2, 3]) == pytest.approx(1)
    assert tau([3, 2, 1, 0]) == pytest.approx(-1)
    assert tau([1, 0, 2, 3]) == pytest.approx(1 - 2 * 1 / 6)
    # 10 pairs in order of the first stage, 3 out of order of the second.
    assert tau([0, 1, 2, 3, 4], [2, 1, 0]) == pytest.approx((10 - 3) / 13)


def test_the_gradients_of_all_paths_add_up_to_the_nets():
    config, model = net(depth=8)
    found = registry.functional(gates.gated(model, config, gradient_only=True))

    def gradient(params):
        def loss(images):
            scores = found.apply(params, found.stats, images, False)[0]
            return optax.softmax_cross_entropy_with_integer_labels(scores, LABELS).mean()

        return jax.grad(loss)(IMAGES)

    places = gates.places(found.params)
    paths = [
        gradient(lesion._along(found.params, set(chosen)))
        for length in range(len(places) + 1)
        for chosen in itertools.combinations(places, length)
    ]
    assert len(paths) == 8
    whole = gradient(found.params)
    np.testing.assert_allclose(sum(paths), whole, rtol=1e-3, atol=1e-4 * np.abs(whole).max())
    assert all(np.abs(path).max() > 1e-3 * np.abs(whole).max() for path in paths)


def test_the_share_of_gradient_weighs_each_length_by_how_many_paths_have_it():
    config, model = net(depth=8)
    params = registry.functional(gates.gated(model, config, gradient_only=True)).params

    def norm(params):  # each block that is passed by its branch halves the gradient
        gates_ = [params["stages"][s][b]["addition"][gates.BRANCH] for s, b in gates.places(params)]
        return 0.5 ** float(sum(gates_))

    rows = lesion.path_gradients(norm, params, draws=2, seed=0, lengths=range(4))
    # (1 + 1/2)^3, term by term.
    terms = np.array([1, 3 / 2, 3 / 4, 1 / 8])
    np.testing.assert_allclose([r["share_of_gradient"] for r in rows], terms / terms.sum())
    np.testing.assert_allclose([r["share_of_paths"] for r in rows], np.array([1, 3, 3, 1]) / 8)


@pytest.fixture(scope="module", params=["residual", "plain"])
def run(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / request.param
    config = digits_run(
        model={"depth": 14, "residual": request.param == "residual"},
        train={"steps": 30, "eval_interval": 30},
    )
    assert loop.train(config, workdir)["state"] == "completed"
    return workdir


def test_a_trained_run_is_measured_whole(run):
    trained = Trained.load(run)
    report = lesion.measure(trained, split="test", examples=10_000, draws=2, seed=0)
    evaluated = json.loads((run / run_folder.EVALUATION).read_text())["splits"]["test"]
    assert report["error"] == pytest.approx(evaluated["error"])
    assert report["examples"] == evaluated["examples"]
    assert report["reordered"][0]["error"] == pytest.approx(report["error"])
    assert report["truncated"][0]["error"] == pytest.approx(report["error"])
    assert len(report["single"]) == 6
    assert ("paths" in report) == (run.name == "residual")
    if "paths" in report:
        assert sum(row["share_of_gradient"] for row in report["paths"]) == pytest.approx(1)
        assert all(row["norm"] > 0 for row in report["paths"])


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.lesion", *flags], capture_output=True, text=True
    )


def test_the_command_writes_what_it_found_into_the_runs_folder(run):
    if run.name == "plain":
        pytest.skip("the same command")
    done = command(f"--workdir={run}", "--examples=60", "--draws=1")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / run_folder.ANALYSIS / lesion.RESULT).read_text())
    assert found["examples"] == 60 and found["split"] == "val" and found["commit"]
    worst = max(found["single"], key=lambda row: row["error"])
    assert f"stage {worst['stage']}, block {worst['block']}" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--workdir is missing"),
        (("--workdir=/nowhere/at/all",), "is this a run's folder"),
    ],
)
def test_bad_input_is_told_in_one_line(flags, said):
    done = command(*flags)
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr
