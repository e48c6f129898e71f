import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from resnet_jax.train import provenance

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
IMAGES = ("cpu", "cuda")


def instructions(text):
    """(instruction, arguments) in order; continued lines are one, comments are left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """{name: (base, instructions after FROM)}, in order."""
    found = {}
    for word, rest in instructions(text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        else:
            found[name][1].append((word, rest))
    return found


STAGES = stages(DOCKERFILE.read_text())


def whole(stage):
    """The instructions that make an image, those of the stages it begins from included."""
    base, own = STAGES[stage]
    return (whole(base) if base in STAGES else []) + own


def last(stage, word):
    return [rest for found, rest in whole(stage) if found == word][-1]


def ignored(path):
    """Whether .dockerignore keeps a path out of the build: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.lstrip("!")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        else:
            fits = any(
                fnmatch.fnmatchcase(head, pattern) and head.count("/") == pattern.count("/")
                for head in heads
            )
        if fits:
            out = not keep
    return out


def test_every_base_is_a_stage_or_has_a_full_version():
    bases = [base for base, _ in STAGES.values() if base not in STAGES]
    assert bases
    for base in bases:
        assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_not_run_as_root_and_has_a_fixed_user(image):
    user = last(image, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    uid = user.split(":")[0]
    assert any(f"useradd --uid {uid} " in rest for word, rest in whole(image) if word == "RUN")
    after = [word for word, _ in STAGES[image][1]]
    assert "RUN" not in after[after.index("USER") :]


def sources():
    for stage, (_, own) in STAGES.items():
        for word, rest in own:
            if word == "COPY" and not rest.startswith("--from"):
                yield from ((stage, source) for source in rest.split()[:-1])


def test_whatever_is_copied_is_in_the_repository_and_let_through():
    assert {source for _, source in sources()} >= {"resnet_jax", "configs", "requirements.lock"}
    for _, source in sources():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
        assert not (ROOT / source).is_dir() or not ignored(f"{source}/a/module.py")


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "runs/r56/config.json", "faults/a", "docs/tracking.md",
     "tests/conftest.py", "resnet_jax/__pycache__/a.pyc", "resnet_jax/data/__pycache__/a.pyc",
     "resnet_jax/native/lib/resnet_jax.so", "shared/weights.pth", ".env"],
)  # fmt: skip
def test_runs_environments_history_and_what_was_built_here_stay_outside(path):
    assert ignored(path)


def test_packages_are_installed_from_the_lock_by_hash():
    installs = [
        (stage, line)
        for stage, (_, own) in STAGES.items()
        for word, rest in own
        if word == "RUN"
        for line in re.findall(r"pip install [^&|;]*", rest)
    ]
    assert [stage for stage, _ in installs] == ["build", "build-cuda"]
    locked, cuda = (line.split() for _, line in installs)
    assert "--require-hashes" in locked and locked[-2:] == ["-r", "requirements.lock"]
    assert cuda[-2:] == ["-r", "requirements-cuda.txt"]


def test_the_cuda_wheels_are_of_the_locked_jax():
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(
        re.findall(r"^jax==(\S+) ; python_full_version (<|>=) '3\.12'", lock, re.MULTILINE)
    )
    text = (ROOT / "requirements-cuda.txt").read_text()
    wanted = dict(
        re.findall(r'^jax\[cuda12\]==(\S+); python_version (<|>=) "3\.12"$', text, re.MULTILINE)
    )
    assert len(wanted) == 2 and wanted == locked


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_no_compiler_but_the_extension_and_its_thread_library(image):
    made = [rest for word, rest in whole(image) if word == "RUN"]
    assert not any("g++" in rest for rest in made)
    assert any("libgomp1" in rest for rest in made)
    assert any("native.build" in rest for word, rest in STAGES["build"][1] if word == "RUN")
    assert ("COPY", "--from=build /opt/resnet_jax /opt/resnet_jax") in STAGES[image][1]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_the_command_it_is_given_and_writes_to_its_volumes(image):
    assert json.loads(last(image, "ENTRYPOINT")) == ["/usr/bin/tini", "--"]
    assert json.loads(last(image, "CMD"))[:3] == ["python", "-m", "resnet_jax.main"]
    volumes = json.loads(last(image, "VOLUME"))
    assert volumes == ["/cache", "/data", "/runs"]
    made = next(rest for word, rest in whole(image) if "--mode=1777" in rest)
    assert all(volume in made for volume in volumes)
    environment = " ".join(rest for word, rest in whole(image) if word == "ENV")
    assert "XDG_CACHE_HOME=/cache" in environment


@pytest.mark.parametrize("image", IMAGES)
def test_the_commit_comes_from_the_build_argument(image):
    assert ("ARG", 'COMMIT=""') in STAGES[image][1]
    assert ("ENV", f"{provenance.COMMIT}=$COMMIT") in STAGES[image][1]


def test_the_makefile_builds_each_image_with_its_commit():
    makefile = (ROOT / "Makefile").read_text()
    for image in IMAGES:
        (line,) = re.findall(rf"^\tdocker build .*--target {image} .*$", makefile, re.MULTILINE)
        assert '--build-arg COMMIT="$(COMMIT)"' in line and "--file docker/Dockerfile" in line


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_knows_the_commit_better_than_the_environment(tmp_path, monkeypatch):
    module = tmp_path / "resnet_jax" / "train" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setenv(provenance.COMMIT, "abc")
    assert provenance.commit() == "abc"
    monkeypatch.setenv(provenance.COMMIT, "")
    assert provenance.commit() is None
    monkeypatch.setenv(provenance.COMMIT, "abc")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=a"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert provenance.commit() == head


def test_without_git_the_environment_says_the_commit(monkeypatch):
    monkeypatch.setenv(provenance.COMMIT, "abc+changes")
    monkeypatch.setattr(provenance.subprocess, "run", _no_git)
    assert provenance.commit() == "abc+changes"
    monkeypatch.delenv(provenance.COMMIT)
    assert provenance.commit() is None
    assert provenance.COMMIT not in os.environ


def _no_git(*arguments, **settings):
    raise FileNotFoundError("git")
