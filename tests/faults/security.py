"""Files from others that would run code or write elsewhere, hostile names, and what is locked."""

import hashlib
import html.parser
import io
import json
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds

from resnet_jax import run_folder
from resnet_jax.config import DataConfig
from resnet_jax.data import datasets, prepare
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.models import torch_weights
from resnet_jax.report import predictions
from resnet_jax.report.outputs import write_report
from tests import helpers, test_supply_chain
from tests.faults import commands
from tests.faults.outcome import Outcome, Tally
from tests.test_datasets import ARCHIVE, IMAGES, LABELS
from tests.test_report_html import HOSTILE, hostile_sweep, scripts
from tests.test_torch_weights import Malicious

FOLDER_IN_ARCHIVE = "cifar-10-batches-bin"


def hostile_files(rounds: int, folder: Path) -> Outcome:
    """Row 18."""
    tally = Tally()
    canary = folder / "canary"
    for what, write, read in _pickles():
        with tally.case(what):
            write(folder, Malicious(canary))
            try:
                read(folder)
            except InputError:
                refused = True
            else:
                refused = False
            executed = canary.exists()
            canary.unlink(missing_ok=True)
            assert not executed, "it was executed"
            assert refused, "it was not refused"
    for what in ("../", "absolute", "symlink", "device", "bomb"):
        with tally.case(f"archive: {what}"):
            _read_archive(folder / f"archive-{what.strip('./')}", what)
    workdir = folder / "run"
    shutil.copytree(commands.undisturbed(folder.parent), workdir)
    for name in ("config.py", "sitecustomize.py", "usercustomize.py", "conftest.py", "jax.py"):
        (workdir / name).write_text(f"open({str(canary)!r}, 'w')\n")
    for what, module, arguments in (
        ("resume", "resnet_jax.main", ()),
        ("evaluate", "resnet_jax.main", ("--mode=evaluate",)),
    ):
        with tally.case(f"hostile Python files in a run's folder: {what}"):
            process = commands.start(module, workdir, *arguments)
            assert commands.end(process) == 0, commands.words(workdir)
            assert not canary.exists(), "one was executed"
    with tally.case("hostile Python files in a run's folder: report"):
        write_report(workdir)
        assert not canary.exists(), "one was executed"
    return tally.outcome(
        18,
        "pickles that run code in weights and arrays; archives that write elsewhere or swell; "
        "Python files in a run's folder",
        "nothing executed, nothing written elsewhere, the files refused",
    )


Case = tuple[str, Callable[[Path, Malicious], None], Callable[[Path], object]]


def _pickles() -> list[Case]:
    def legacy(name: str) -> Callable[[Path, Malicious], None]:
        return lambda folder, bad: (folder / name).write_bytes(pickle.dumps({"a": bad}, 2)) and None

    def arrays(name: str, *keys: str) -> Callable[[Path, Malicious], None]:
        def write(folder: Path, bad: Malicious) -> None:
            with (folder / name).open("wb") as file:
                np.savez(file, **{key: np.array([bad], object) for key in keys})

        return write

    def torch_file(folder: Path, bad: Malicious) -> None:
        import torch

        torch.save({"state_dict": bad}, folder / "net.pth")

    def weights(name: str) -> Callable[[Path], object]:
        return lambda folder: torch_weights.read(folder / name)

    keys = ("test_logits", "test_labels", "test_ids")
    cases = [
        ("a pickle in .pth of an old kind", legacy("old.pth"), weights("old.pth")),
        ("a pickle in .safetensors", legacy("net.safetensors"), weights("net.safetensors")),
        ("a pickle in .npz as weights", arrays("net.npz", "conv1.weight"), weights("net.npz")),
        (
            "a pickle in preprocessing.npz",
            arrays(run_folder.PREPROCESSING, "mean", "std", "image_shape", "class_names"),
            lambda folder: Preprocessing.load(folder / run_folder.PREPROCESSING),
        ),
        (
            "a pickle in predictions.npz",
            arrays(run_folder.PREDICTIONS, *keys),
            lambda folder: predictions.read(folder / run_folder.PREDICTIONS),
        ),
    ]
    try:
        import torch  # noqa: F401
    except ImportError:
        return cases
    return [("a pickle in .pth", torch_file, weights("net.pth")), *cases]


class _Zeros(io.RawIOBase):
    """As many zero bytes as are asked for."""

    def read(self, size: int = -1) -> bytes:
        return b"\0" * size


def _hostile_archive(path: Path, what: str) -> None:
    """A good archive with a bad member, or with a bad one in place of a good one."""
    good = path.with_name("good.tar.gz")
    helpers.cifar10_archive(good, *(x for s in ("train", "test") for x in (IMAGES[s], LABELS[s])))
    record = f"{FOLDER_IN_ARCHIVE}/data_batch_1.bin"
    name = {"../": "../../escaped", "absolute": str(path.parent / "escaped")}.get(what, record)
    with tarfile.open(good) as source, tarfile.open(path, "w:gz", compresslevel=1) as target:
        bad = tarfile.TarInfo(name)
        if what == "symlink":
            bad.type, bad.linkname = tarfile.SYMTYPE, "../../../../../../etc/passwd"
        elif what == "device":
            bad.type, bad.devmajor, bad.devminor = tarfile.CHRTYPE, 1, 5  # /dev/zero
        elif what == "bomb":
            bad.size = prepare.LARGEST_FILE + 1
        else:
            bad.size = 4
        target.addfile(bad, _Zeros() if bad.size else None)
        for member in source:
            if member.name != bad.name:
                target.addfile(member, source.extractfile(member))
    good.unlink()


def _read_archive(folder: Path, what: str) -> None:
    """Prepares a data set from it, as if its checksum were the published one."""
    manual = folder / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    archive = manual / ARCHIVE
    _hostile_archive(archive, what)
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    url = f"http://127.0.0.1:9/{ARCHIVE}"
    size = tfds.core.utils.Size(archive.stat().st_size)
    before = {path for path in folder.rglob("*") if "tfds" not in path.parts[-3:]}

    class Trusting(prepare.Cifar10, skip_registration=True):
        name = "cifar10"
        url_infos = {url: tfds.core.download.checksums.UrlInfo(size, checksum, ARCHIVE)}

        @property
        def _cifar_info(self):
            return super()._cifar_info._replace(url=url)

    with mock.patch.dict(prepare.BUILDERS, {"cifar10": Trusting}):
        try:
            datasets.load(DataConfig(name="cifar10", data_dir=str(folder / "tfds")))
            assert what in ("../", "absolute"), "it was not refused"  # bad members nobody asks for
        except InputError as error:
            assert what not in ("../", "absolute"), f"refused: {error}"
    escaped = [p for p in folder.rglob("escaped")] + [p for p in folder.parent.glob("escaped")]
    assert not escaped, f"{escaped[0]} was written"
    assert {path for path in folder.rglob("*") if "tfds" not in path.parts} <= before


class _Page(html.parser.HTMLParser):
    """Counts what a browser would execute beside the page's own scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.executable: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            target = (value or "").strip().lower()
            if name.startswith("on") or target.startswith(("javascript:", "data:text")):
                self.executable.append(f"<{tag} {name}={value!r}>")
        if tag in ("iframe", "object", "embed", "base"):
            self.executable.append(f"<{tag}>")


def hostile_names(rounds: int, folder: Path) -> Outcome:
    """Row 19."""
    tally = Tally()
    text = write_report(hostile_sweep(folder)).html.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    names = {run["name"] for run in json.loads(data)["runs"]}
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    own = 5  # Plotly's, and four of the page
    for number, payload in enumerate(HOSTILE):
        with tally.case(payload):
            assert f"{number}{payload.replace('/', '∕')}-seed0" in names, "the run is not shown"
            assert not page.executable, page.executable[0]
            assert len(scripts(text)) == own, f"{len(scripts(text))} scripts"
            assert payload not in outside or not set(payload) & set("<>\"'"), "it is not escaped"
    return tally.outcome(
        19,
        "names of runs, labels, classes, processors and reasons that are markup or script",
        "shown as text: no node that a browser would execute",
    )


def locked(rounds: int, folder: Path) -> Outcome:
    """Row 20."""
    tally, packages = Tally(), 0
    for lock in test_supply_chain.LOCKS:
        with tally.case(lock.name):
            test_supply_chain.test_every_locked_package_has_one_version_and_its_hashes(lock)
            packages += len(test_supply_chain.packages(lock))
    with tally.case("make"):
        test_supply_chain.test_the_install_refuses_what_has_no_hash()
    with tally.case("workflows"):
        test_supply_chain.test_actions_of_others_are_pinned_by_commit()
    return tally.outcome(
        20,
        "a dependency or an action that is changed after it was published",
        "every package locked by version and hash, every action by commit; the install refuses "
        "others",
        note=f"{packages} packages in {len(test_supply_chain.LOCKS)} files",
    )
