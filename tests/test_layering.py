import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "resnet_jax"
BASE = {"errors", "files", "config", "run_folder", "terminal"}
# Which parts of the package each part may import, beside itself.
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "files": set(),
    "stopping": set(),
    "environment": {"config", "files", "native"},
    "hosts": {"errors", "stopping"},
    "mirror": {"run_folder", "errors", "files"},
    "run_folder": {"errors", "files"},
    "terminal": {"run_folder"},
    "parallel": {"config", "errors", "hosts"},
    "data": {"config", "errors", "files"},
    "data/loader.py": {"errors", "stopping"},
    "data/synthetic_folder.py": {"errors", "files", "command"},
    "data/audit.py": {"data", "config", "errors", "files", "command", "terminal"},
    "native": set(),
    "models": {"config", "errors", "native"},
    "models/torch_weights.py": {"errors", "files"},
    "models/published_weights.py": {"config", "errors", "files"},
    "metrics": {"config", "run_folder", "errors", "files"},
    "train": {"data", "models", "metrics", "native", "parallel", "environment", "hosts"} | BASE,
    "analysis": {"models", "config", "native", "errors"},
    "analysis/inference.py": {"data", "models", "train", "parallel", "environment", "command"}
    | BASE,
    "analysis/deepen.py": {"models", "command"} | BASE,
    "analysis/landscape.py": {"command"} | BASE,
    "analysis/lesion.py": {"command"} | BASE,
    "analysis/signals.py": {"models", "train", "command"} | BASE,
    "analysis/complexity.py": {"models", "command"} | BASE,
    # It draws what it finds at once: one image, not runs side by side.
    "analysis/trace.py": {"data", "models", "train", "report", "command"} | BASE,
    "analysis/trained.py": {"data", "models", "train"} | BASE,
    "analysis/check.py": {"train", "config", "command", "environment", "errors"}
    | {"run_folder", "terminal"},
    "arguments": set(),
    "report": {"run_folder", "errors", "arguments"},
    "report/__main__.py": {"mirror", "errors", "arguments"},
    "command": {"config", "errors"},
    "main": {"train", "analysis", "command", "environment", "hosts", "mirror", "stopping"} | BASE,
    "predict": {"train", "arguments", "command", "environment"} | BASE,
}
# The only parts that may import a heavy dependency.
OWNERS = {
    "tensorflow_datasets": {"data"},
    "grain": {"data/loader.py"},
    "flax.nnx": {"models", "analysis"},
    "orbax": {"train/checkpoint.py"},
    "matplotlib": {"report"},
    "plotly": {"report"},
    "ml_collections": {"config", "command", "main", "data/audit.py"}
    | {"analysis/check.py", "analysis/complexity.py"},
    "tensorboardX": {"metrics/sinks.py"},
    "mlflow": {"metrics/sinks.py"},
    "wandb": {"metrics/sinks.py"},
    "optuna": set(),  # of experiments/hyperparameters alone: reports read what it has found
}
# The only ones that may name the test split, or go through all splits: data sets are loaded, laid
# out and audited as a whole; a run measures it and says so; reports read what was measured.
# Nothing else can choose on it.
TEST_READERS = {
    "analysis/lesion.py",
    "data/audit.py",
    "data/datasets.py",
    "data/leakage.py",
    "data/pair_sheet.py",
    "data/pipeline.py",
    "data/prepare.py",
    "data/stream.py",
    "data/streamed.py",
    "data/tfds_source.py",
    "metrics/findings.py",
    "metrics/thresholds.py",  # measured at what val has chosen
    "report",
    "terminal",
    "train/evaluator.py",
    "train/features.py",
    "train/final.py",
    "train/loop.py",
    "train/setup.py",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def place(path):
    return path.relative_to(PACKAGE).as_posix()


def reads_test(source):
    """Whether it has the word "test" as a value, or an attribute that gives test images."""
    return any(
        (isinstance(node, ast.Constant) and node.value == "test")
        or (isinstance(node, ast.Attribute) and node.attr in ("test", "splits"))
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    used = {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("resnet_jax.") and len(name.split(".")) > 1
    }
    allowed = ALLOWED.get(place(path), ALLOWED.get(part(path), set())) | {part(path)}
    assert used <= allowed, f"{path.name} imports {used - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_dependencies_have_one_owner(path):
    for name in imports(path):
        for package, owners in OWNERS.items():
            if name == package or name.startswith(package + "."):
                assert {part(path), place(path)} & owners, f"{path} has {name}"


def test_test_images_are_read_only_where_that_is_allowed():
    for path in FILES:
        allowed = {part(path), place(path)} & TEST_READERS
        assert allowed or not reads_test(path.read_text()), f"{path} reads the test split"


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("x = dataset.test.images", True),
        ("resident.padded_batches('test', 5)", True),
        ("for split in dataset.splits.values(): pass", True),
        ("x = dataset.train.images  # not of test", False),
        ("def f():\n    'Never reads test.'", False),
    ],
)
def test_a_reader_of_test_images_is_known_by_its_source(source, reads):
    assert reads_test(source) is reads


def test_the_package_never_imports_configs_experiments_or_tensorflow():
    for path in FILES:
        for name in imports(path):
            assert name.split(".")[0] not in ("configs", "experiments", "benchmarks", "tensorflow")


def test_there_is_no_module_called_utils_and_none_is_too_long():
    for path in FILES:
        assert "utils" not in path.stem
        assert len(path.read_text().splitlines()) <= 330, path


def test_importing_everything_writes_nothing_and_starts_no_device():
    code = (
        "import importlib, pkgutil, sys, resnet_jax\n"
        "for m in pkgutil.walk_packages(resnet_jax.__path__, 'resnet_jax.'):\n"
        "    if not m.name.endswith(('.main', '__main__')): importlib.import_module(m.name)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was started'\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
