"""Runs of several processes, each with devices of its own, against the same run in one."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import yaml

from resnet_jax import hosts, parallel, run_folder
from resnet_jax.config import DataConfig, ParallelConfig, SyntheticConfig
from resnet_jax.data import datasets
from resnet_jax.data.batches import EvaluationBatches, TrainingBatches
from resnet_jax.data.crops import View
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.pipeline import Resident
from resnet_jax.data.streamed import load
from resnet_jax.errors import InputError
from resnet_jax.parallel import DeviceMap
from resnet_jax.train.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 40
# 24 images a step and at a time in evaluation divide over 1, 2, 3 and 4 devices. In double
# precision, what devices add up in another order agrees to 1e-9.
RECIPE = (
    "--config=configs/digits.py",
    "--config.model.depth=8",
    "--config.model.width=0.25",
    "--config.model.dtype=float64",
    f"--config.train.steps={STEPS}",
    "--config.train.batch_size=24",
    "--config.train.eval_batch_size=240",
    "--config.train.eval_interval=20",
    "--config.train.checkpoint_interval=10",
    "--config.log.interval=5",
    "--config.log.tensorboard=False",
    "--config.evaluation.bootstrap_samples=0",
)
TOLERANCE = 1e-9
LIMIT = 240


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def on_slurm(index, processes):
    """What `srun` tells each task of its place."""
    return {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def start(workdir, *flags, processes=1, devices=1, slurm=False):
    """The processes of one run, each with some virtual devices; all output goes to files."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # each number of devices is compiled anew
        "XLA_FLAGS": "",
        "RESNET_JAX_NATIVE": "0",
        "PYTHONUNBUFFERED": "1",
    }
    address = f"localhost:{free_port()}"
    job = on_slurm(0, processes)["SLURM_JOB_ID"]
    started = []
    for index in range(processes):
        place = (f"--coordinator_address={address}", f"--num_processes={processes}")
        place = (*place, f"--process_id={index}") if processes > 1 else ()
        if slurm:
            place = ("--distributed",)
            environment |= on_slurm(index, processes) | {"SLURM_JOB_ID": job}
        log = workdir.parent / f"{workdir.name}-{len(list(workdir.parent.glob('*.log')))}.log"
        command = [sys.executable, "-m", "resnet_jax.main", f"--workdir={workdir}", *place, *flags]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        process.log = log
        started.append(process)
    return started


def ended(processes, limit=LIMIT):
    """Exit codes and what each process said."""
    until = time.monotonic() + limit
    try:
        codes = [process.wait(max(until - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [process.log.read_text() for process in processes]


def train(workdir, *flags, **how):
    codes, texts = ended(start(workdir, *RECIPE, *flags, **how))
    assert set(codes) == {0}, texts
    return texts


def wait_for(there, processes):
    until = time.monotonic() + LIMIT
    while not there():
        assert time.monotonic() < until, [process.log.read_text() for process in processes]
        assert all(process.poll() is None for process in processes), [
            process.log.read_text() for process in processes
        ]
        time.sleep(0.05)


def trainer(process):
    """The child of a command that watches it."""
    (child,) = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def records(workdir):
    return run_folder.read_records(workdir / run_folder.METRICS)


def assert_same(got, want):
    """The same records, predictions and last parameters, to the tolerance."""
    ours, theirs = records(got), records(want)
    assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in a.keys() - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=TOLERANCE), (name, a, b)
    with np.load(got / "predictions.npz") as a, np.load(want / "predictions.npz") as b:
        for split in ("val", "test"):
            np.testing.assert_array_equal(a[f"{split}_ids"], b[f"{split}_ids"])
            np.testing.assert_array_equal(a[f"{split}_labels"], b[f"{split}_labels"])
            np.testing.assert_allclose(a[f"{split}_logits"], b[f"{split}_logits"], atol=1e-8)
    errors = [
        run_folder.read_json(folder / run_folder.EVALUATION)["splits"]["test"]["error"]
        for folder in (got, want)
    ]
    assert errors[0] == errors[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run that all others are compared with: one process, four devices."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(folder, devices=4)
    return folder


def writers(workdir, step):
    """The processes that have written part of a checkpoint."""
    folder = workdir / run_folder.CHECKPOINTS / str(step) / "default"
    return {
        int(path.parent.parent.name.split("_")[-1]) for path in folder.glob("ocdbt.process_*/d/*")
    }


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_several_processes_train_what_one_does(alone, tmp_path, processes, devices):
    said = train(tmp_path / "run", processes=processes, devices=devices)
    assert_same(tmp_path / "run", alone)
    assert f"step {STEPS}" in said[0] and "step" not in "".join(said[1:])
    attempt = run_folder.attempts(tmp_path / "run")[-1]
    assert (attempt["hosts"], len(attempt["devices"])) == (processes, processes * devices)
    assert writers(tmp_path / "run", STEPS) == set(range(processes))
    assert not Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).damaged()


def test_tasks_of_slurm_find_one_another_by_themselves(tmp_path):
    folder = tmp_path / "run"
    train(folder, "--config.train.steps=10", processes=2, slurm=True)
    assert run_folder.attempts(folder)[-1]["hosts"] == 2
    assert run_folder.read_json(folder / run_folder.STATUS)["state"] == run_folder.COMPLETED


def test_asking_one_process_to_stop_stops_all_at_one_step_and_one_process_goes_on(alone, tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, *RECIPE, processes=2, devices=1)
    wait_for(lambda: records(folder), processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, _ = ended(processes)
    assert codes == [75, 75]
    status = run_folder.read_json(folder / run_folder.STATUS)
    assert status["state"] == run_folder.STOPPED and 0 < status["step"] < STEPS
    assert (folder / run_folder.CHECKPOINTS / str(status["step"])).is_dir()
    train(folder, devices=1)
    assert_same(folder, alone)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_ends_the_others_in_one_line_and_fewer_go_on(alone, tmp_path, victim):
    folder = tmp_path / "run"
    processes = start(folder, *RECIPE, processes=3, devices=1)
    wait_for(lambda: (folder / run_folder.CHECKPOINTS / "10").is_dir(), processes)
    os.kill(trainer(processes[victim]), signal.SIGKILL)
    codes, texts = ended(processes, limit=60)
    others = [index for index in range(3) if index != victim]
    assert codes[victim] == 128 + signal.SIGKILL
    for index in others:
        assert codes[index] == 75
        assert re.search("lost.*start all of them again with the same command", texts[index])
    train(folder, processes=2, devices=2)
    assert_same(folder, alone)


def test_a_stopped_clock_of_one_process_counts_as_its_loss(tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, *RECIPE, "--config.train.steps=100000", processes=2, devices=1)
    wait_for(lambda: records(folder), processes)
    frozen = trainer(processes[1])
    os.kill(frozen, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        assert processes[0].wait(60) == hosts.LOST
    finally:
        os.kill(frozen, signal.SIGKILL)
    assert time.monotonic() - begun < 60
    assert "start all of them again" in processes[0].log.read_text()
    ended(processes)


def test_a_folder_in_use_is_refused_by_all_processes(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_folder.locked(folder):
        codes, texts = ended(start(folder, *RECIPE, processes=2))
    assert codes == [2, 2]
    for text in texts:
        assert f"--workdir={folder} is in use by process {os.getpid()}" in text


def test_streamed_images_and_damaged_ones_are_those_of_one_process(shapes, tmp_path):
    folder = tmp_path / "shapes"
    subprocess.run(["cp", "-r", shapes, folder], check=True)
    for split, number in (("train", 3), ("train", 7), ("val", 2), ("val", 5)):
        path = sorted((folder / split).rglob("*.jpg"))[number]
        path.write_bytes(path.read_bytes()[:200])
    flags = (
        "--config.data.name=image_folder",
        f"--config.data.data_dir={folder}",
        "--config.data.normalization=imagenet",
        "--config.data.image_size=16",
        "--config.data.crop_padding=4",
        "--config.data.workers=0",
        "--config.data.max_unreadable=0.2",
        "--config.train.steps=20",
        "--config.train.eval_batch_size=12",
    )
    train(tmp_path / "one", *flags, devices=2)
    train(tmp_path / "two", *flags, processes=2)
    assert_same(tmp_path / "two", tmp_path / "one")
    found, want = (
        run_folder.read_json(tmp_path / name / run_folder.UNREADABLE) for name in ("two", "one")
    )
    assert {split: set(ids) for split, ids in found.items()} == {
        split: set(ids) for split, ids in want.items()
    }
    assert sum(map(len, found.values())) == 4


def refused(*flags):
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.main", "--config=configs/digits.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "SLURM_JOB_ID": ""},
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2", "--process_id=0"], "--coordinator_address is missing"),
        (
            ["--coordinator_address=node", "--num_processes=2", "--process_id=0"],
            "must be host:port",
        ),
        (
            ["--coordinator_address=node:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 must be below --num_processes=2",
        ),
        (["--distributed", "--mode=evaluate"], "--mode=evaluate runs in one process"),
        (["--distributed"], "--workdir is missing"),
        (["--distributed", "--workdir=/tmp/never"], "give --coordinator_address"),
        (["--distributed", "--workdir=s3://bucket/run"], "must be a folder that all processes see"),
    ],
)
def test_flags_that_do_not_say_who_belongs_together_are_refused(flags, words):
    assert words in refused(*flags)


def test_processes_that_do_not_find_one_another_say_so():
    program = (
        "from resnet_jax import hosts; hosts.JOIN_SECONDS = 2; hosts.watched();"
        f"hosts.connect('localhost:{free_port()}', 2, 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == hosts.LOST
    assert "did not find one another in 2 s; start all of them again" in done.stderr


@pytest.mark.parametrize(
    ("kind", "expected"), [("InputError", InputError), ("OSError", RuntimeError)]
)
def test_what_keeps_the_leader_from_going_on_ends_the_others_too(monkeypatch, kind, expected):
    follower = hosts.Hosts()
    follower.index, follower.count = 1, 2
    monkeypatch.setattr(follower, "every", lambda value: [[None, [kind, "no room"]], value])
    with pytest.raises(expected, match="no room"):
        follower.lead(lambda: pytest.fail("only the leader acts"))
    with pytest.raises(expected, match="no room"):
        follower.leader_first(lambda: pytest.fail("the leader has failed"))


def test_the_shares_of_all_hosts_are_the_whole_batch(shapes):
    config = DataConfig(name="synthetic", synthetic=SyntheticConfig(image_size=8, examples=100))
    dataset = datasets.load(config)
    order = TrainingOrder(len(dataset.train), 12, seed=0)
    whole, *parts = (
        Resident.of(dataset, config, host=host) for host in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    want = list(whole.training(order, 2, 6, 2))
    shares = zip(*(part.training(order, 2, 6, 2) for part in parts), strict=True)
    for got, batch in zip(shares, want, strict=True):
        np.testing.assert_array_equal(np.concatenate(got, axis=1), batch)
    shares = zip(*(part.evaluation("test", 12) for part in parts), strict=True)
    for got, batch in zip(shares, whole.evaluation("test", 12), strict=True):
        for name in ("inputs", "mask", "labels", "ids"):
            joined = np.concatenate([getattr(share, name) for share in got])
            np.testing.assert_array_equal(joined, getattr(batch, name))

    streamed = load(dataclasses.replace(config, name="image_folder", data_dir=str(shapes)))
    order = TrainingOrder(len(streamed.train), 12, seed=0)
    whole, *parts = (
        TrainingBatches(streamed.train, order, "inception", 16, 0, 2, host)[1]
        for host in ((0, 1), (0, 2), (1, 2))
    )
    for name, want in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), want)
    whole, *parts = (
        EvaluationBatches(streamed.test, View(16, 16), 12, host)[2]
        for host in ((0, 1), (0, 2), (1, 2))
    )
    for name in ("labels", "mask", "ids"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])
    np.testing.assert_array_equal(
        np.concatenate([p["images"] for p in parts], axis=1), whole["images"]
    )


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    platform: str = "tpu"


@pytest.fixture
def two_hosts(monkeypatch):
    """Three devices on one host and two on the other."""
    everywhere = [Device(i, int(i >= 3)) for i in range(5)]
    monkeypatch.setattr(jax, "devices", lambda: everywhere)
    monkeypatch.setattr(jax, "local_devices", lambda: everywhere[:3])
    monkeypatch.setattr(jax, "process_count", lambda: 2)


def test_every_host_gives_equally_many_devices(two_hosts):
    chosen = parallel._chosen(ParallelConfig(devices=4), 2)
    assert [device.id for device in chosen] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ParallelConfig(), "devices=5 cannot be divided equally over 2 hosts with 3, 2 devices"),
        (ParallelConfig(devices=3), "use a multiple of 2, at most 4"),
        (ParallelConfig(devices=8), "these 2 hosts have 5"),
        (ParallelConfig(devices=2, mapping="pmap"), "use 'shard_map'"),
    ],
)
def test_devices_that_cannot_be_shared_out_are_refused(two_hosts, config, words):
    with pytest.raises(InputError, match=re.escape(words)):
        DeviceMap(config)


def test_values_come_from_every_host_in_their_order(monkeypatch):
    told = {"a": [1.5, None], "ä": "ids"}
    assert hosts.Hosts().every(told) == [told]
    three = hosts.Hosts()
    three.count = 3
    # As another process would see them: texts of other lengths, filled up.
    texts = [json.dumps(value).encode() for value in (told, 7, [True])]

    def stacked(array):
        if array.ndim == 0:
            return np.array([len(text) for text in texts])
        width = max(map(len, texts))
        assert array.shape == (width,)
        return np.array([np.pad(np.frombuffer(t, np.uint8), (0, width - len(t))) for t in texts])

    monkeypatch.setattr(three, "stacked", stacked)
    assert three.every(told) == [told, 7, [True]]


LAUNCH = ROOT / "docs" / "launch"


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_vm.sh"])
def test_launch_scripts_are_read_by_the_shell(name):
    assert subprocess.run(["bash", "-n", LAUNCH / name]).returncode == 0
    assert "resnet_jax.main --distributed" in (LAUNCH / name).read_text()


def test_the_job_set_starts_as_many_pods_as_it_tells_them_that_they_are():
    job_set = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (line,) = container["args"]
    flags = dict(re.findall(r"--([a-z_]+)=(\S+)", line))
    assert job["completions"] == job["parallelism"] == int(flags["num_processes"])
    # Pods are called <set>-<job>-<number of the job>-<number of the pod>, in the set's domain.
    name = job_set["metadata"]["name"]
    leader, port = flags["coordinator_address"].split(":")
    assert leader == f"{name}-{replicated['name']}-0-0.{name}"
    assert int(port) in [p["containerPort"] for p in container["ports"]]
    assert (ROOT / flags["config"]).is_file()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job["template"]["spec"]["volumes"]}
