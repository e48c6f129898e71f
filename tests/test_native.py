import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax import native
from resnet_jax.config import ModelConfig, ParallelConfig
from resnet_jax.models import complexity, registry
from resnet_jax.native import build, library, operations
from resnet_jax.parallel import AXIS, DeviceMap

# What is not about the built extension runs without it too.
built = pytest.mark.skipif(
    not library.available(), reason="the CPU extension is not built or turned off (make native)"
)
# Relative to the norm of XLA's result in float32; bfloat16 keeps 8 bits, so roundings are 2^-9.
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
RANDOM = np.random.RandomState(0)


def normal(*shape, dtype=jnp.float32, mean=0.0):
    return jnp.asarray(RANDOM.normal(size=shape) + mean, dtype)


def assert_near(got, want, tolerance):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want) + 1e-12


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def compare(ours, theirs, arguments, dtype):
    """Values and gradients of two functions, the second in float32 throughout."""
    got, pull = jax.vjp(jax.jit(ours), *arguments)
    want, reference = jax.vjp(theirs, *single(arguments))
    assert got.dtype == dtype
    dy = normal(*got.shape, dtype=dtype)
    assert_near(got, want, TOLERANCE[dtype])
    for mine, expected in zip(pull(dy), reference(single(dy)), strict=True):
        assert_near(mine, expected, 2 * TOLERANCE[dtype])


@built
@DTYPES
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(
    ("batch", "size", "inside", "outside"),
    [(1, 8, 16, 16), (3, 9, 16, 32), (50, 32, 3, 16), (37, 15, 64, 64), (2, 7, 5, 24)],
)
def test_a_convolution_and_its_gradients_are_xlas(
    batch, size, inside, outside, kernel, stride, dtype
):
    side = kernel // 2

    def theirs(x, w):
        padding = ((side, side), (side, side))
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=numbers)

    x = normal(batch, size, size + 1, inside, dtype=dtype)
    w = normal(kernel, kernel, inside, outside, dtype=dtype)
    if dtype == jnp.bfloat16 and not library.suits(x, w):
        pytest.skip("this processor does not convolve bfloat16: such nets are XLA's alone")
    compare(lambda x, w: operations.convolution(x, w, stride, side), theirs, (x, w), dtype)


@built
@DTYPES
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(64, 32, 32, 16), (5, 7, 9, 24), (1, 3, 3, 5), (2, 8, 8, 256)])
def test_batch_norm_with_what_follows_it_has_the_formulas_values_and_gradients(
    shape, relu, adds, dtype
):
    def formula(x, scale, shift, *added):
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
        y = (x - mean) * scale * lax.rsqrt(variance + 1e-5) + shift
        y = y + added[0] if added else y
        return jax.nn.relu(y) if relu else y

    def ours(x, scale, shift, *added):
        return operations.batch_norm(x, scale, shift, added[0] if added else None, 1e-5, relu)[0]

    channels = shape[-1]
    arguments = (normal(*shape, dtype=dtype, mean=2), normal(channels), normal(channels))
    if adds:
        arguments += (normal(*shape, dtype=dtype),)
    if dtype == jnp.bfloat16 and relu:  # y's rounding to zero or not opens and shuts ReLU
        arguments = (arguments[0], arguments[1], arguments[2] + 0.01, *arguments[3:])
    compare(ours, formula, arguments, dtype)


@built
def test_batch_norm_reports_mean_and_biased_variance_even_where_the_mean_is_large():
    x = normal(32, 8, 8, 16, mean=1000)
    _, mean, variance = operations.batch_norm(x, jnp.ones(16), jnp.zeros(16), None, 1e-5, False)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=1e-5)


@built
def test_a_nan_is_not_hidden_by_relu():
    x = normal(2, 4, 4, 16).at[0, 0, 0, 3].set(jnp.nan)
    y, _, _ = operations.batch_norm(x, jnp.ones(16), jnp.zeros(16), None, 1e-5, True)
    assert np.isnan(y[..., 3]).all() and not np.isnan(y[..., 4]).any()


def steps(mapping, monkeypatch, switch, *, wrap=lambda f: f, batches=3, **fields):
    """Loss, running statistics and gradients of a net on some batches."""
    monkeypatch.setenv(library.SWITCH, switch)
    config = ModelConfig(**{"depth": 14, **fields})
    net = registry.functional(registry.build(config, channels=3, num_classes=10, axis_name=AXIS))

    def loss(params, stats, images, labels):
        logits, stats = net.apply(params, stats, images, True)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
        return -chosen.mean(), stats

    def program(params, stats, images, labels):
        (value, stats), gradients = jax.value_and_grad(wrap(loss), has_aux=True)(
            params, stats, images, labels
        )
        return (lax.pmean((value, stats, gradients), AXIS),)

    devices = DeviceMap(mapping)
    compiled = devices.compile(program, inputs=(None, None, 0, 0), outputs=(None,))
    params, stats = devices.replicate((net.params, net.stats))
    results = []
    for seed in range(batches):
        random = np.random.RandomState(seed)
        images = jnp.asarray(random.normal(size=(32, 16, 16, 3)), jnp.float32)
        (result,) = compiled(params, stats, images, jnp.asarray(random.randint(0, 10, 32)))
        results.append(jax.device_get(devices.single_copy(result)))
    return results


def assert_same_steps(ours, theirs):
    """A rounding may open or shut a ReLU, a step in the gradients; hardly in all batches."""
    worst = []
    for (loss, stats, gradients), (want, want_stats, want_gradients) in zip(
        ours, theirs, strict=True
    ):
        assert_near(loss, want, 1e-5)
        # A running mean is small beside the values it is the mean of, whose rounding it has.
        jax.tree.map(lambda a, b: assert_near(a, b, 1e-4), stats, want_stats)
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True)
        worst.append(max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs))
    assert min(worst) < 5e-5 and max(worst) < 3e-2, worst


WAYS = {
    "one device": ParallelConfig(devices=1),
    "shard_map": ParallelConfig(devices=2),
    "pmap": ParallelConfig(devices=2, mapping="pmap"),
}


@built
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_norm", ["synced", "local"])
def test_a_nets_loss_statistics_and_gradients_are_those_of_xla(way, batch_norm, monkeypatch):
    ours, theirs = (steps(WAYS[way], monkeypatch, switch, batch_norm=batch_norm) for switch in "10")
    assert_same_steps(ours, theirs)


@built
@pytest.mark.parametrize(
    "fields",
    [
        {"activation_order": "full_preactivation"},
        {"shortcut": "B"},
        # A stem of 7x7 pixels with a max-pool, whose gradient goes to one pixel of nine.
        {"family": "imagenet_resnet", "depth": 18, "shortcut": "B", "width": 1 / 4},
    ],
    ids=str,
)
def test_so_are_those_of_other_nets(fields, monkeypatch):
    ours, theirs = (steps(WAYS["one device"], monkeypatch, switch, **fields) for switch in "10")
    assert_same_steps(ours, theirs)


@built
def test_rematerialisation_changes_nothing_and_a_repetition_is_bit_identical(monkeypatch):
    way = WAYS["one device"]
    first, again = (steps(way, monkeypatch, "1") for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert_same_steps(steps(way, monkeypatch, "1", wrap=jax.checkpoint), first)


@built
def test_inference_is_xlas_too(monkeypatch):
    net = registry.functional(registry.build(ModelConfig(depth=8), channels=3, num_classes=10))
    x, results = normal(5, 32, 32, 3), []
    for switch in "10":
        monkeypatch.setenv(library.SWITCH, switch)
        results.append(jax.jit(lambda x: net.apply(net.params, net.stats, x, False)[0])(x))
    assert_near(*results, 1e-5)


GRADIENT = """
import os, sys
from resnet_jax.native import library, operations
cores = sorted(os.sched_getaffinity(0))
if sys.argv[1] == "pinned":
    os.sched_setaffinity(0, cores[:1])
import jax, numpy as np
assert library.available(), library.describe()
x = np.random.RandomState(0).normal(size=(64, 16, 16, 16)).astype("float32")
w = np.random.RandomState(1).normal(size=(3, 3, 16, 16)).astype("float32")
# Winograd's algorithm is for stride 1; the other goes through oneDNN.
loss = lambda w: sum((operations.convolution(x, w, s, 1) ** 2).sum() for s in (1, 2))
gradient = jax.jit(jax.grad(loss)).lower(w).compile()
threads = len(os.listdir("/proc/self/task"))
for _ in range(3):
    value = jax.block_until_ready(gradient(w))
print(np.asarray(value).tobytes().hex(), len(os.listdir("/proc/self/task")) - threads)
"""


def gradient_in_new_process(where, **environment):
    done = subprocess.run(
        [sys.executable, "-c", GRADIENT, where],
        cwd=native.FOLDER.parents[1],
        env={**os.environ, "XLA_FLAGS": "", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@built
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="pins, and counts threads in /proc"
)
def test_results_do_not_depend_on_the_cores_and_no_threads_are_started_beside_xlas():
    # XLA has a thread for each core that the process may use: one in a pinned process.
    everywhere, pinned = map(gradient_in_new_process, ("everywhere", "pinned"))
    bounded = gradient_in_new_process("everywhere", OMP_NUM_THREADS="1")
    assert everywhere == pinned == bounded
    assert everywhere[1] == "0"


@pytest.fixture
def fresh():
    """Lets the library be looked for anew, before and after a test."""
    library._load.cache_clear()
    yield
    library._load.cache_clear()


def test_without_the_extension_nets_use_xla_and_say_so(fresh, monkeypatch, tmp_path, caplog):
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "absent.so")
    assert library.describe() == {"used": False, "reason": "not built (make native)"}
    assert not library.suits(normal(1, 4, 4, 16))
    assert not caplog.records  # most machines have none


def test_a_damaged_library_is_passed_over_with_one_line(fresh, monkeypatch, tmp_path, caplog):
    monkeypatch.delenv(library.SWITCH, raising=False)
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"\x7fELF and nothing else")
    monkeypatch.setattr(library, "LIBRARY", damaged)
    assert not library.available() and not library.available()
    (record,) = caplog.records
    assert "going on without damaged.so" in record.getMessage()
    assert not library.describe()["used"]


@built
@pytest.mark.parametrize("changed", ["jaxlib", "sources"])
def test_a_library_of_another_jaxlib_or_other_sources_is_passed_over(
    changed, fresh, monkeypatch, caplog
):
    stamp = library.build_stamp().replace(changed, f"other {changed}")
    monkeypatch.setattr(library, "build_stamp", lambda: stamp)
    assert not library.available()
    assert "built for" in caplog.text


def test_the_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "0")
    assert not library.available()
    assert library.describe() == {"used": False, "reason": "RESNET_JAX_NATIVE=0"}


def test_double_precision_and_integers_are_left_to_xla(float64):
    assert not library.suits(jnp.zeros((1, 4, 4, 16), jnp.float64))
    assert not library.suits(jnp.zeros((1, 4, 4, 16), jnp.int32))
    assert not library.suits(jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.bfloat16))


def test_building_without_a_compiler_fails_in_one_line_and_optionally_goes_on(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "absent.so")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for arguments, code in ((["build"], 2), (["build", "--optional"], 0)):
        monkeypatch.setattr(sys, "argv", arguments)
        assert build.main() == code
        (line,) = capsys.readouterr().err.splitlines()
        assert "no C++ compiler found" in line


def test_multiply_adds_are_counted_whoever_computes_them(monkeypatch):
    def counted(switch):
        monkeypatch.setenv(library.SWITCH, switch)
        net = registry.functional(registry.build(ModelConfig(depth=20), channels=3, num_classes=10))
        return complexity.multiply_adds(net.apply, net.params, net.stats, (1, 32, 32, 3))

    # He et al. 2015, Sec. 4.2: the stem, six convolutions a stage with half the filters' area each
    # time the filters double, and the head.
    stem, stage = 32 * 32 * 9 * 3 * 16, 32 * 32 * 9 * 16 * 16
    expected = stem + 6 * stage + 2 * (stage // 2 + 5 * stage) + 640
    assert counted("0") == counted("1") == expected
