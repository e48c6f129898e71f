"""Run folders in object storage: S3's protocol, spoken by a server in this process."""

import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from resnet_jax import mirror, run_folder
from resnet_jax.errors import InputError
from tests.test_on_ray import ray

ROOT = pathlib.Path(__file__).resolve().parents[1]
moto = pytest.importorskip("moto.server", reason="moto is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
# The libraries behind it leave sockets and event loops to the interpreter.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FLAGS = (
    "--config=configs/digits.py",
    "--config.model.width=0.25",
    "--config.evaluation.bootstrap_samples=0",
    "--config.log.tensorboard=False",
    "--config.log.interval=10",
    "--config.train.checkpoint_interval=50",
    "--config.train.keep_checkpoints=1",
)


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    made = moto.ThreadedMotoServer(port=0, verbose=False)
    made.start()
    _, port = made.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield s3fs.S3FileSystem(use_listings_cache=False)
    made.stop()


@pytest.fixture
def bucket(server, tmp_path):
    """A bucket of this test's own."""
    name = f"b{abs(hash(tmp_path)):x}"
    server.mkdir(name)
    return f"s3://{name}"


def objects(server, folder):
    prefix = folder.removeprefix("s3://") + "/"
    return {path.removeprefix(prefix) for path in server.find(folder)}


def command(module, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(module, *flags, code=0):
    with command(module, *flags) as process:
        text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def test_a_run_in_a_bucket_goes_on_after_a_stop_and_a_kill_as_one_in_a_folder(
    server, bucket, tmp_path
):
    # Long enough to be stopped, and to last longer than the storage is left alone.
    flags = (*FLAGS, "--config.model.depth=8", "--config.train.steps=1200")
    done("resnet_jax.main", *flags, f"--workdir={tmp_path / 'run'}")
    url = f"{bucket}/runs/r8"
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = {name for name in objects(server, url) if name.endswith(".tar")}
        with command("resnet_jax.main", *flags, f"--workdir={url}") as process:
            until = time.monotonic() + 200
            while not {n for n in objects(server, url) if n.endswith(".tar")} - before:
                assert process.poll() is None and time.monotonic() < until, process.stdout.read()
                time.sleep(0.2)
            process.send_signal(number)
            process.wait(60)
    text = done("resnet_jax.main", *flags, f"--workdir={url}")
    assert f"{url}: completed" in text
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        assert server.cat(f"{url}/{name}").decode() == (tmp_path / "run" / name).read_text()
    found = objects(server, url)
    # The newest and the best, an object each, and nothing of this machine.
    kept = {path.name for path in (tmp_path / "run" / run_folder.CHECKPOINTS).iterdir()}
    assert {n for n in found if n.startswith("checkpoints/")} == {
        f"checkpoints/{step}.tar" for step in kept
    }
    assert run_folder.LOCK not in found
    assert "nothing to do" in done("resnet_jax.main", *flags, f"--workdir={url}")
    assert "after step 1200" in done("resnet_jax.main", "--mode=evaluate", f"--workdir={url}")


GRID = (*FLAGS, "--depths=8", "--seeds=0", "--config.train.steps=60")


def test_a_sweep_in_a_bucket_is_skipped_when_it_is_there_and_its_report_too(server, bucket):
    url = f"{bucket}/sweep"
    done("experiments.degradation", *GRID, f"--workdir={url}")
    found = objects(server, url)
    for run in ("plain-8-seed0", "ResNet-8-seed0"):
        assert {f"{run}/status.json", f"{run}/checkpoints/60.tar"} <= found
    assert "report/report.html" in found
    server.rm(f"{url}/report", recursive=True)
    text = done("resnet_jax.report", url)
    assert f"report: {url}/report" in text and "report/report.html" in objects(server, url)
    assert "running" not in done("experiments.degradation", *GRID, f"--workdir={url}")


def test_nodes_of_ray_keep_their_runs_in_the_bucket(server, bucket, tmp_path):
    assert ray
    url = f"{bucket}/on_ray"
    done("experiments.degradation", *GRID, "--executor=ray", f"--workdir={url}")
    done("experiments.degradation", *GRID, f"--workdir={tmp_path / 'sweep'}")
    for run in ("plain-8-seed0", "ResNet-8-seed0"):
        name = f"{run}/{run_folder.METRICS}"
        assert server.cat(f"{url}/{name}").decode() == (tmp_path / "sweep" / name).read_text()
        assert f"{run}/checkpoints/60.tar" in objects(server, url)
    assert "report/report.html" in objects(server, url)


@pytest.fixture
def pair(server, bucket, tmp_path):
    return mirror.Mirror(f"{bucket}/run", tmp_path / "here"), tmp_path / "here"


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_only_what_is_complete_is_sent_and_what_was_deleted_goes(server, bucket, pair):
    made, here = pair
    for name in ("metrics.jsonl", "checkpoints/50/data", "checkpoints/50/sha256.json"):
        write(here, name, "1")
    for name in ("checkpoints/100/data", ".lock", ".status.json.7.tmp"):
        write(here, name, "unfinished")
    made.push()
    assert objects(server, f"{bucket}/run") == {"metrics.jsonl", "checkpoints/50.tar"}
    write(here, "checkpoints/100/sha256.json", "2")
    for path in sorted((here / "checkpoints" / "50").iterdir()):
        path.unlink()
    (here / "checkpoints" / "50").rmdir()
    made.push()
    assert objects(server, f"{bucket}/run") == {"metrics.jsonl", "checkpoints/100.tar"}


def test_what_comes_back_is_what_was_sent_and_only_what_changed_is_sent_again(
    server, bucket, pair, tmp_path, monkeypatch
):
    made, here = pair
    write(here, "a/checkpoints/50/d/data", "weights")
    write(here, "a/checkpoints/50/sha256.json", "{}")
    write(here, "a/status.json", "running")
    write(here, "ab/status.json", "queued")
    made.push("a")
    assert objects(server, f"{bucket}/run") == {"a/checkpoints/50.tar", "a/status.json"}
    made.push()
    other = mirror.Mirror(f"{bucket}/run", tmp_path / "there")
    other.fetch()
    assert (tmp_path / "there/a/checkpoints/50/d/data").read_text() == "weights"
    light = mirror.Mirror(f"{bucket}/run", tmp_path / "light", passed_over=mirror.HEAVY)
    light.fetch()
    assert {p.name for p in (tmp_path / "light/a").iterdir()} == {"status.json"}

    sent = []
    monkeypatch.setattr(mirror.Mirror, "_read", lambda self, name: sent.append(name) or b"new")
    write(here, "a/status.json", "completed")
    write(here, "a/metrics.jsonl", "{}")
    made.push()
    # Whoever reads the status finds what it speaks of.
    assert sent == ["a/metrics.jsonl", "a/status.json"]
    other.fetch()
    assert (tmp_path / "there/a/status.json").read_text() == "new"
    # What followed and changed nothing sends nothing back, and fetches nothing again.
    sent.clear()
    other.push()
    assert sent == []
    fetched = []
    monkeypatch.setattr(mirror.Mirror, "_put", lambda self, name, content: fetched.append(name))
    other.fetch()
    assert fetched == []
    # As long as before, and in the same second.
    write(here, "a/status.json", "old")
    monkeypatch.setattr(mirror.Mirror, "_read", lambda self, name: b"old")
    made.push()
    other.fetch()
    assert fetched == ["a/status.json"]


def test_a_key_that_leads_out_of_the_copy_is_left_alone(server, bucket, pair, tmp_path):
    made, here = pair
    server.pipe(f"{bucket}/run/../outside", b"x")
    server.pipe(f"{bucket}/run", b"x")
    made.fetch()
    assert not here.exists()
    server.pipe(f"{bucket}/run/inside", b"x")
    made.fetch()
    assert [path.name for path in here.iterdir()] == ["inside"]
    assert not (tmp_path / "outside").exists()


def test_a_storage_that_fails_is_told_of_once_and_loses_nothing(
    server, bucket, pair, monkeypatch, caplog
):
    made, here = pair
    monkeypatch.setattr(mirror, "PERIOD", 0.02)
    calls = []

    def fail():
        calls.append(1)
        raise OSError("no way to it")

    with made.kept(fail):
        until = time.monotonic() + 10
        while len(calls) < 5 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(calls) >= 5
    assert [r.getMessage() for r in caplog.records].count(
        f"{bucket}/run does not answer (no way to it); trying again"
    ) == 1

    def refuse(self, within=""):
        raise OSError("forbidden")

    with pytest.raises(OSError, match="cannot be written .forbidden.; everything is in ") as told:
        with mirror.worked_on(f"{bucket}/other") as local:
            write(local, "status.json", "completed")
            monkeypatch.setattr(mirror.Mirror, "push", refuse)
    kept = pathlib.Path(str(told.value).rpartition(" in ")[2])
    assert (kept / "status.json").read_text() == "completed"


def test_a_bucket_that_is_not_there_is_refused_and_one_that_goes_loses_nothing(server, bucket):
    with pytest.raises(InputError, match="cannot be read .The specified bucket does not exist."):
        with mirror.worked_on(f"{bucket}-other/run"):
            pass
    assert not server.exists(f"{bucket}-other")
    with pytest.raises(OSError, match="cannot be written .*; everything is in ") as told:
        with mirror.worked_on(f"{bucket}/run") as local:
            write(local, "status.json", "completed")
            server.rmdir(bucket.removeprefix("s3://"))
    kept = pathlib.Path(str(told.value).rpartition(" in ")[2])
    assert (kept / "status.json").read_text() == "completed"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/run", "ftp:// is no storage that is known; use a folder, or s3://"),
        ("gs://bucket/run", "install gcsfs"),
    ],
)
def test_storage_that_cannot_be_used_is_refused_in_one_line(url, words):
    text = done("resnet_jax.main", *FLAGS, f"--workdir={url}", code=2)
    assert words in text.strip().splitlines()[-1]


def test_sweeps_whose_runs_read_one_anothers_folders_want_a_folder(bucket):
    text = done("experiments.transfer", "--sizes=32", f"--workdir={bucket}/t", code=2)
    assert "must be a folder that all see" in text.strip().splitlines()[-1]


def test_a_folder_of_this_machine_is_worked_on_in_place(tmp_path):
    with mirror.worked_on(str(tmp_path)) as folder:
        assert folder == tmp_path
    assert not mirror.is_remote(str(tmp_path))
    with pytest.raises(InputError, match="nothing://"):
        with mirror.worked_on("nothing://x"):
            pass
