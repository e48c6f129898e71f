"""What the documents point to is there."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE = re.compile(r"python -m ((?:resnet_jax|experiments|benchmarks|tests)(?:\.\w+)*)")
CONFIG = re.compile(r"\bconfigs/\w+\.py")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_modules_and_configs_of_a_document_are_there(document):
    text = document.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    modules = set(MODULE.findall(text))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    configs = set(CONFIG.findall(text))
    assert [path for path in configs if not (ROOT / path).is_file()] == []


def test_every_document_is_pointed_to():
    pointed = {link for path in DOCUMENTS for link in LINK.findall(path.read_text())}
    names = {pathlib.PurePosixPath(link).name for link in pointed}
    lost = [path.name for path in (ROOT / "docs").glob("*.md") if path.name not in names]
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_whole(document):
    """Rows after a blank line would be shown as they are written."""
    lines = document.read_text().splitlines()
    starts = [
        number
        for number, line in enumerate(lines)
        if line.startswith("|") and not (number and lines[number - 1].startswith("|"))
    ]
    assert [n + 1 for n in starts if not re.fullmatch(r"\|[ :|-]+\|", lines[n + 1])] == []


def test_nobody_is_told_to_install_another_projects_package_of_a_like_name():
    """`resnet-jax` on the Python Package Index is somebody else's."""
    for path in DOCUMENTS:
        assert not re.search(r"pip install [^\n]*resnet[-_]jax", path.read_text()), path.name
