import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = sorted(ROOT.glob("*.lock"))


def packages(lock):
    """Each package of a lock file with all that stands about it."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text(), flags=re.MULTILINE)
    return [part for part in re.split(r"\n(?=\S)", text.strip()) if part.strip()]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_one_version_and_its_hashes(lock):
    found = packages(lock)
    assert len(found) > 40
    for part in found:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==\S+", part), part
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", part), part


def test_the_install_refuses_what_has_no_hash():
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"\$\(PIP\) (.*requirements\S*\.lock)", makefile)
    assert len(installs) == 2
    assert all(line.startswith("--require-hashes") for line in installs)


def test_actions_of_others_are_pinned_by_commit():
    uses = [
        line.split("uses:")[1].strip()
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


def calls(path):
    """Each call of a file: the function as it is written there, and its keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), keywords


@pytest.mark.parametrize(
    "path", sorted((ROOT / "resnet_jax").rglob("*.py")), ids=lambda path: path.name
)
def test_nothing_that_is_read_can_run_code(path):
    source = path.read_text()
    assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill)\b", source, re.MULTILINE)
    for function, keywords in calls(path):
        assert function not in ("eval", "exec", "os.system", "runpy.run_path"), function
        assert keywords.get("allow_pickle", "False") == "False", function
        assert keywords.get("shell", "False") == "False", function
        if function.endswith("extractall"):  # nothing outside of its folder: PEP 706
            assert keywords.get("filter") == "'data'", function
        if function == "torch.load":
            assert keywords["weights_only"] == "True"
