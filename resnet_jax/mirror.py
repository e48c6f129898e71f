"""Folders in object storage (gs://, s3://, ...): worked on here, and kept there.

Files in object storage cannot be appended to, renamed or locked, so a run never works there. It
works in a copy on this machine, which is compared with the storage every few seconds. What comes
last in a run goes last: a status that says `completed` is there after all that it speaks of. A
checkpoint is one object, a tar file, which like all objects is there whole or not at all.
"""

import contextlib
import io
import logging
import pathlib
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing

LOG = logging.getLogger(__name__)

# Seconds between two comparisons; what a lost machine can lose of a run's records.
PERIOD = 5.0
# In the folder of a checkpoint that is complete; see `train.manifest`.
COMPLETE = "sha256.json"
# Of this machine alone.
STAYS = (run_folder.LOCK,)
# What shows and compares runs has no use for.
HEAVY = (run_folder.CHECKPOINTS, run_folder.TENSORBOARD)
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}

# Of a file here: bytes, and nanoseconds of its last change.
Stamp = tuple[int, int]


def is_remote(folder: str) -> bool:
    """Whether a folder's name is that of object storage."""
    return "://" in folder


class Mirror:
    """A folder in object storage and its copy here.

    Args:
        remote: the storage's, for example s3://bucket/runs/r56.
        local: the copy's folder; made when there is something to put into it.
        passed_over: names of folders that are not fetched.

    Raises:
        InputError: if there is no such kind of storage.
    """

    def __init__(self, remote: str, local: pathlib.Path, *, passed_over: Sequence[str] = ()):
        kind = remote.partition("://")[0]
        if kind not in EXTRAS:
            raise InputError(
                f"--workdir={remote}: {kind}:// is no storage that is known; use a folder, or "
                f"{', '.join(f'{name}://' for name in EXTRAS)}"
            )
        # Imported here because a second passes before it is.
        import fsspec

        # Listings are not kept, for others write there too.
        self._storage, self._root = fsspec.core.url_to_fs(remote, use_listings_cache=False)
        self._remote, self._local = remote, local
        self._passed_over = frozenset(passed_over)
        # Of each object, by name: as it was fetched, and as the file here was then or when sent.
        self._theirs: dict[str, str] = {}
        self._ours: dict[str, Stamp] = {}
        self._lock = threading.Lock()

    def fetch(self, within: str = "") -> None:
        """Copies what is new in the storage here.

        Args:
            within: a folder of it; all if "".
        """
        with self._lock:
            for name, stamp in self._objects(within).items():
                if self._theirs.get(name) == stamp:
                    continue
                with contextlib.suppress(FileNotFoundError):  # gone in the meantime
                    self._put(name, self._storage.cat_file(f"{self._root}/{name}"))
                    self._theirs[name] = stamp
                    self._ours[name] = _stamp(self._source(name))

    def _objects(self, within: str) -> dict[str, str]:
        """What identifies the content of each object, by name: in one request per thousand."""
        top = f"{self._root}/{within}" if within else self._root
        found = {}
        for path, about in self._storage.find(top, detail=True).items():
            name = path.removeprefix(f"{self._root}/")
            # A key may be anything, also the folder's own, and must not lead out of the copy.
            if name != path and (self._passed_over | {".."}).isdisjoint(name.split("/")):
                found[name] = str(about.get("ETag") or about["etag"])  # S3 writes it its own way
        return found

    def _put(self, name: str, content: bytes) -> None:
        path = self._local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_checkpoint(name):
            with replacing(path, durable=False) as file:
                file.write(content)
            return
        folder = path.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")

    def push(self, within: str = "") -> None:
        """Copies what is new here into the storage, and deletes there what was deleted here.

        Args:
            within: a folder of it; all if "".
        """
        with self._lock:
            prefix = f"{within}/" if within else ""
            units = {name: unit for name, unit in self._units().items() if name.startswith(prefix)}
            for name, stamp in sorted(units.items(), key=lambda unit: _order(unit[0])):
                if self._ours.get(name) == stamp:
                    continue
                try:
                    content = self._read(name)
                except FileNotFoundError:  # gone in the meantime
                    continue
                self._storage.pipe_file(f"{self._root}/{name}", content)
                self._ours[name] = stamp
            gone = [name for name in self._ours if name.startswith(prefix) and name not in units]
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    self._storage.rm_file(f"{self._root}/{name}")
                del self._ours[name]

    def _units(self) -> dict[str, Stamp]:
        """What becomes an object each: files, and whole checkpoints."""
        units: dict[str, Stamp] = {}
        for path in self._local.rglob("*"):
            name = path.relative_to(self._local)
            if run_folder.CHECKPOINTS in name.parts:
                if path.name == COMPLETE and path.parent.parent.name == run_folder.CHECKPOINTS:
                    units[f"{name.parent.as_posix()}.tar"] = _stamp(path)
            elif path.is_file() and path.suffix != ".tmp" and path.name not in STAYS:
                with contextlib.suppress(FileNotFoundError):
                    units[name.as_posix()] = _stamp(path)
        return units

    def _source(self, name: str) -> pathlib.Path:
        """The file whose change is that of an object."""
        path = self._local / name
        return path.with_suffix("") / COMPLETE if _is_checkpoint(name) else path

    def _read(self, name: str) -> bytes:
        path = self._local / name
        if not _is_checkpoint(name):
            return path.read_bytes()
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            archive.add(path.with_suffix(""), arcname=".")
        return content.getvalue()

    @contextlib.contextmanager
    def kept(self, copy: Callable[[], Any]) -> Iterator[None]:
        """Copies again and again, in a thread; a storage that does not answer is asked again.

        Args:
            copy: `fetch` or `push`.
        """
        over = threading.Event()

        def work() -> None:
            told = False
            while not over.wait(PERIOD):
                try:
                    copy()
                    told = False
                except Exception as error:  # of any library behind the storage
                    if not told:
                        LOG.warning(
                            "%s does not answer (%s); trying again", self._remote, first_line(error)
                        )
                    told = True

        thread = threading.Thread(target=work, name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def opened(
    folder: str,
    *,
    passed_over: Sequence[str] = (),
    copying: Callable[["Mirror"], None] | None = None,
) -> Iterator[tuple[pathlib.Path, Mirror | None]]:
    """A folder to work in, for one that may be in object storage; kept there at the end.

    Args:
        folder: a path, or the storage's name of it.
        passed_over: as in `Mirror`.
        copying: `Mirror.fetch` or `Mirror.push`, every few seconds meanwhile; None for neither.

    Yields:
        The folder, or its copy here, and the mirror, if there is one.

    Raises:
        InputError: if the storage cannot be read.
        OSError: if it cannot be written at the end; the copy stays.
    """
    if not is_remote(folder):
        yield pathlib.Path(folder), None
        return
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="resnet_jax-"))
    # With the name of the folder around it, which is that of a run's sweep.
    local = scratch.joinpath(*folder.rstrip("/").split("/")[-2:])
    try:
        mirror = Mirror(folder, local, passed_over=passed_over)
        mirror.fetch()
    except Exception as error:  # of any library behind the storage
        shutil.rmtree(scratch)
        if isinstance(error, InputError):
            raise
        kind = folder.partition("://")[0]
        raise InputError(
            f"--workdir={folder} cannot be read ({first_line(error)}); install {EXTRAS[kind]}, and "
            "see whether the bucket and your credentials are right"
        ) from error
    try:
        with mirror.kept(lambda: copying(mirror)) if copying else contextlib.nullcontext():
            yield local, mirror
    finally:
        try:
            mirror.push()
        except Exception as error:  # of any library behind the storage
            raise OSError(
                f"{folder} cannot be written ({first_line(error)}); everything is in {local}"
            ) from error
    shutil.rmtree(scratch)


@contextlib.contextmanager
def worked_on(folder: str) -> Iterator[pathlib.Path]:
    """A folder to work in, as `opened`, which is kept in the storage every few seconds."""
    with opened(folder, copying=Mirror.push) as (local, _):
        yield local


def _is_checkpoint(name: str) -> bool:
    return pathlib.PurePosixPath(name).parent.name == run_folder.CHECKPOINTS


def _order(name: str) -> tuple[int, str]:
    """Checkpoints after the records that lead up to them; what says how far a run is, last.

    A run drops records that are newer than its checkpoint, and could not make up for missing ones.
    """
    last = name.rpartition("/")[2] in (run_folder.STATUS, run_folder.HEARTBEAT)
    return (1 if _is_checkpoint(name) else 2 if last else 0), name


def _stamp(path: pathlib.Path) -> Stamp:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
