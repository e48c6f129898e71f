"""Runs on a Ray cluster: in actors that each hold a share of a node while there are runs for them.

The grid, the run folders and the rules of resuming are those of a sweep on one machine; Ray finds
the nodes, keeps count of cores and GPUs, and tells when a node is lost. All nodes and the command
see the sweep's folder under the same path, or it is in object storage: then each node works on
copies of its runs, and the command follows them there.

Reference: Moritz et al. 2018, "Ray: A Distributed Framework for Emerging AI Applications"
(arXiv 1712.05889).
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments import slots
from experiments.plan import PlannedRun
from resnet_jax import command, mirror
from resnet_jax.config import RunConfig
from resnet_jax.errors import InputError, first_line

LOG = logging.getLogger(__name__)
ROOT = pathlib.Path(__file__).resolve().parents[1]
# Not sent to the nodes: large, of this machine alone, or results. The CPU extension is sent; it
# runs on all of one architecture, and where it cannot be loaded runs go on without it.
STAYS_HERE = [
    "/.*/",  # not ".*", which is also the folder itself
    *(f"/{name}" for name in ("runs", "faults", "build", "dist", "tests", "docs")),
    "**/__pycache__",
]
# How long the nodes that were seen last are taken for those that are there.
LOOK_SECONDS = 2.0
# How long an actor waits for another run, and a run for Ray to notice that a node is lost.
REST_SECONDS = 5.0


class Storage(NamedTuple):
    """Where the nodes keep a sweep's runs, if it is no folder that all see.

    Attributes:
        url: of the sweep.
        followed: its copy here.
    """

    url: str
    followed: mirror.Mirror


class OnRay:
    """An executor (`slots.Executor`) on a Ray cluster.

    Args:
        address: of the cluster, to which the source is sent; None takes this machine's cores, as a
            cluster that ends with the sweep, or the cluster that RAY_ADDRESS names.
        cores: for each run.
        gpus: for each run; below 1, several share one. None: 1 where a node has any, else 0.
        most: runs at a time; 0 for as many as there is room for.
        storage: of the sweep, if it is no folder that all see.

    Raises:
        InputError: if Ray is not installed, does not answer, or no node has room for a run.
    """

    def __init__(
        self,
        address: str | None,
        *,
        cores: int,
        gpus: float | None,
        most: int,
        storage: Storage | None = None,
    ):
        if importlib.util.find_spec("ray") is None:
            raise InputError(
                "--executor=ray needs Ray, which is not installed; pip install -r "
                "requirements-ray.txt"
            )
        import ray

        self._ray, self._most, self._running, self._storage = ray, most, 0, storage
        alone = address is None and "RAY_ADDRESS" not in os.environ
        # Nothing of Ray's own is put in front of the sweep's table.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if alone:  # "local": without an address, Ray would take any cluster that it finds here
            options |= {"address": "local", "include_dashboard": False}
            # Workers inherit the path; an environment of their own takes them seconds.
            paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        else:
            options |= {"address": address or "auto", "runtime_env": _source()}
            os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"  # what is sent is said here
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--address={address}: Ray does not answer ({first_line(error)}); start it with "
                "`ray start`, or leave --address out for this machine alone"
            ) from error
        self._looked, self._width = -LOOK_SECONDS, 0
        # Whose run has just ended: starting an actor takes seconds, in which its cores stand idle.
        self._resting: list[tuple[Any, float]] = []
        self._pause_until = 0.0
        if gpus is None:
            gpus = float(any(node.get("GPU", 0) for node in self._nodes()))
        self._need = {"CPU": cores, "GPU": gpus}
        if not self.width:
            nodes = [f"{n.get('CPU', 0):g} cores, {n.get('GPU', 0):g} GPUs" for n in self._nodes()]
            self.close()
            raise InputError(
                f"--cpus_per_run={cores} --gpus_per_run={gpus:g} fits on no node of the cluster "
                f"({'; '.join(nodes)}); ask for less"
            )

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is there."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @property
    def width(self) -> int:
        """As `slots.Executor`; nodes come and go."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._width = sum(room(node, self._need) for node in self._nodes())
        return min(self._width, self._most or self._width)

    def has_room(self) -> bool:
        """As `slots.Executor`."""
        return self._running < self.width and time.monotonic() >= self._pause_until

    def start(self, run: PlannedRun) -> slots.Job:
        """As `slots.Executor`."""
        actor = self._resting.pop()[0] if self._resting else self._made()
        process = RemoteProcess(self._ray, actor, run, self._need, self._storage)
        self._running += 1
        return slots.Job(run, slots.Slot("ray", (), {}), process, waits=process.waits)

    def _made(self) -> Any:
        return (
            self._ray.remote(Runner)
            .options(
                num_cpus=self._need["CPU"],
                num_gpus=self._need["GPU"],
                max_concurrency=4,
                max_restarts=0,
            )
            .remote()
        )

    def release(self, job: slots.Job) -> None:
        """As `slots.Executor`."""
        self._running -= 1
        assert isinstance(job.process, RemoteProcess)
        now = time.monotonic()
        if job.process.actor is not None:
            self._resting.append((job.process.actor, now))
        else:
            # Until Ray has noticed too, it would begin the run there again.
            self._pause_until = now + REST_SECONDS

    def tend(self) -> None:
        """As `slots.Executor`: actors that no run has come for; others may need their place."""
        resting, self._resting = self._resting, []
        for actor, since in resting:
            if time.monotonic() - since > REST_SECONDS:
                self._ray.kill(actor)
            else:
                self._resting.append((actor, since))

    def close(self) -> None:
        """As `slots.Executor`."""
        self._ray.shutdown()


def room(node: dict[str, float], need: dict[str, float]) -> int:
    """How many runs a node can hold.

    Args:
        node: its resources, as Ray names them.
        need: those of one run; what is 0 does not count.
    """
    # Shares such as 0.1 are no binary fractions: three tenths hold three of them.
    shares = [node.get(name, 0.0) / amount + 1e-9 for name, amount in need.items() if amount]
    return int(min(shares))


def _source() -> dict[str, Any]:
    """What nodes are sent: this source, and the commit that its runs are of."""
    from resnet_jax.train import provenance

    commit = provenance.commit()
    return {
        "working_dir": str(ROOT),
        "excludes": STAYS_HERE,
        "env_vars": {"RESNET_JAX_COMMIT": commit} if commit else {},
    }


class RemoteProcess:
    """A run's process on a node (`slots.Process`).

    Args:
        ray: the library.
        actor: a `Runner`.
        run: that it shall work on.
        need: resources of one run.
        storage: as in `OnRay`.

    Attributes:
        actor: None once it is gone.
    """

    def __init__(
        self,
        ray: Any,
        actor: Any,
        run: PlannedRun,
        need: dict[str, float],
        storage: Storage | None = None,
    ):
        self._ray, self.actor, self._storage, self._name = ray, actor, storage, run.name
        folder = str(run.folder.absolute())
        if storage:
            storage.followed.push(run.name)
            folder = f"{storage.url.rstrip('/')}/{run.name}"
        self._begun = actor.begun.remote()
        self._code = actor.run.remote(folder, run.config, need)
        self._ended: int | None = None

    def waits(self) -> bool:
        """Whether no node had room for it yet."""
        return not self._is_there(self._begun)

    def _is_there(self, result: Any) -> bool:
        return bool(self._ray.wait([result], timeout=0)[0])

    def poll(self) -> int | None:
        """As `slots.Process`."""
        if self._ended is None and self._is_there(self._code):
            try:
                self._ended = self._ray.get(self._code)
            except self._ray.exceptions.RayActorError as error:
                LOG.warning("%s was lost with its actor: %s", self._name, first_line(error))
                # The node, or the way to it: whatever is left of the run there saves and ends.
                self._end(slots.LOST)
            if self._storage:
                self._storage.followed.fetch(self._name)
        return self._ended

    def send_signal(self, number: int, /) -> None:
        """As `slots.Process`."""
        if self.waits():
            self._end(command.INTERRUPTED)  # whatever the signal: there was nothing to save
        elif self.actor is not None:
            self.actor.signal.remote(int(number))

    def _end(self, code: int) -> None:
        self._ended = code
        self._ray.kill(self.actor)
        self.actor = None

    def kill(self) -> None:
        """As `slots.Process`."""
        self.send_signal(signal.SIGKILL)


class Runner:
    """On a node: one run's process at a time. Ray makes an actor of it, with threads for calls."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: list[int] = []
        self._lock = threading.Lock()

    def begun(self) -> bool:
        """Answers once there is room, and the node has imported this."""
        return True

    def run(self, folder: str, config: RunConfig, need: dict[str, float]) -> int:
        """Trains, or goes on with, the run in a folder; its exit code.

        Args:
            folder: that this node sees too, or a name in object storage.
            config: of the run.
            need: `CPU`, cores that it is pinned to if they are not taken; `GPU`, or a share of one.
        """
        with _slot(need) as slot, mirror.worked_on(folder) as here:
            with self._lock:
                self._process = slots.start(here, slot, config)
                for number in self._asked:
                    self._process.send_signal(number)
            code = self._process.wait()
            with self._lock:
                self._process = None
                self._asked.clear()
            return code

    def signal(self, number: int) -> None:
        """Sends the process a signal, as soon as there is one."""
        with self._lock:
            if self._process is None:
                self._asked.append(number)
            else:
                self._process.send_signal(number)


@contextlib.contextmanager
def _slot(need: dict[str, float]) -> Iterator[slots.Slot]:
    """Where on its node a run is placed."""
    import ray

    where = f"node {ray.get_runtime_context().get_node_id()[:8]} ({socket.gethostname()})"
    if need["GPU"]:
        devices = ",".join(map(str, ray.get_gpu_ids()))
        environment = {"CUDA_VISIBLE_DEVICES": devices} | slots.gpu_environment(need["GPU"])
        yield slots.Slot(f"gpu {devices} of {where}", (), environment)
        return
    with taken_cores(int(need["CPU"])) as cores:
        yield slots.Slot(f"cores {','.join(map(str, cores))} of {where}", cores, {})


@contextlib.contextmanager
def taken_cores(count: int) -> Iterator[tuple[int, ...]]:
    """Cores of this machine that no other run has, as long as this lasts; none if too few are left.

    Ray counts cores and does not say which. The kernel lets go of them if this process is killed.
    """
    folder = pathlib.Path(tempfile.gettempdir()) / f"resnet_jax-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        cores: list[int] = []
        for core in sorted(os.sched_getaffinity(0)):
            file = stack.enter_context((folder / str(core)).open("w"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                cores.append(core)
            if len(cores) == count:
                break
        yield tuple(cores) if len(cores) == count else ()
