import pathlib
import re

import nbclient
import nbformat
import pytest

from resnet_jax import native

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def printed(notebook):
    """What each code cell prints, by cell."""
    return [
        "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


# ipykernel says that it talks over a local port.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_the_tutorial_runs_and_prints_what_it_shows(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as for a reader
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(native.SWITCH, "0")  # what is shown was computed without it
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        fresh, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    shown, now = printed(stored), printed(fresh)
    # What training comes to depends on how a processor rounds.
    trained = ("degradation", "training error", "a rise of", "depth   plain")
    exact = [text for text in shown if not any(words in text for words in trained)]
    assert len(exact) >= 9 and set(exact) <= set(now)
    rises = re.findall(r"(\w+): ([\d.]+) % -> ([\d.]+) %, a rise of ([-+][\d.]+)", "".join(now))
    assert [net for net, *_ in rises] == ["plain", "ResNet"]
    for _, shallow, deep, rise in rises:
        assert float(rise) == pytest.approx(float(deep) - float(shallow), abs=0.11)
    verdict = now[-2]
    assert "Plain nets: degradation observed" in verdict
    assert "Residual nets: degradation not observed" in verdict
    pictures = [
        output
        for cell in fresh.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
