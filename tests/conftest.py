"""Eight virtual CPU devices, strict dtype promotion, and every warning an error."""

import atexit
import fcntl
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Before JAX starts: it reads these once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Most programs here run once: compiling them to run fast takes longer than running them. Commands
# that tests start as processes are compiled as users' are.
jax.config.update("jax_disable_most_optimizations", True)
# Many build the same program anew. Each process has a cache of its own, for two could read one
# another's half-written files.
COMPILED = tempfile.mkdtemp(prefix="compiled-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Two minutes each and more, the longest first.
LONGEST = (
    *("faults", "hosts", "on_ray", "runner", "audit", "mirror", "parallel", "transfer_grids"),
    *("imagenet_runs", "tutorial"),
)
# Weights and images published elsewhere lie beside the checkout where they are at hand.
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process is left alone with one at the end."""
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="module")
def optimized():
    """Compiles as users do: for tests that hold programs equal which optimisation could part."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A command called in this process sets up the log; the next test reads it as before."""
    loggers = [logging.getLogger(name) for name in (None, "absl", "resnet_jax")]
    handlers, levels = loggers[0].handlers[:], [logger.level for logger in loggers]
    yield
    loggers[0].handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def float64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared():
    """The folder with published weights and the JPEG copy of CIFAR-10; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("published weights and images are not at hand (../shared is absent)")
    return SHARED


@pytest.fixture(scope="session")
def cifar10_dir(shared, tmp_path_factory, worker_id):
    """A TFDS folder with the JPEG copy of CIFAR-10, prepared once a session, for all processes."""
    common = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        common = common.parent
    folder = common / "cifar10"
    script = shared / "tools" / "prepare_cifar10.py"
    with open(common / "cifar10.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            draft = common / f"cifar10-{worker_id}"
            subprocess.run(
                [sys.executable, str(script), f"--data_dir={draft}"],
                check=True,
                capture_output=True,
            )
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder of generated JPEGs, laid out as ImageNet: 20 of each of four classes, and 8."""
    # Imported here because conftest comes before what sets up JAX for all tests.
    from resnet_jax.data import synthetic_folder

    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    synthetic_folder.write(folder, train=20, val=8)
    return folder
