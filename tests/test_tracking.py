"""Runs as MLflow and Weights & Biases show them, read back with what these libraries give.

Both are extras (requirements-tracking.txt); what needs one is skipped where it is absent.
"""

import contextlib
import http.server
import importlib.util
import json
import logging
import math
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import zlib

import pytest

from resnet_jax import run_folder
from resnet_jax.config import LogConfig, validate
from resnet_jax.errors import InputError
from resnet_jax.metrics import sinks, tracking
from resnet_jax.metrics.background import InBackground, Ledger
from resnet_jax.metrics.telling import Outcome
from resnet_jax.metrics.writer import MetricsWriter
from resnet_jax.train import loop
from resnet_jax.train.setup import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[1]


def absent(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"{missing} not installed: pip install -r requirements-tracking.txt"
    )


# MLflow's own code, and that of what it stands on, warns of what it is about to change.
needs_mlflow = [absent("mlflow", "sqlalchemy", "alembic"), pytest.mark.filterwarnings("default")]
needs_wandb = [absent("wandb"), pytest.mark.filterwarnings("default")]


def both(function):
    for mark in (*needs_mlflow, *needs_wandb):
        function = mark(function)
    return function


def mlflow_only(function):
    for mark in needs_mlflow:
        function = mark(function)
    return function


def wandb_only(function):
    for mark in needs_wandb:
        function = mark(function)
    return function


def config(steps=14, **log):
    return validate(
        {
            "model": {"depth": 8},
            "data": {"name": "synthetic", "synthetic": {"image_size": 8, "examples": 204}},
            "train": {
                "batch_size": 32,
                "steps": steps,
                "eval_interval": 3,
                "checkpoint_interval": 4,
                "eval_batch_size": 25,
                "check": False,
            },
            "parallel": {"devices": 1},
            "log": {"interval": 2, "tensorboard": False, "progress": False, **log},
        }
    )


def expected(folder):
    """What trackers have to show, by metrics.jsonl: {'train/loss': [(step, value), ...], ...}."""
    found = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in ("step", "split", "nonfinite") and value is not None:
                found.setdefault(f"{record['split']}/{name}", []).append((record["step"], value))
    return found


def final(folder):
    report = json.loads((folder / "evaluation.json").read_text())["splits"]
    return {(split, name): report[split][name] for split in report for name in ("error", "loss")}


class Shown:
    """One MLflow store, read with MLflow's client."""

    def __init__(self, uri):
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def runs(self, project="resnet_jax"):
        experiment = self.client.get_experiment_by_name(project)
        return list(self.client.search_runs([experiment.experiment_id]))

    def history(self, run):
        return {
            name: [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if not name.startswith("final/")
        }


def wandb_records(folder):
    """W&B's own messages in the files of all attempts, oldest first, by kind.

    Its files are LevelDB logs: a header of 7 bytes, then blocks of 32 KiB with chunks (CRC, length,
    type: whole, first, middle, last), which hold its protocol buffers.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, whole, at = path.read_bytes(), b"", 7
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # too little for a chunk's header: padding
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            chunk = data[at + 7 : at + 7 + length]
            crc = zlib.crc32(bytes([kind]) + chunk)
            assert int.from_bytes(data[at : at + 4], "little") == crc
            whole, at = whole + chunk, at + 7 + length
            if kind in (1, 4):
                message = Record()
                message.ParseFromString(whole)
                yield path, message
                whole = b""


def name_of(item):
    return item.key or "/".join(item.nested_key)


def wandb_history(folder):
    found = {}
    for _, record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            row = {name_of(item): json.loads(item.value_json) for item in record.history.item}
            assert row["_step"] == row["step"]
            for name, value in row.items():
                if "/" in name:
                    found.setdefault(name, []).append((row["step"], value))
    return found


def as_told(uri, folder):
    """Both trackers' view of a run."""
    shown = Shown(uri)
    (run,) = shown.runs()
    return run, shown.history(run), wandb_history(folder)


@both
def test_a_run_is_shown_by_both_as_its_folder_has_it(tmp_path):
    uri, folder = f"sqlite:///{tmp_path}/sub/mlflow.db", tmp_path / "sweep" / "resnet8-seed0"
    status = loop.train(config(mlflow=uri, wandb="offline"), folder)
    assert status["state"] == "completed"
    run, mlflow_history, wandb_rows = as_told(uri, folder)
    assert len(expected(folder)["train/loss"]) == 7 and "val/error" in expected(folder)
    assert mlflow_history == expected(folder)
    assert wandb_rows == expected(folder)
    assert run.info.run_name == "resnet8-seed0"
    assert run.info.status == "FINISHED"
    assert run.data.params["model.depth"] == "8"
    assert run.data.params["data.synthetic.examples"] == "204"
    tags = run.data.tags
    assert (tags["group"], tags["folder"], tags["state"]) == ("sweep", str(folder), "completed")
    commit = run_folder.attempts(folder)[0]["commit"]
    assert tags.get("commit") == commit == tags.get("mlflow.source.git.commit")
    for (split, name), value in final(folder).items():
        assert run.data.metrics[f"final/{split}/{name}"] == value
    assert run.data.metrics["final/test/accuracy"] == pytest.approx(
        1 - final(folder)["test", "error"] / 100
    )
    kinds = [(record.WhichOneof("record_type"), record) for _, record in wandb_records(folder)]
    (begun,) = [record.run for kind, record in kinds if kind == "run"]
    assert (begun.project, begun.display_name, begun.run_group) == (
        "resnet_jax", "resnet8-seed0", "sweep",
    )  # fmt: skip
    told = {name_of(item): json.loads(item.value_json) for item in begun.config.update}
    assert told["model.depth"] == 8 and told["folder"] == str(folder)
    summary = {}
    for kind, record in kinds:
        if kind == "summary":
            summary |= {
                i.key or "/".join(i.nested_key): i.value_json for i in record.summary.update
            }
    assert json.loads(summary["final/test/error"]) == final(folder)["test", "error"]
    (code,) = [record.exit.exit_code for kind, record in kinds if kind == "exit"]
    assert code == 0


@both
def test_a_run_that_was_cut_off_after_its_checkpoint_is_shown_once(tmp_path, monkeypatch):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    run = config(mlflow=uri, wandb="offline")
    original = loop.Attempt._look_and_save

    def fail(self, step, last):
        if step == 7:
            raise OSError("the machine went away")
        original(self, step, last)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="went away"):
        patch.setattr(loop.Attempt, "_look_and_save", fail)
        loop.train(run, folder)
    # Records of step 6 were sent; the run goes on after step 4 and makes them again.
    first, before, _ = as_told(uri, folder)
    assert first.info.status == "FAILED"
    assert [step for step, _ in before["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in before["val/error"]] == [3, 6]
    assert loop.train(run, folder)["state"] == "completed"
    again, mlflow_history, wandb_rows = as_told(uri, folder)
    assert again.info.run_id == first.info.run_id and again.info.status == "FINISHED"
    assert mlflow_history == expected(folder)
    assert wandb_rows == expected(folder)
    ids = {record.run.run_id for _, record in wandb_records(folder) if record.HasField("run")}
    files = {path for path, _ in wandb_records(folder)}
    assert len(files) == 2 and len(ids) == 1
    kept = run_folder.read_json(folder / run_folder.TRACKING)
    assert ids == {kept["wandb"]["id"]} and kept["mlflow"]["run_id"] == first.info.run_id
    assert kept["wandb"]["sent"] == {"train": 14, "val": 14, "test": 14}


@mlflow_only
def test_a_run_that_was_begun_without_a_tracker_is_shown_whole_once_it_has_one(tmp_path):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    answers = iter([False] * 12)
    loop.train(config(), folder, should_stop=lambda: next(answers, True))
    made = len(expected(folder)["train/loss"])
    assert 0 < made < 7 and not (folder / run_folder.TRACKING).exists()
    # Asked to stop at once: what was there before is sent, and the state is told.
    answers = iter([False] * 3)
    status = loop.train(config(mlflow=uri), folder, should_stop=lambda: next(answers, True))
    assert status["state"] == "stopped"
    shown = Shown(uri)
    (run,) = shown.runs()
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "stopped")
    assert len(shown.history(run)["train/loss"]) >= made
    loop.train(config(mlflow=uri), folder)
    (run,) = shown.runs()
    assert run.info.status == "FINISHED" and shown.history(run) == expected(folder)


def write(folder, sink, steps, after_step=0, state=None):
    folder.mkdir(exist_ok=True)
    writer = MetricsWriter(folder, after_step=after_step, sinks=[sink])
    for step in steps:
        writer.write(step, "train", {"loss": 1 / step, "error": math.nan if step == 2 else 50.0})
    run_folder.write_json(folder / run_folder.STATUS, {"state": state, "step": max(steps)})
    writer.close()


def of_mlflow(uri, folder, project="resnet_jax"):
    return tracking.sinks_of(
        config(mlflow=uri, project=project), folder
    )[0]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("completed", "FINISHED"), ("diverged", "FAILED"), ("stopped", "KILLED"),
        ("failed", "FAILED"), ("running", "FAILED"),
    ],
)  # fmt: skip
@mlflow_only
def test_mlflow_is_told_how_a_run_ended_and_no_value_that_is_not_finite(tmp_path, state, status):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write(tmp_path / "run", of_mlflow(uri, tmp_path / "run"), [1, 2, 3], state=state)
    shown = Shown(uri)
    (run,) = shown.runs()
    assert run.info.status == status
    assert shown.history(run) == {
        "train/loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)],
        "train/error": [(1, 50.0), (3, 50.0)],
    }


@mlflow_only
def test_mlflow_itself_is_asked_what_it_has_if_the_ledger_is_behind(tmp_path):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    write(folder, of_mlflow(uri, folder), [1, 2, 3], state="failed")
    path = folder / run_folder.TRACKING
    kept = json.loads(path.read_text())
    del kept["mlflow"]["sent"]
    path.write_text(json.dumps(kept))
    write(folder, of_mlflow(uri, folder), [2, 3, 4], after_step=1, state="completed")
    shown = Shown(uri)
    (run,) = shown.runs()
    assert [step for step, _ in shown.history(run)["train/loss"]] == [1, 2, 3, 4]


@mlflow_only
def test_another_project_or_a_deleted_run_begins_a_new_one_with_all_records(tmp_path):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    write(folder, of_mlflow(uri, folder), [1, 2], state="stopped")
    write(folder, of_mlflow(uri, folder, "other"), [3], after_step=2, state="stopped")
    shown = Shown(uri)
    (other,) = shown.runs("other")
    assert [step for step, _ in shown.history(other)["train/loss"]] == [1, 2, 3]
    shown.client.delete_run(other.info.run_id)
    write(folder, of_mlflow(uri, folder, "other"), [4], after_step=3, state="stopped")
    (anew,) = shown.runs("other")
    assert anew.info.run_id != other.info.run_id
    assert [step for step, _ in shown.history(anew)["train/loss"]] == [1, 2, 3, 4]


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@mlflow_only
def test_a_server_that_is_down_costs_a_run_one_warning_and_nothing_else(
    tmp_path, monkeypatch, caplog
):
    with socket.socket() as taken:  # bound and not listening: refused, whoever else looks for ports
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        status = loop.train(config(mlflow=uri), tmp_path / "run")
        assert time.monotonic() - began < 60
    assert status["state"] == "completed"
    assert len(expected(tmp_path / "run")["train/loss"]) == 7
    (warning,) = warnings_of(caplog)
    assert warning.startswith("going on without MLflow (")
    assert warning.endswith("the run's folder has all records")
    assert "\n" not in warning


@contextlib.contextmanager
def a_server_that_never_answers():
    asked = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802 - http.server's name
            asked.set()
            over.wait()

        do_POST = do_GET  # noqa: N815

    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@mlflow_only
def test_a_server_that_never_answers_holds_up_no_record_and_the_end_only_for_a_while(
    tmp_path, caplog
):
    with a_server_that_never_answers() as (uri, asked):
        (tmp_path / "run").mkdir()
        run = tracking._described(config(), tmp_path / "run")
        remote = sinks.MLflow(run, uri, "resnet_jax")
        sink = InBackground(remote, Ledger(tmp_path / "run"), close_seconds=0.5)
        writer = MetricsWriter(tmp_path / "run", after_step=0, sinks=[sink])
        assert asked.wait(60)
        began = time.monotonic()
        for step in range(1, 1001):
            writer.write(step, "train", {"loss": 1.0})
        assert time.monotonic() - began < 5
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < 5
    assert len(expected(tmp_path / "run")["train/loss"]) == 1000
    (warning,) = warnings_of(caplog)
    assert "MLflow (it has not taken everything within 0.5 s)" in warning


class Fake:
    """A tracker that keeps what it is told, and fails when it is asked to."""

    label, key = "Fake", "fake"

    def __init__(self, has=None, fails_at=None):
        self.has, self.fails_at, self.told, self.outcome = has or {}, fails_at, [], None

    def start(self, entry, keep):
        keep({**entry, "id": "x"})
        return dict(entry.get("sent", self.has))

    def send(self, records):
        if any(record["step"] == self.fails_at for record in records):
            raise ConnectionError("gone\nand more")
        self.told += [(record["step"], record["split"]) for record in records]

    def close(self, outcome):
        self.outcome = outcome


def test_a_tracker_that_failed_is_sent_what_it_missed_when_the_run_goes_on(tmp_path, caplog):
    first, second = Fake(fails_at=3), Fake()
    sink = InBackground(first, Ledger(tmp_path))
    writer = MetricsWriter(tmp_path, after_step=0, sinks=[sink])
    writer.write(1, "train", {"loss": 1.0})
    while not first.told:
        time.sleep(0.001)
    for step in (3, 4, 5):
        writer.write(step, "train", {"loss": 1.0})
    writer.close()
    assert first.told == [(1, "train")] and first.outcome is None
    assert warnings_of(caplog) == [
        "going on without Fake (ConnectionError: gone); the run's folder has all records"
    ]
    write(tmp_path, InBackground(second, Ledger(tmp_path)), [6], after_step=5, state="completed")
    assert second.told == [(step, "train") for step in (3, 4, 5, 6)]
    assert second.outcome == Outcome("completed", 6, {})


def test_each_split_has_its_own_last_step(tmp_path):
    # Cut off between the records of step 6: train's was sent, val's was not.
    tracker = Fake(has={"train": 6, "val": 3})
    writer = MetricsWriter(tmp_path, after_step=0, sinks=[InBackground(tracker, Ledger(tmp_path))])
    for step, split in ((4, "train"), (6, "train"), (6, "val"), (8, "train")):
        writer.write(step, split, {"loss": 1.0})
    writer.close()
    assert tracker.told == [(6, "val"), (8, "train")]


def test_a_damaged_ledger_is_no_reason_to_end_a_run(tmp_path, caplog):
    (tmp_path / run_folder.TRACKING).write_text("{")
    assert Ledger(tmp_path).entry("mlflow") == {}
    (warning,) = warnings_of(caplog)
    assert "tracking.json" in warning


def test_a_process_that_does_not_lead_tells_no_tracker(tmp_path):
    assert tracking.sinks_of(config(wandb="offline"), tmp_path, leads=False) == []


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"mlflow": "mlruns"}, r"config\.log\.mlflow must be .*got 'mlruns'; for example 'sqlite"),
        ({"mlflow": "sqlite:///"}, r"config\.log\.mlflow must be"),
        ({"mlflow": "sqlite://"}, r"config\.log\.mlflow must be"),
        ({"mlflow": "http://"}, r"config\.log\.mlflow must be"),
        ({"mlflow": "http://host:port"}, r"config\.log\.mlflow must be"),
        ({"mlflow": "ftp://host"}, r"config\.log\.mlflow must be"),
        (
            {"mlflow": "https://me:secret@host"},
            r"must not hold .* 'host'; set MLFLOW_TRACKING_",
        ),
        ({"wandb": "on"}, r"config\.log\.wandb must be one of '', 'offline', 'online'; got 'on'"),
        ({"wandb": True}, r"config\.log\.wandb must be a string, got True"),
        ({"project": ""}, r"config\.log\.project must be 1 to 128 letters.* got ''"),
        ({"project": "a/b"}, r"config\.log\.project must be .* got 'a/b'"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_in_one_line(log, message):
    with pytest.raises(InputError, match=message) as refused:
        config(**log)
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["sqlite:///runs/mlflow.db", "sqlite:////a/b.db", "http://h:5000",
                                 "https://host.example/mlflow", ""])  # fmt: skip
def test_stores_and_servers_are_accepted(uri):
    assert config(mlflow=uri).log.mlflow == uri


@pytest.mark.parametrize(
    ("log", "package"),
    [
        ({"mlflow": "http://host"}, "mlflow"),
        ({"mlflow": "sqlite:///a.db"}, "sqlalchemy"),
        ({"wandb": "offline"}, "wandb"),
    ],
)
def test_a_library_that_is_missing_is_named_before_anything_is_written(
    tmp_path, monkeypatch, log, package
):
    find = importlib.util.find_spec
    here = find("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else here)
    monkeypatch.setattr(Experiment, "prepare", lambda *_: pytest.fail("it was prepared"))
    with pytest.raises(InputError, match=rf"needs {package}, which is not installed: pip install"):
        loop.train(config(**log), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_called_wandb_is_not_taken_for_the_library(tmp_path, monkeypatch):
    (tmp_path / "wandbfolder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("wandbfolder") is not None
    with pytest.raises(InputError, match="needs wandbfolder"):
        tracking._require_installed("wandb", "offline", "wandbfolder")


def in_a_process(code, tmp_path, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )


@wandb_only
def test_online_without_a_key_is_refused_and_nobody_is_asked_for_one(tmp_path):
    code = (
        "from resnet_jax.config import LogConfig\n"
        "from resnet_jax.metrics import tracking\n"
        "tracking.require_ready(LogConfig(wandb='online'))\n"
    )
    done = in_a_process(code, tmp_path)
    assert done.stdout == "" and done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "config.log.wandb='online' needs an API key: run `wandb login`" in last


@wandb_only
def test_a_wandb_server_that_is_down_costs_one_warning_and_the_process_ends(tmp_path):
    done = tell(
        tmp_path,
        "",
        "online",
        before="from resnet_jax.metrics import sinks\nsinks.WeightsAndBiases.START_SECONDS = 3\n",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="a" * 40,
    )
    assert done.returncode == 0 and done.stdout == ""
    (warning,) = done.stderr.strip().splitlines()
    assert warning.startswith("going on without Weights & Biases (CommError")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


DEFAULT = LogConfig()
TELL = """
import sys
from pathlib import Path
from resnet_jax.config import RunConfig, LogConfig
from resnet_jax.metrics import tracking
from resnet_jax.metrics.writer import MetricsWriter
folder = Path("run"); folder.mkdir()
log = LogConfig(tensorboard=False, mlflow=sys.argv[1], wandb=sys.argv[2])
tracking.require_ready(log)
sinks = tracking.sinks_of(RunConfig(log=log), folder)
writer = MetricsWriter(folder, after_step=0, sinks=sinks)
writer.write(1, "train", {"loss": 1.0})
writer.close()
heavy = ("tensorflow", "torch", "mlflow", "wandb", "pandas")
Path("imported").write_text(" ".join(name for name in heavy if name in sys.modules))
"""


def tell(tmp_path, mlflow, wandb, before="", **environment):
    (tmp_path / "tell.py").write_text(before + TELL)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    return subprocess.run(
        [sys.executable, "tell.py", mlflow, wandb],
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_by_default_neither_library_is_imported(tmp_path):
    assert (DEFAULT.mlflow, DEFAULT.wandb) == ("", "")
    done = tell(tmp_path, "", "")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imported").read_text() == ""


@mlflow_only
def test_runs_that_begin_together_on_a_new_store_are_all_shown(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = TELL.replace('"run"', "sys.argv[3]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, "", f"run{number}"],
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    assert [process.communicate(timeout=300)[1] for process in processes] == [b""] * 3
    shown = {run.info.run_name: run.data.metrics for run in Shown(uri).runs()}
    assert shown == {f"run{number}": {"train/loss": 1.0} for number in range(3)}


@both
def test_trackers_say_nothing_leave_all_in_its_place_and_import_no_tensorflow(tmp_path):
    done = tell(tmp_path, "sqlite:///mlflow.db", "offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "imported").read_text() == "mlflow wandb"
    assert {path.name for path in tmp_path.iterdir()} == {
        "run", "mlflow.db", "mlflow.db.lock", "tell.py", "imported",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"wandb", "tracking.json"}
