"""Nets that start from trained weights, and of which only a part is trained."""

import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

from resnet_jax import run_folder
from resnet_jax.config import DataConfig, ModelConfig, OptimizerConfig, validate
from resnet_jax.data import augment
from resnet_jax.errors import InputError
from resnet_jax.models import complexity, registry
from resnet_jax.models.partial import Cut, digest, join
from resnet_jax.train import evaluation, loop, optimizer, prediction
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.frozen import FrozenParts
from resnet_jax.train.setup import Experiment
from tests import nets
from tests.digits_run import digits_run

HEAD = {"trained_from": "head"}


@pytest.fixture(autouse=True)
def promotion():
    """Optax's Adam divides by whole numbers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def synthetic_run(**changes):
    """As digits_run, on generated images of three colours."""
    data = {"name": "synthetic", "synthetic": {"image_size": 8, "examples": 200}}
    fields = {
        "model": {"depth": 8},
        "data": {**data, "crop_padding": 0, "flip": False},
        "train": {"steps": 12, "batch_size": 16, "eval_interval": 6, "checkpoint_interval": 12},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "schedule": "constant"},
        "log": {"tensorboard": False, "interval": 3, "progress": False, "signals_interval": 0},
        "parallel": {"devices": 1},
    }
    parts = fields.keys() | changes.keys()
    return validate({part: fields.get(part, {}) | changes.get(part, {}) for part in parts})


def trained(config, workdir):
    """What a run's net computes with in the end, and its status."""
    status = loop.train(config, workdir)
    checkpoints = Checkpoints(workdir / run_folder.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(checkpoints.last_step, like=Experiment.prepare(config).state)
    return state.evaluated, status


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run that has learned the digits 0 to 5."""
    folder = tmp_path_factory.mktemp("pretrained") / "backbone-seed0"
    classes = {"classes": tuple("012345"), "normalization": "none"}
    loop.train(digits_run(data=classes, train={"steps": 30}), folder)
    return folder


def on_two_digits(pretrained, **changes):
    """A run on digits that the other has not seen."""
    parts = {
        "data": {"classes": tuple("89"), "normalization": "none", **changes.pop("data", {})},
        "model": {"depth": 8, "weights": str(pretrained), **changes.pop("model", {})},
        "transfer": {"new_head": True, **changes.pop("transfer", {})},
        "optimizer": {
            **{"name": "adamw", "learning_rate": 0.01, "schedule": "constant"},
            **changes.pop("optimizer", {}),
        },
    }
    base = dataclasses.asdict(digits_run())
    for part, change in (parts | changes).items():
        base[part] |= change
    return validate(base)


# What is frozen, and what is not.


def paths(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


NETS = {
    "CIFAR": (ModelConfig(depth=8, activation_order="full_preactivation"), (8, 8, 3)),
    "ImageNet": (nets.resnet(18, width=1 / 16), (32, 32, 3)),
    "VGG": (nets.vgg(11, normalized=True, width=1 / 16), (224, 224, 3)),
}


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_belongs_to_the_part_that_reads_it(name):
    config, image = NETS[name]
    model = nets.build(config)
    net = registry.functional(model)
    costs = complexity.of_parts(model, image)
    names = [cost.name for cost in costs]
    total = registry.count_parameters(net.params)
    before = 0
    for cost in costs:
        _, frozen = Cut(names, cost.name).divide(net.params)
        # Counted from the traced program, which knows no names.
        assert registry.count_parameters(frozen) == before, cost.name
        before += cost.parameters
    assert before == total


def test_both_halves_of_a_tree_are_all_of_it():
    net = registry.functional(nets.build(NETS["ImageNet"][0]), trained_from="stage 3")
    for tree in (net.params, net.stats):
        trained, frozen = net.cut.divide(tree)
        assert paths(trained) | paths(frozen) == paths(tree)
        assert not paths(trained) & paths(frozen)
        jax.tree.map(np.testing.assert_array_equal, join(trained, frozen), tree)
    assert all(
        "'stages'][2]" in p or "'stages'][3]" in p for p in paths(net.cut.divide(net.stats)[0])
    )


def test_a_part_that_a_net_does_not_have_is_refused():
    with pytest.raises(ValueError, match="'stage 9' is none of the parts"):
        registry.functional(nets.build(ModelConfig(depth=8)), trained_from="stage 9")


@pytest.mark.parametrize(
    ("part", "average_decay", "parallel"),
    [
        ("head", 0.0, {"devices": 1}),
        ("stage 3", 0.9, {"devices": 1}),
        ("head", 0.9, {"devices": 3}),
        ("stage 3", 0.9, {"devices": 3, "mapping": "pmap"}),
    ],
)
def test_frozen_parameters_and_statistics_stay_the_same_to_the_bit(
    part, average_decay, parallel, tmp_path
):
    config = synthetic_run(
        transfer={"trained_from": part},
        train={"average_decay": average_decay, "batch_size": 15, "steps": 6},
        parallel=parallel,
    )
    experiment = Experiment.prepare(config)
    start = jax.tree.map(np.copy, experiment.state)
    for weights in (start, start.evaluated):
        # A negative zero is what adding an update of zero would change.
        weights.params["stem_conv"]["kernel"][0, 0, 0, 0] = -0.0
    experiment = dataclasses.replace(experiment, state=start)
    state = experiment.placed(experiment.state)
    frozen = FrozenParts(experiment, state)
    for batch in experiment.batches(0):
        (state,) = experiment.train_program(state, experiment.arrays, batch)
    frozen.require_unchanged(state)
    told = frozen.report["frozen"]
    assert told["sha256_after"] == told["sha256_before"]
    after = experiment.to_save(state)
    assert np.signbit(after.evaluated.params["stem_conv"]["kernel"][0, 0, 0, 0])
    for before, now in zip(experiment.state.evaluated, after.evaluated, strict=True):
        jax.tree.map(
            np.testing.assert_array_equal,
            *(experiment.net.cut.divide(tree)[1] for tree in (before, now)),
        )
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()),
            *(experiment.net.cut.divide(tree)[0] for tree in (before, now)),
        )
        assert all(jax.tree.leaves(moved))


def test_only_what_is_trained_has_a_state_of_the_optimizer():
    experiment = Experiment.prepare(synthetic_run(transfer=HEAD))
    assert paths(optax.tree.get(experiment.state.opt_state, "mu")) == {
        "['head']['bias']",
        "['head']['kernel']",
    }


def test_frozen_parts_that_change_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Cut, "merged", lambda self, new, old: new
    )  # statistics of frozen parts move
    original = Cut.run
    monkeypatch.setattr(
        Cut, "run", lambda self, frozen, trained, x: original(self, trained, trained, x)
    )
    with pytest.raises(RuntimeError, match="frozen parts have changed"):
        loop.train(synthetic_run(transfer=HEAD), tmp_path / "run")
    status = run_folder.read_json(tmp_path / "run" / run_folder.STATUS)
    assert status["state"] == run_folder.FAILED and "frozen" in status["reason"]


def test_a_digest_knows_values_names_and_shapes():
    tree = {"a": {"b": np.float32([1, 2])}}
    assert digest([tree]) == digest([{"a": {"b": np.float32([1, 2])}}])
    others = (
        {"a": {"b": np.float32([1, -2])}},
        {"a": {"c": np.float32([1, 2])}},
        {"a": {"b": np.float32([[1], [2]])}},
    )
    assert len({digest([other]) for other in (*others, tree)}) == 4


def test_frozen_parts_compute_as_in_evaluation_and_trained_ones_as_in_training():
    config = ModelConfig(depth=8)
    model = nets.build(config)
    net = registry.functional(model, trained_from="stage 3")
    x = jnp.asarray(np.random.RandomState(0).normal(size=(6, 8, 8, 3)), jnp.float32)
    _, stats = net.apply(net.params, net.stats, x, True)
    for stage in (0, 1):
        jax.tree.map(
            np.testing.assert_array_equal, stats["stages"][stage], net.stats["stages"][stage]
        )
    assert (stats["stages"][2][0]["norms"][0]["mean"] != 0).any()
    gradient = jax.grad(lambda p: net.apply(p, net.stats, x, True)[0].sum())(net.params)
    trained, frozen = net.cut.divide(gradient)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(frozen))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(trained["head"]))


def test_the_head_descends_as_torchs_adamw_on_the_same_features():
    torch = pytest.importorskip("torch")
    random = np.random.RandomState(0)
    features, labels = random.normal(size=(64, 5)), random.randint(0, 3, 64)
    theirs = torch.nn.Linear(5, 3).double()
    kernel, bias = theirs.weight.detach().numpy().T.copy(), theirs.bias.detach().numpy().copy()
    descent = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.01)
    with jax.enable_x64(True):
        config = OptimizerConfig("adamw", 0.01, weight_decay=0.01, schedule="constant")
        tx = optimizer.build(config, 20)
        params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        state = tx.init(params)

        def loss(params):
            logits = features @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        for _ in range(20):
            updates, state = tx.update(
                jax.grad(loss)(params), state, params, train_error=jnp.zeros(())
            )
            params = optax.apply_updates(params, updates)
            descent.zero_grad()
            x, y = torch.tensor(features), torch.tensor(labels)
            torch.nn.functional.cross_entropy(theirs(x), y).backward()
            descent.step()
        np.testing.assert_allclose(params["kernel"].T, theirs.weight.detach().numpy(), atol=1e-9)


# Cached features.


@pytest.mark.parametrize("devices", [1, 4])
def test_cached_features_and_whole_passes_train_the_same_head(devices, pretrained, tmp_path):
    heads = []
    for cached in (False, True):
        config = on_two_digits(
            pretrained,
            transfer={**HEAD, "cached_features": cached},
            train={"steps": 60},
            parallel={"devices": devices},
        )
        weights, status = trained(config, tmp_path / f"cached-{cached}")
        heads.append(weights.params["head"])
        assert status["frozen"]["sha256_after"] == status["frozen"]["sha256_before"]
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(heads[1][name], heads[0][name], atol=1e-5)
    start = Experiment.prepare(config).state.params["head"]["kernel"]
    assert np.abs(heads[0]["kernel"] - start).max() > 0.1  # there was something to agree on


@pytest.mark.parametrize("how", [{"block_loop": "always"}, {"dtype": "bfloat16"}])
def test_features_of_looped_and_of_bfloat16_nets_are_what_their_heads_read(how, tmp_path):
    heads = []
    for cached in (False, True):
        config = synthetic_run(
            model={"depth": 14, **{k: v for k, v in how.items() if k == "dtype"}},
            transfer={**HEAD, "cached_features": cached},
            train={k: v for k, v in how.items() if k == "block_loop"},
        )
        assert Experiment.prepare(config).loops == ("block_loop" in how)
        weights, _ = trained(config, tmp_path / f"cached-{cached}")
        heads.append(weights.params["head"]["kernel"])
    # A feature in bfloat16 may be rounded the other way in another program.
    tolerance = 2e-3 if "dtype" in how else 1e-5
    np.testing.assert_allclose(heads[1], heads[0], atol=tolerance)


def test_each_image_goes_through_the_frozen_parts_once(pretrained, tmp_path, monkeypatch):
    config = on_two_digits(pretrained, transfer={**HEAD, "cached_features": True})
    seen = []
    original = augment.evaluation_images

    def counted(data, images, mean, std):
        seen.append(images.shape)
        return original(data, images, mean, std)

    monkeypatch.setattr("resnet_jax.train.inference.augment.evaluation_images", counted)
    monkeypatch.setattr(augment, "training_images", None)  # would fail if it were called
    loop.train(config, tmp_path / "run")
    assert len(seen) == 1  # traced once, for the features; never in a step or an evaluation


def test_features_that_are_kept_are_read_by_runs_with_the_same_backbone_alone(
    pretrained, tmp_path, caplog
):
    folder = tmp_path / "features"
    transfer = {**HEAD, "cached_features": True, "features_dir": str(folder)}

    def run(name, **changes):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            loop.train(on_two_digits(pretrained, transfer=transfer, **changes), tmp_path / name)
        return "features read" in caplog.text

    assert not run("first")
    assert run("another-seed", train={"seed": 1})
    assert len(list(folder.iterdir())) == 1
    assert not run("resized", data={"resize": 12})
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("harm", ["flipped", "cut off", "of something else"])
def test_kept_features_that_are_damaged_are_computed_again(harm, pretrained, tmp_path, caplog):
    folder = tmp_path / "features"
    transfer = {**HEAD, "cached_features": True, "features_dir": str(folder)}
    config = on_two_digits(pretrained, transfer=transfer)
    want = Experiment.prepare(config).feed.arrays["features"]
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if harm == "flipped":
        content[content.index(b"NUMPY") + 2_000] ^= 1
    path.write_bytes({"cut off": content[:900], "of something else": b"text"}.get(harm, content))
    got = Experiment.prepare(config).feed.arrays["features"]
    np.testing.assert_array_equal(got, want)
    assert "again" in caplog.text
    caplog.clear()
    Experiment.prepare(config)
    assert "again" not in caplog.text


def test_damaged_images_are_left_out_of_cached_features(shapes, tmp_path):
    broken = tmp_path / "shapes"

    shutil.copytree(shapes, broken)
    victims = (
        sorted((broken / "train").rglob("*.*"))[:1] + sorted((broken / "val").rglob("*.*"))[:1]
    )
    for path in victims:
        path.write_bytes(b"no image")
    config = synthetic_run(
        data={
            **{"name": "image_folder", "data_dir": str(broken), "normalization": "imagenet"},
            **{"image_size": 16, "augmentation": "none", "color_deviation": 0.0, "workers": 0},
            **{"crop_padding": 4, "max_unreadable": 0.2, "val_fraction": 0.1},
        },
        transfer={**HEAD, "cached_features": True},
        train={"eval_batch_size": 7},
    )
    loop.train(config, tmp_path / "run")
    report = run_folder.read_json(tmp_path / "run" / run_folder.EVALUATION)
    assert (
        report["splits"]["test"]["examples"] == 31 and report["splits"]["test"]["unreadable"] == 1
    )
    experiment = Experiment.prepare(config)
    # Their pictures are still those of their places among all.
    images, labels = experiment.feed.images("test", np.arange(31))
    start = experiment.feed.starts["test"]
    np.testing.assert_array_equal(labels, experiment.feed.arrays["labels"][start:])


def test_a_run_with_cached_features_predicts_and_is_measured_again_as_any_other(
    pretrained, tmp_path
):
    config = on_two_digits(pretrained, transfer={**HEAD, "cached_features": True})
    loop.train(config, tmp_path / "run")
    first = run_folder.read_json(tmp_path / "run" / run_folder.EVALUATION)
    again = evaluation.evaluate(tmp_path / "run")
    assert again["splits"]["test"]["loss"] == pytest.approx(first["splits"]["test"]["loss"])
    scores = np.load(tmp_path / "run" / run_folder.PREDICTIONS)
    feed = Experiment.prepare(config).feed
    (image,), _ = feed.images("test", np.array([3]))
    PIL.Image.fromarray(image[..., 0]).save(tmp_path / "digit.png")
    found = prediction.predict(tmp_path / "run", [tmp_path / "digit.png"])
    logits = scores["test_logits"][3].astype(float)
    want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    told = {c["class"]: c["probability"] for c in found["images"][0]["classes"]}
    assert [told["8"], told["9"]] == pytest.approx(want.tolist(), rel=1e-4)


def test_an_interrupted_run_with_cached_features_ends_as_an_uninterrupted_one(pretrained, tmp_path):
    config = on_two_digits(
        pretrained,
        transfer={**HEAD, "cached_features": True},
        train={"checkpoint_interval": 5, "eval_interval": 5, "steps": 20},
        log={"interval": 5},
    )
    whole, _ = trained(config, tmp_path / "whole")
    answers = iter([False] * 4)
    status = loop.train(config, tmp_path / "parts", should_stop=lambda: next(answers, True))
    assert status["state"] == run_folder.STOPPED
    parts, _ = trained(config, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, tuple(parts), tuple(whole))


def test_a_run_does_not_go_on_from_other_weights_than_it_began_with(pretrained, tmp_path):
    weights = tmp_path / "backbone"
    shutil.copytree(pretrained, weights)
    config = on_two_digits(weights, transfer=HEAD, train={"checkpoint_interval": 5})
    answers = iter([False] * 9)
    status = loop.train(config, tmp_path / "run", should_stop=lambda: next(answers, True))
    assert status["state"] == run_folder.STOPPED and status["step"] > 0
    shutil.rmtree(weights)
    other = {"classes": tuple("012345"), "normalization": "none"}
    loop.train(digits_run(data=other, train={"steps": 30, "seed": 1}), weights)
    with pytest.raises(
        InputError, match="has other values than when this run was begun; give back"
    ):
        loop.train(config, tmp_path / "run")


# Layer-wise unfreezing.


def test_parts_are_unfrozen_one_by_one_from_the_head_backwards():
    config = synthetic_run(
        transfer={"unfreeze_interval": 2},
        model={"batch_norm": "frozen"},
        train={"steps": 10, "eval_interval": 10, "checkpoint_interval": 10},
        log={"interval": 1},
    )
    experiment = Experiment.prepare(config)
    state = experiment.placed(experiment.state)
    changed = []
    for batch in experiment.batches(0):
        before = jax.device_get(state.params)
        (state,) = experiment.train_program(state, experiment.arrays, batch)
        after = jax.device_get(state.params)
        moved = {
            str(path[0].key) + (str(path[1].key) if path[0].key == "stages" else "")
            for (path, a), b in zip(
                jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
            )
            if (a != b).any()
        }
        changed.append(moved)
    order = [{"head"}, {"stages2"}, {"stages1"}, {"stages0"}, {"stem_conv", "stem_norm"}]
    for step, moved in enumerate(changed):
        assert moved == set().union(*order[: step // 2 + 1]), step


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_parameter_that_begins_late_moves_as_one_that_begins_then(name):
    config = OptimizerConfig(name, 0.1, schedule="constant", weight_decay=0.1)
    gradients = np.random.RandomState(0).normal(size=(7, 3)).astype(np.float32)
    error = jnp.zeros(())

    def run(begins, steps):
        params = {"early": {"kernel": jnp.ones(3)}, "late": {"kernel": jnp.ones(3)}}
        tx = optimizer.build(config, 10, begins=begins)
        state = tx.init(params)
        for g in steps:
            updates, state = tx.update(
                {"early": {"kernel": jnp.asarray(g)}, "late": {"kernel": jnp.asarray(g)}},
                *(state, params),
                train_error=error,
            )
            params = optax.apply_updates(params, updates)
        return params, state

    late, state = run({"early": {"kernel": 0}, "late": {"kernel": 4}}, gradients)
    whole, _ = run(None, gradients)
    rest, _ = run(None, gradients[4:])
    np.testing.assert_allclose(late["early"]["kernel"], whole["early"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(late["late"]["kernel"], rest["late"]["kernel"], rtol=1e-6)
    assert float(optimizer.learning_rate(state)) == pytest.approx(0.1)


def test_a_run_that_unfreezes_goes_on_where_it_was_stopped(tmp_path):
    config = synthetic_run(
        transfer={"unfreeze_interval": 3},
        model={"batch_norm": "frozen"},
        train={"checkpoint_interval": 3},
    )
    whole, _ = trained(config, tmp_path / "whole")
    answers = iter([False] * 6)
    loop.train(config, tmp_path / "parts", should_stop=lambda: next(answers, True))
    parts, status = trained(config, tmp_path / "parts")
    assert status["state"] == run_folder.COMPLETED
    jax.tree.map(np.testing.assert_array_equal, tuple(parts), tuple(whole))


# Weights of runs.


def test_a_head_on_a_trained_net_learns_what_one_on_a_random_net_does_not(pretrained, tmp_path):
    def error(name, **model):
        changes = {
            "transfer": {**HEAD, "new_head": bool(model["weights"]), "cached_features": True}
        }
        config = on_two_digits(pretrained, model=model, train={"steps": 100}, **changes)
        loop.train(config, tmp_path / name)
        report = run_folder.read_json(tmp_path / name / run_folder.EVALUATION)
        return report["splits"]["train" if "train" in report["splits"] else "val"]["loss"]

    assert error("pretrained", weights=str(pretrained)) < error("random", weights="")


def test_a_run_starts_from_the_weights_of_another_with_a_head_of_its_own(pretrained):
    experiment = Experiment.prepare(on_two_digits(pretrained))
    source = Checkpoints(pretrained / run_folder.CHECKPOINTS, read_only=True)
    config = digits_run(
        data={"classes": tuple("012345"), "normalization": "none"}, train={"steps": 30}
    )
    theirs = source.restore(30, like=Experiment.prepare(config).state)
    for name in ("stages", "stem_conv", "stem_norm"):
        jax.tree.map(
            np.testing.assert_array_equal, experiment.state.params[name], theirs.params[name]
        )
    jax.tree.map(np.testing.assert_array_equal, experiment.state.stats, theirs.stats)
    drawn = Experiment.prepare(
        on_two_digits(pretrained, model={"weights": ""}, transfer={"new_head": False})
    )
    np.testing.assert_array_equal(
        experiment.state.params["head"]["kernel"], drawn.state.params["head"]["kernel"]
    )


def test_each_seed_can_start_from_weights_of_its_own(pretrained, tmp_path):
    named = str(pretrained).replace("seed0", "seed{seed}")
    experiment = Experiment.prepare(on_two_digits(pretrained, model={"weights": named}))
    assert experiment.config.model.weights == named
    with pytest.raises(InputError, match="backbone-seed1"):
        Experiment.prepare(on_two_digits(pretrained, model={"weights": named}, train={"seed": 1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": {"new_head": False}}, "a head for 6 classes, and these data have 2; use "),
        ({"model": {"depth": 14}}, "config.model.depth is 8 there and 14 here; set it to 8"),
        ({"model": {"residual": False}}, "config.model.residual is True there and False here"),
        (
            {"model": {"family": "vgg", "depth": 11, "residual": False, "batch_norm": "none"}},
            "config.model.family is 'cifar_resnet' there and 'vgg' here",
        ),
    ],
)
def test_weights_of_a_run_that_do_not_fit_are_refused_in_one_line(changes, message, pretrained):
    with pytest.raises(InputError, match=message) as caught:
        Experiment.prepare(on_two_digits(pretrained, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_no_run_is_no_source_of_weights(pretrained, tmp_path):
    with pytest.raises(InputError, match="is a folder, but not a run's; give a run's folder"):
        Experiment.prepare(on_two_digits(pretrained, model={"weights": str(tmp_path)}))


def test_images_normalised_otherwise_than_a_net_was_trained_on_are_told_of(pretrained, caplog):
    Experiment.prepare(on_two_digits(pretrained, data={"normalization": "pixel_mean"}))
    assert (
        "was trained on images normalised by 'none', and these are by 'pixel_mean'" in caplog.text
    )


# The size that a net sees.


@pytest.mark.parametrize("side", [5, 32, 45])
def test_images_are_resized_as_by_torch(side):
    torch = pytest.importorskip("torch")
    images = np.random.RandomState(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    got = augment.resized(jnp.asarray(images), side)
    want = torch.nn.functional.interpolate(
        torch.tensor(images.transpose(0, 3, 1, 2)), size=side, mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), atol=2e-6)


def test_training_evaluation_and_prediction_see_images_of_the_configured_size(tmp_path):
    config = synthetic_run(data={"resize": 12}, train={"steps": 3, "eval_interval": 3})
    experiment = Experiment.prepare(config)
    assert experiment.seen_shape == (12, 12, 3)
    sizes = set()
    original = registry.FAMILIES["cifar_resnet"].__call__

    def noted(self, x, **more):
        sizes.add(x.shape[1:3])
        return original(self, x, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.FAMILIES["cifar_resnet"], "__call__", noted)
        loop.train(config, tmp_path / "run")
    assert sizes == {(12, 12)}
    data = DataConfig(resize=12)
    assert augment.seen_shape(data, (8, 8, 3)) == (12, 12, 3)
    assert augment.seen_shape(DataConfig(), (8, 8, 3)) == (8, 8, 3)


# Fields that do not go together.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transfer": {"trained_from": "stage 4"}},
            "'stage 4' is no part of this net; use one of ",
        ),
        (
            {"transfer": {"new_head": True}},
            "new_head=True has no effect without config.model.weights",
        ),
        ({"transfer": {**HEAD, "unfreeze_interval": 5}}, "has no effect with .*='head'"),
        ({"transfer": {"unfreeze_interval": 5}}, "needs statistics that stay.*use 'frozen'"),
        (
            {"transfer": {"cached_features": True}},
            "use it with config.transfer.trained_from='head'",
        ),
        ({"transfer": {"features_dir": "x"}}, "features_dir='x' has no effect"),
        (
            {"transfer": HEAD, "model": {"auxiliary_weight": 0.3}},
            "auxiliary_weight=0.3 has no effect",
        ),
        ({"transfer": HEAD, "train": {"reestimation_batches": 3}}, "reestimation_batches=3 would"),
        (
            {"transfer": {**HEAD, "cached_features": True}, "data": {"flip": True}},
            "unaugmented; use config.data.flip=False",
        ),
        (
            {"transfer": {**HEAD, "cached_features": True}, "data": {"crop_padding": 2}},
            "unaugmented; use config.data.crop_padding=0",
        ),
        (
            {
                "transfer": HEAD,
                "model": {"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5},
            },
            "changes frozen parts",
        ),
        ({"data": {"name": "image_folder", "resize": 32, "crop_padding": 4}}, "resize=32 has no"),
    ],
)
def test_fields_that_do_not_go_together_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        synthetic_run(**changes)
    assert len(str(caught.value).splitlines()) == 1


def test_a_status_says_what_is_frozen(pretrained, tmp_path):
    loop.train(on_two_digits(pretrained, transfer=HEAD), tmp_path / "run")
    frozen = json.loads((tmp_path / "run" / run_folder.STATUS).read_text())["frozen"]
    # All of the net but a head of 64 x 2 weights and 2 biases.
    whole = run_folder.read_json(tmp_path / "run" / run_folder.STATUS)["parameters"]
    assert frozen["parameters"] == whole - 130
    assert len(frozen["sha256_before"]) == 64
