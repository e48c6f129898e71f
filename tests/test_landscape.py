import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import run_folder
from resnet_jax.analysis import directions, landscape, objective, sharpness
from resnet_jax.analysis.trained import Trained
from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.train import loop
from resnet_jax.train.evaluator import Evaluator
from tests.digits_run import digits_run

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.normal(size=(16, 8, 8, 3))
LABELS = jnp.asarray(RANDOM.randint(0, 4, 16), jnp.int32)


def net(**model):
    """A net whose statistics and scales are not those of an untrained one."""
    config = ModelConfig(**{"depth": 8, **model})
    built = registry.build(config, channels=3, num_classes=4)
    found, dice = registry.functional(built), np.random.RandomState(1)

    def drawn(path, x):
        is_positive = path[-1].key in ("variance", "scale")
        values = dice.uniform(0.5, 1.5, x.shape) if is_positive else dice.normal(0, 0.1, x.shape)
        return jnp.asarray(values, x.dtype)

    def not_kernels(path, x):
        return x if path[-1].key == "kernel" else drawn(path, x)

    params = jax.tree_util.tree_map_with_path(not_kernels, found.params)
    registry.update(built, params, jax.tree_util.tree_map_with_path(drawn, found.stats))
    return built


@functools.cache
def one_net():
    """For tests that change nothing of it."""
    return net()


def leaves(tree):
    return {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(tree)}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def random_symmetric(values):
    """A matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.RandomState(2).normal(size=(len(values), len(values))))
    return (q * np.asarray(values, float)) @ q.T


def quadratic(params, matrix):
    w = jnp.concatenate([params["a"].reshape(-1), params["b"]])
    return 0.5 * w @ matrix @ w + jnp.sum(w)


def hessian_of(*matrices):
    params = {"a": jnp.ones((3, 4)), "b": jnp.zeros(len(matrices[0]) - 12)}
    return sharpness.Hessian(quadratic, params, [(jnp.asarray(m),) for m in matrices])


SPECTRUM = [*np.linspace(-0.5, 1, 14), 4, 7, 9, 20, 50, -3]


def test_eigenvalues_of_a_quadratic_are_its_matrixs(float64):
    hessian = hessian_of(random_symmetric(SPECTRUM))
    found = sharpness.largest(hessian, 5, seed=0)
    np.testing.assert_allclose([row["value"] for row in found], [50, 20, 9, 7, 4], rtol=1e-5)
    assert all(0 <= row["residual"] <= 1e-3 * row["value"] for row in found)
    bottom = sharpness.lowest(hessian, top=50.0, seed=0)
    assert bottom["value"] == pytest.approx(-3, abs=1e-3) and bottom["residual"] < 0.06


def test_an_eigenvalue_is_at_most_its_residual_away(float64, monkeypatch):
    monkeypatch.setattr(sharpness, "TOLERANCE", 0.2)
    spectrum = np.square(np.arange(1, 81.0))
    hessian = hessian_of(random_symmetric(spectrum))
    for row in sharpness.largest(hessian, 3, seed=0):
        distance = np.abs(spectrum - row["value"]).min()
        assert distance <= row["residual"] < 0.2 * row["value"] and row["residual"] > 1e-6


def test_products_are_means_over_batches_and_counted(float64):
    low, high = random_symmetric(SPECTRUM), random_symmetric(np.square(SPECTRUM))
    hessian = hessian_of(low, high)
    vector = RANDOM.normal(size=20)
    np.testing.assert_allclose(hessian(vector), (low + high) / 2 @ vector, rtol=1e-10)
    sharpness.largest(hessian, 2, seed=0)
    before = hessian.products
    sharpness.trace(hessian, draws=7, seed=0)
    assert before > 3 and hessian.products == before + 7


def test_the_trace_is_exact_for_a_diagonal_and_within_its_error_for_others(float64):
    # Signs squared are 1, so only what is off the diagonal varies from draw to draw.
    exact = sharpness.trace(hessian_of(np.diag(SPECTRUM)), draws=3, seed=0)
    assert exact["mean"] == pytest.approx(sum(SPECTRUM)) and exact["standard_error"] < 1e-9
    drawn = sharpness.trace(hessian_of(random_symmetric(SPECTRUM)), draws=400, seed=0)
    assert abs(drawn["mean"] - sum(SPECTRUM)) < 4 * drawn["standard_error"] < 40


def test_a_hessian_that_is_not_finite_has_no_eigenvalues():
    hessian = hessian_of(np.full((20, 20), np.inf, np.float32))
    assert sharpness.largest(hessian, 3, seed=0) == []
    assert sharpness.lowest(hessian, top=1.0, seed=0) is None


def test_eigenvalues_of_softmax_regression_are_those_of_its_known_hessian(float64):
    # Kronecker product of x x' and diag(p) - p p', averaged over examples.
    x, y = RANDOM.normal(size=(9, 3)), RANDOM.randint(0, 4, 9)
    w = RANDOM.normal(size=(3, 4))

    def loss(params, x, y):
        scores = jax.nn.log_softmax(x @ params["kernel"])
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    scores = np.exp(x @ w)
    p = scores / scores.sum(1, keepdims=True)
    known = np.mean(
        [np.kron(np.outer(a, a), np.diag(b) - np.outer(b, b)) for a, b in zip(x, p, strict=True)],
        axis=0,
    )
    batch = (jnp.asarray(x), jnp.asarray(y))
    hessian = sharpness.Hessian(loss, {"kernel": jnp.asarray(w)}, [batch])
    found = [row["value"] for row in sharpness.largest(hessian, 5, seed=0)]
    np.testing.assert_allclose(found, np.linalg.eigvalsh(known)[::-1][:5], rtol=1e-4)


@pytest.mark.parametrize("kind", [{}, {"shortcut": "C", "shortcut_transform": "exclusive_gating"}])
def test_every_filter_of_a_direction_has_the_norm_of_the_nets_own(kind):
    params = registry.functional(net(**kind)).params
    for number in (0, 1):
        direction = leaves(directions.random(params, seed=3, number=number))
        for place, weights in leaves(params).items():
            moved = direction[place]
            assert moved.dtype == weights.dtype and moved.shape == weights.shape
            if not place.endswith("['kernel']"):
                assert not moved.any()
                continue
            axes = tuple(range(weights.ndim - 1))
            own, its = (np.sqrt((np.square(np.float64(k))).sum(axes)) for k in (weights, moved))
            np.testing.assert_allclose(its, own, rtol=1e-5)
    assert (
        abs(directions.cosine(*(directions.random(params, seed=3, number=i) for i in (0, 1)))) < 0.1
    )


def test_a_filter_of_zeros_does_not_move():
    params = {"kernel": np.stack([np.zeros(5), np.ones(5)], axis=1)}
    moved = directions.random(params, seed=0, number=0)["kernel"]
    assert not moved[:, 0].any() and np.linalg.norm(moved[:, 1]) == pytest.approx(5**0.5)
    still = directions.filter_normalised({"kernel": np.zeros((5, 2))}, params)["kernel"]
    assert not still.any()


def test_a_plain_net_and_its_option_a_twin_draw_the_same():
    plain, residual, projected = (
        directions.raw(registry.functional(net(**kind)).params, seed=5, number=1)
        for kind in ({"residual": False}, {}, {"shortcut": "B"})
    )
    assert jax.tree.structure(plain) == jax.tree.structure(residual)
    np.testing.assert_array_equal(flat(plain), flat(residual))
    shared, more = leaves(plain), leaves(projected)
    assert shared.keys() < more.keys()
    assert all(np.array_equal(shared[place], more[place]) for place in shared)


def test_each_seed_number_and_place_has_a_draw_of_its_own():
    params = {"one": np.zeros((3, 4)), "two": np.zeros((3, 4))}
    drawn = [directions.raw(params, seed=s, number=n) for s, n in ((0, 0), (0, 1), (1, 0))]
    values = [draw[place] for draw in drawn for place in ("one", "two")]
    assert len({value.tobytes() for value in values}) == 6
    again = directions.raw(params, seed=0, number=0)
    np.testing.assert_array_equal(flat(again), flat(drawn[0]))


def test_second_derivatives_of_the_line_are_those_of_the_hessian(float64):
    model = net(dtype="float64")
    target = objective.of(model, jnp.asarray(IMAGES[:4]), LABELS[:4], batch_norm="batch")
    first, second = (directions.random(target.params, seed=0, number=i) for i in (0, 1))
    surface = landscape.Surface(target, first, second)
    step = 2e-6  # so short that no ReLU opens or closes on the way
    (before, at, after), _ = surface.measure([(0, -step), (0, 0), (0, step)])
    hessian = sharpness.Hessian(target.loss, target.params, target.batches)
    curvature = sharpness.curvature(hessian, second)
    assert (before - 2 * at + after) / step**2 == pytest.approx(curvature, rel=5e-3)
    assert abs(curvature) > 0.05


def rescaled(model, factor):
    """The same function, its first block's first filters `factor` times as long."""
    found = registry.functional(model)
    kernel = found.params["stages"][0][0]["convs"][0]
    norm = found.stats["stages"][0][0]["norms"][0]
    first = jnp.where(jnp.arange(16) < 8, factor, 1.0)
    kernel["kernel"] = kernel["kernel"] * first
    norm["mean"], norm["variance"] = norm["mean"] * first, norm["variance"] * first**2
    registry.update(model, found.params, found.stats)
    return model


def test_filter_normalised_curvature_is_that_of_the_function_and_raw_is_not(float64):
    # Dinh et al. 2017, Sec. 3: BN makes filters' lengths meaningless, and the Hessian knows them.
    exact = {"dtype": "float64", "batch_norm_epsilon": 0.0}
    found = []
    for model in (net(**exact), rescaled(net(**exact), 0.1)):
        target = objective.of(model, jnp.asarray(IMAGES), LABELS)
        hessian = sharpness.Hessian(target.loss, target.params, target.batches)
        own = directions.random(target.params, seed=0, number=0)
        unscaled = directions.raw(target.params, seed=0, number=0)
        found.append([sharpness.curvature(hessian, tree) for tree in (own, unscaled)])
    (own, unscaled), (own_too, unscaled_too) = found
    assert own_too == pytest.approx(own, rel=1e-6)
    assert abs(unscaled_too) > 2 * abs(unscaled)


def test_all_points_are_one_program_and_the_line_is_the_planes_axis():
    target = objective.of(one_net(), jnp.float32(IMAGES), LABELS)
    first, second = (directions.random(target.params, seed=0, number=i) for i in (0, 1))
    traces = []

    def counted(*arguments):
        traces.append(None)
        return target.loss_and_error(*arguments)

    surface = landscape.Surface(
        objective.Objective(counted, target.params, target.batches), first, second
    )
    line = landscape.line(surface, radius=0.5, points=9)
    plane = landscape.plane(surface, radius=0.5, points=5)
    assert len(traces) == 1
    assert plane["at"] == [-0.5, -0.25, 0, 0.25, 0.5] == line["at"][::2]
    for kind in ("loss", "error"):
        assert plane[kind][2] == line[kind][::2]
        assert np.shape(plane[kind]) == (5, 5) and len(line[kind]) == 9
    # A row for each step along the second direction.
    moved = jax.tree.map(lambda w, x, y: w + 0.5 * x - 0.25 * y, target.params, first, second)
    expected = target.loss(moved, *target.batches[0])
    assert plane["loss"][1][4] == pytest.approx(float(expected), rel=1e-4)


def test_far_off_a_loss_may_be_no_number_and_then_the_error_is_none(tmp_path):
    target = objective.of(one_net(), jnp.float32(IMAGES), LABELS)
    own = directions.random(target.params, seed=0, number=0)
    huge = jax.tree.map(lambda w: 1e30 * jnp.asarray(w), own)
    found = landscape.line(landscape.Surface(target, huge, huge), radius=1.0, points=3)
    # Compiled for CPUs, ReLU would make 0 of NaN here, and the loss that of the head's biases.
    assert not np.isfinite(found["loss"][0]) and np.isnan(found["error"][0])
    assert np.isfinite(found["loss"][1]) and np.isfinite(found["error"][1])
    run_folder.write_json(tmp_path / "x.json", found)
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["loss"][0] is kept["error"][0] is None


@pytest.mark.parametrize(
    ("count", "sizes"), [(5, [5]), (128, [128]), (200, [100, 100]), (257, [85, 85, 85])]
)
def test_images_are_divided_into_batches_of_one_size(count, sizes):
    images = jnp.arange(count, dtype=jnp.float32).reshape(-1, 1, 1, 1)
    target = objective.of(one_net(), images, jnp.arange(count))
    assert [len(labels) for _, labels in target.batches] == sizes
    assert target.examples == sum(sizes)
    for pixels, labels in target.batches:
        np.testing.assert_array_equal(pixels.ravel(), labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "r8"
    config = digits_run(model={"width": 0.5})
    loop.train(config, workdir)
    return workdir


HOW = {"points": 3, "radius": 0.5, "seed": 0, "images": 10_000}


def test_the_middle_is_what_the_evaluator_measures_and_the_net_stays_as_it_is(run):
    trained = Trained.load(run)
    before = flat(registry.functional(trained.model)[-2:])
    report = landscape.measure(trained, **HOW, with_sharpness=False)
    experiment = trained.experiment
    state = experiment.devices.replicate(experiment.state)
    values, _ = Evaluator(experiment).measure(state, "train")
    # 1294 images are 11 batches of 117, and 7 are left over.
    assert report["examples"] == 1287 and report["batch_size"] == 117
    assert report["loss"] == pytest.approx(values["loss"], rel=0.02)
    assert report["error"] == pytest.approx(values["error"], abs=0.6)
    assert report["line"]["loss"][4] == report["loss"] == report["plane"]["loss"][1][1]
    assert report["line"]["error"][4] == report["error"] < 100 * 0.9
    np.testing.assert_array_equal(before, flat(registry.functional(trained.model)[-2:]))
    assert report["batch_norm"] == "running" and report["split"] == "train"
    assert abs(report["directions"]["cosine"]) < 0.5


def test_as_many_images_as_the_evaluator_has_give_its_numbers_exactly(run):
    trained = Trained.load(run)
    report = landscape.measure(
        trained, **HOW | {"images": 128}, with_plane=False, with_sharpness=False
    )
    experiment = trained.experiment
    (examples, mask), *_ = experiment.feed.padded_batches("train", 128)
    program = Evaluator(experiment).program
    state = experiment.devices.replicate(experiment.state)
    metrics, _ = program(state.params, state.stats, experiment.arrays, examples, mask)
    found = jax.device_get(metrics).compute()
    assert report["loss"] == pytest.approx(float(found["loss"]), rel=1e-5)
    assert report["error"] == pytest.approx(float(found["error"]), rel=1e-5)
    assert "plane" not in report and "sharpness" not in report


def test_statistics_of_the_batch_are_those_of_training(run):
    trained = Trained.load(run)
    images, labels = trained.training_images(32)
    model = registry.functional(trained.model)
    logits, _ = model.apply(model.params, model.stats, images, True)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
    how = HOW | {"images": 32, "batch_norm": "batch"}
    report = landscape.measure(trained, **how, with_plane=False, with_sharpness=False)
    assert report["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert report["batch_norm"] == "batch"


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.landscape", *flags],
        capture_output=True,
        text=True,
    )


def test_the_command_writes_what_it_found_into_the_runs_folder(run):
    done = command(f"--workdir={run}", "--points=3", "--images=40", "--seed=7", "--nosharpness")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / run_folder.ANALYSIS / landscape.RESULT).read_text())
    assert found["examples"] == 40 and found["commit"] and found["directions"]["seed"] == 7
    assert np.shape(found["plane"]["loss"]) == (3, 3) and len(found["line"]["at"]) == 9
    assert f"loss {found['loss']:.3g}" in done.stdout and str(run) in done.stdout


def test_curvatures_lie_between_the_extreme_eigenvalues(run):
    how = HOW | {"images": 8, "seed": 7}
    found = landscape.measure(Trained.load(run), **how, with_plane=False)["sharpness"]
    values = [row["value"] for row in found["eigenvalues"]]
    assert len(values) == 5 and values == sorted(values, reverse=True) and values[0] > 0
    assert found["lowest"]["value"] < values[-1]
    assert all(row["residual"] < 2e-3 * values[0] for row in found["eigenvalues"])
    params = Trained.load(run).experiment.state.params
    for number, curvature in enumerate(found["curvatures"]):
        length = np.linalg.norm(flat(directions.random(params, seed=7, number=number)))
        assert found["lowest"]["value"] < curvature / length**2 < values[0]
    assert len(found["curvatures"]) == sharpness.PROBES
    assert f"largest eigenvalue {values[0]:.3g}" in landscape._told(found)
    nothing = {"eigenvalues": [], "lowest": None, "products": 1}
    assert "largest eigenvalue not found" in landscape._told(nothing)


def test_bad_input_is_told_in_one_line():
    done = command("--workdir=/nowhere/at/all", "--points=24")  # before anything is loaded
    assert done.returncode == 2 and "--points=24 leaves the trained net out" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("points", "radius"), [(1, 1.0), (4, 1.0), (3, 0.0), (3, float("nan"))])
def test_grids_without_a_middle_or_an_extent_are_refused(points, radius):
    with pytest.raises(InputError, match=r"--points=|--radius="):
        landscape._require_grid(points, radius)


def test_nets_that_training_changes_otherwise_are_not_measured_as_in_training():
    annealed = ModelConfig(depth=8, shortcut_transform="annealed_scaling")
    with pytest.raises(InputError, match="annealed shortcuts.*--batch_norm=running"):
        objective.require_batch_norm("batch", annealed)
    objective.require_batch_norm("running", annealed)
    objective.require_batch_norm("batch", ModelConfig(depth=8))
