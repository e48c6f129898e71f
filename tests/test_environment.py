import os
import subprocess
import sys

import pytest

from resnet_jax import environment, native
from resnet_jax.config import validate

SETTINGS = (environment.CACHE, environment.SMALLEST, *environment.NUMERICS)


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    for name in (*SETTINGS, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)


def of(depth=20, *, on_cpu=True, dtype="float32", **train):
    config = validate({"model": {"depth": depth, "dtype": dtype}, "train": train})
    return environment.of_run(config, on_cpu=on_cpu)


def test_deep_nets_on_cpu_run_without_the_fusion_whose_cost_is_quadratic():
    assert of(110)["XLA_FLAGS"] == of(44)["XLA_FLAGS"] == environment.NO_FUSION
    assert "XLA_FLAGS" not in of(32) and "XLA_FLAGS" not in of(110, on_cpu=False)


def test_with_the_cpu_extension_fusion_stays_on(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "extension.so")
    monkeypatch.delenv(native.SWITCH)
    assert of(110)["XLA_FLAGS"] == environment.NO_FUSION
    native.LIBRARY.write_text("built for another jaxlib")
    assert of(110)["XLA_FLAGS"] == environment.NO_FUSION
    native.LIBRARY.write_text(f"built for {native.build_stamp()}")
    assert "XLA_FLAGS" not in of(110)
    # Double precision is not for it.
    assert of(110, dtype="float64")["XLA_FLAGS"] == environment.NO_FUSION


def test_memory_is_kept_on_cpu_alone():
    assert "hugetlb=1" in of()["GLIBC_TUNABLES"]
    assert "GLIBC_TUNABLES" not in of(on_cpu=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_has_set_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "mine")
    assert name not in of(110)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_determinism_is_added_to_other_flags_and_not_twice(monkeypatch, on_cpu):
    own = [environment.NO_FUSION] if on_cpu else []
    assert of(110, on_cpu=on_cpu, deterministic=True)["XLA_FLAGS"].split() == [
        *own, environment.DETERMINISTIC,
    ]  # fmt: skip
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=flag")
    flags = of(110, on_cpu=on_cpu, deterministic=True)["XLA_FLAGS"]
    assert flags.split() == ["--xla_some=flag", environment.DETERMINISTIC]
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert "XLA_FLAGS" not in of(110, on_cpu=on_cpu, deterministic=True)


def test_what_runs_share_is_compiled_once_in_the_users_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert of()[environment.CACHE].startswith("/somewhere/resnet_jax/compiled-")


def in_a_process(code, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_is_replaced_once_so_that_the_c_library_reads_its_settings():
    # What a process was started with, whatever it has set since, stands in /proc. The C library
    # puts zeros between the settings when it has read them.
    code = (
        "import os; from resnet_jax import environment; os.write(1, b'started '); "
        "environment.keep_memory(); "
        "own = open('/proc/self/environ').read().replace(chr(0), ':'); "
        "print(own[own.index('GLIBC_TUNABLES'):])"
    )
    replaced = in_a_process(code, JAX_PLATFORMS="cpu")
    assert replaced.startswith(f"started started GLIBC_TUNABLES={environment.KEEP_MEMORY}")
    own = in_a_process(code, GLIBC_TUNABLES="glibc.malloc.check=1")
    assert own.startswith("started GLIBC_TUNABLES=glibc.malloc.check=1")


def test_once_jax_has_started_nothing_is_set():
    code = (
        "import os, jax; from resnet_jax import environment, config; before = dict(os.environ); "
        "environment.prepare(config.validate({'model': {'depth': 110}})); "
        "print(before == dict(os.environ))"
    )
    assert in_a_process(code) == "True\n"


def test_settings_are_made_before_jax_starts():
    code = (
        "import os; from resnet_jax import environment, config; "
        "environment.prepare(config.validate({'model': {'depth': 110}})); "
        "print(os.environ['XLA_FLAGS']); import jax; print(jax.config.jax_compilation_cache_dir, "
        "jax.config.jax_persistent_cache_min_compile_time_secs)"
    )
    flags, cache, smallest = in_a_process(code, JAX_PLATFORMS="cpu").split()
    assert flags == environment.NO_FUSION and "resnet_jax" in cache and float(smallest) == 0


@pytest.mark.parametrize(
    ("platforms", "only"), [("cpu", True), ("cuda,cpu", False), ("tpu", False)]
)
def test_the_platform_that_the_user_chose_counts(monkeypatch, platforms, only):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert environment.has_only_cpus() is only
