"""Sweeps on a Ray cluster of several nodes, all on this machine."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments import on_ray, run, slots
from experiments.plan import plan
from resnet_jax import run_folder
from resnet_jax.errors import InputError
from tests.test_runner import CORES, base, rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    # Ray leaves its sockets to the interpreter.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = pathlib.Path(__file__).resolve().parents[1]
ray = pytest.importorskip("ray", reason="Ray is not installed")
from ray.cluster_utils import Cluster  # noqa: E402
from ray.util import placement_group  # noqa: E402


@pytest.fixture
def cluster(monkeypatch):
    """A head without cores and two nodes with one each; runs take a core each."""
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # nodes have what they are sent
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def small(steps=1500):
    config = base(steps=steps, eval_interval=500, checkpoint_interval=100)
    config.model.width = 0.25
    config.log.interval = 50
    return config


def sweep(runs, **more):
    executor = on_ray.OnRay(None, cores=1, gpus=0, most=0)
    return run.Sweep(runs, executor, retries=0, title="test", **more)


def nodes_of(planned):
    """The nodes that a run was begun on, in order."""
    log = planned.folder / slots.LOG
    return re.findall(r"^--- .* node ([0-9a-f]{8})", log.read_text(), re.M) if log.exists() else []


def test_a_node_that_is_lost_in_mid_sweep_costs_no_result(cluster, tmp_path):
    local = plan(small(), rows(0, 1, 2), tmp_path / "local")
    places = [slots.Slot(str(core), (core,), {}) for core in CORES]
    assert run.Sweep(local, slots.Local(places), retries=0, title="local").work() == 0

    runs = plan(small(), rows(0, 1, 2), tmp_path / "ray")
    work, lost = sweep(runs), []
    show = work.board.show

    def show_and_lose_a_node():
        show()
        for planned in runs:
            checkpoints = planned.folder / run_folder.CHECKPOINTS
            if lost or planned.is_finished or not (checkpoints / "100").is_dir():
                continue
            lost.append((planned, nodes_of(planned)[-1]))
            (node,) = [n for n in cluster.workers if n.node_id.startswith(lost[0][1])]
            process = int(re.search(r"process (\d+)", run_folder.owner(planned.folder)).group(1))
            stat = pathlib.Path(f"/proc/{process}/stat").read_text()
            # On a real node everything ends at once: the actor, its run, and Ray itself.
            for number in (int(stat.rpartition(")")[2].split()[1]), process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            cluster.remove_node(node, allow_graceful=False)

    work.board.show = show_and_lose_a_node
    assert work.work() == 0
    ((victim, node),) = lost
    assert 1 <= victim.losses <= 2 and victim.failures == 0
    again = nodes_of(victim)
    assert again[0] == node and len(again) == 2 and again[1] != node
    native = [run_folder.attempts(r.folder)[0]["native"] for r in (runs[0], local[0])]
    assert native[0] == native[1]
    for got, want in zip(
        sorted(runs, key=lambda r: r.name), sorted(local, key=lambda r: r.name), strict=True
    ):
        assert got.name == want.name and got.status["state"] == "completed"
        for name in (run_folder.METRICS, run_folder.EVALUATION):
            assert (got.folder / name).read_text() == (want.folder / name).read_text()
    # The same command again has nothing to do.
    assert sweep(plan(small(), rows(0, 1, 2), tmp_path / "ray")).work() == 0
    assert nodes_of(victim) == again


def test_stopping_a_sweep_on_ray_saves_its_runs_and_leaves_the_others(cluster, tmp_path):
    # None ends before it is stopped, however late another begins.
    runs = plan(small(steps=100_000), rows(0, 1, 2, 3), tmp_path)
    cluster.add_node(num_cpus=1)
    work = sweep(runs)
    # Someone else has the third node, so the third run is asked for and not begun.
    assert placement_group([{"CPU": 1}]).wait(30)
    show = work.board.show

    def show_and_stop():
        show()
        begun = [r for r in runs if r.status["state"] == "running" and r.status["step"]]
        if len(begun) == 2 and not work.requests:
            assert len(work.running) == 3
            work.stop(signal.SIGINT, None)

    work.board.show = show_and_stop
    assert work.work() == 75
    states = sorted(r.status["state"] for r in runs)
    assert states == ["queued", "queued", "stopped", "stopped"]
    for planned in runs:
        if planned.status["state"] == "stopped":
            step = planned.status["step"]
            assert (planned.folder / run_folder.CHECKPOINTS / str(step)).is_dir()


def test_runs_that_follow_one_another_on_a_place_share_its_actor(cluster, tmp_path, monkeypatch):
    made, make = [], on_ray.OnRay._made
    monkeypatch.setattr(on_ray.OnRay, "_made", lambda self: made.append(1) or make(self))
    runs = plan(base(), rows(0, 1, 2), tmp_path)
    executor = on_ray.OnRay(None, cores=1, gpus=0, most=1)
    assert run.Sweep(runs, executor, retries=0, title="test").work() == 0
    assert len(made) == 1
    assert {planned.status["state"] for planned in runs} == {"completed"}
    assert len({nodes_of(planned)[0] for planned in runs}) == 1


def test_the_command_line_sweeps_on_a_cluster_of_its_own_and_writes_the_report(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.degradation", "--executor=ray"),
            *("--config=configs/digits.py", "--depths=8", "--families=residual", "--seeds=0"),
            *("--config.train.steps=20", "--config.evaluation.bootstrap_samples=0"),
            f"--workdir={tmp_path / 'sweep'}",
        ],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "sweep" / "ResNet-8-seed0" / "status.json").read_text())
    assert status["state"] == "completed"
    assert (tmp_path / "sweep" / "report" / "report.html").is_file()


def test_what_fits_on_no_node_or_finds_no_cluster_is_refused_in_one_line(cluster, monkeypatch):
    with pytest.raises(InputError, match=r"--cpus_per_run=2 .* fits on no node .*1 cores, 0 GPUs"):
        on_ray.OnRay(None, cores=2, gpus=0, most=0)
    with pytest.raises(InputError, match="--gpus_per_run=0.25 fits on no node"):
        on_ray.OnRay(None, cores=1, gpus=0.25, most=0)
    executor = on_ray.OnRay(None, cores=1, gpus=None, most=0)
    assert executor.width == 2 and executor.has_room()
    executor.close()
    assert on_ray.OnRay(None, cores=1, gpus=None, most=1).width == 1


def test_without_ray_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install -r requirements-ray.txt"):
        on_ray.OnRay(None, cores=1, gpus=0, most=0)


@pytest.mark.parametrize(
    ("node", "need", "held"),
    [
        ({"CPU": 16.0, "GPU": 2.0}, {"CPU": 1, "GPU": 0.25}, 8),
        ({"CPU": 3.0, "GPU": 2.0}, {"CPU": 1, "GPU": 0.25}, 3),
        ({"CPU": 7.0}, {"CPU": 2, "GPU": 0.0}, 3),
        ({"CPU": 7.0}, {"CPU": 2, "GPU": 0.5}, 0),
        ({"CPU": 9.0, "GPU": 0.3}, {"CPU": 1, "GPU": 0.1}, 3),
    ],
)
def test_a_node_holds_as_many_runs_as_its_scarcest_resource_allows(node, need, held):
    assert on_ray.room(node, need) == held


def test_runs_on_one_machine_take_different_cores_and_give_them_back(monkeypatch, tmp_path):
    monkeypatch.setattr(on_ray.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(on_ray.os, "sched_getaffinity", lambda _: {3, 4, 5})
    with on_ray.taken_cores(1) as first, on_ray.taken_cores(2) as second:
        assert (first, second) == ((3,), (4, 5))
        with on_ray.taken_cores(1) as none_left:
            assert none_left == ()
    with on_ray.taken_cores(3) as again:
        assert again == (3, 4, 5)
    # Another process that has a core: the kernel's lock, not this module's memory, decides.
    (folder,) = tmp_path.iterdir()
    with (folder / "3").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with on_ray.taken_cores(1) as other:
            assert other == (4,)


def test_several_runs_on_a_gpu_share_its_memory():
    assert slots.gpu_environment(1) == {}
    fraction = slots.gpu_environment(0.25)["XLA_PYTHON_CLIENT_MEM_FRACTION"]
    assert 4 * float(fraction) <= 1 and float(fraction) == pytest.approx(0.225)


def test_a_signal_that_comes_before_its_process_reaches_it(monkeypatch, tmp_path):
    begun = threading.Event()
    program = "import signal, sys, time; signal.signal(2, lambda *_: sys.exit(75)); time.sleep(60)"

    def start(folder, slot, config):
        begun.wait(10)
        process = subprocess.Popen([sys.executable, "-c", program])
        time.sleep(1)
        return process

    monkeypatch.setattr(on_ray.slots, "start", start)
    monkeypatch.setattr(on_ray, "_slot", lambda need: on_ray.contextlib.nullcontext())
    runner, codes = on_ray.Runner(), []
    runner._asked.append(signal.SIGINT)
    thread = threading.Thread(target=lambda: codes.append(runner.run(str(tmp_path), None, {})))
    thread.start()
    begun.set()
    thread.join(30)
    assert codes == [75]
