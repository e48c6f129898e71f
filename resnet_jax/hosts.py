"""The processes that train one run together, as a rule one on each host.

Each has the whole program, its own devices, and its share of every batch. Whatever is decided
outside the compiled programs (to stop, where to go on from, whether there is room on the disk) is
decided together, for a process that goes another way than the others hangs them all.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from resnet_jax import stopping
from resnet_jax.errors import InputError, WiringError, first_line

Value = TypeVar("Value")

# After which a process that no longer answers counts as lost, and all others end.
HEARTBEAT_SECONDS = 20
# How long processes wait for one another at the start, and at the end.
JOIN_SECONDS, LEAVE_SECONDS = 300, 20
# For another process was lost, whatever the reason: the same command goes on.
LOST = 75
GO_ON = (
    "start all of them again with the same command: they go on from the last checkpoint; the "
    "reason stands in the output of the process that ended first"
)
# Of a run's folder, what a process that does not lead has no use for.
PASSED_OVER = ("checkpoints", "tensorboard", "wandb", "damaged_checkpoints", ".lock", "*.tmp")


class Hosts:
    """This process among those that train together; without `connect`, it is alone.

    Attributes:
        index: of this process, from 0.
        count: of all.
    """

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes the run's records."""
        return self.index == 0

    def any(self, flag: bool) -> bool:
        """Whether it is true of any process. All have to ask."""
        if self.count == 1:
            return flag
        return bool(self.stacked(np.array(flag)).any())

    def agreed(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Asks whether any process was asked, so that all stop after the same step."""
        return lambda: self.any(asked())

    def every(self, value: Any) -> list[Any]:
        """What each process has, in their order: anything that JSON can hold. All have to ask."""
        if self.count == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self.stacked(np.array(len(text)))
        texts = self.stacked(np.pad(text, (0, int(sizes.max()) - len(text))))
        return [
            json.loads(row[:size].tobytes().decode())
            for row, size in zip(texts, sizes.tolist(), strict=True)
        ]

    def stacked(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all processes, alike in shape: [count, ...]. All have to ask."""
        from jax.experimental import multihost_utils

        return np.reshape(multihost_utils.process_allgather(array), (self.count, *array.shape))

    def lead(self, function: Callable[[], Value]) -> Value:
        """What the leader's call gives, for all; the others wait. JSON has to hold it.

        Raises:
            InputError: if the leader's call raises one, in all processes.
            RuntimeError: if it raises anything else, in all others; in the leader what it was.
        """
        attempt: Any = function if self.leads else lambda: None
        return cast(Value, self._told(*self._attempt(attempt)))

    def leader_first(self, function: Callable[[], Value]) -> Value:
        """What this process's own call gives, made when the leader's has ended.

        So that what has to be fetched or prepared is there when the others look for it.

        Raises:
            InputError: if the leader's call raises one, in all processes.
        """
        if not self.leads:
            self._told(None, None)
            return function()
        value, error = self._attempt(function)
        self._told(None, error)
        return cast(Value, value)

    @staticmethod
    def _attempt(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
        try:
            return function(), None
        except Exception as error:
            return None, error

    def _told(self, value: Any, error: Exception | None) -> Any:
        """The leader's value, or its error."""
        if self.count > 1:
            told = [type(error).__name__, str(error)] if error else None
            value, told = self.every([value, told])[0]
            if told and not self.leads:
                kind, text = told
                raise InputError(text) if kind == "InputError" else RuntimeError(f"{kind}: {text}")
        if error:
            raise error
        return value

    @contextlib.contextmanager
    def records(self, workdir: pathlib.Path) -> Iterator[pathlib.Path]:
        """The folder that this process writes a run's records into.

        The leader's is the run's own. The others' are copies of it, thrown away at the end: all
        run the same code, and only the leader's traces stay.

        Args:
            workdir: the run's folder, which all processes see.
        """
        if self.leads:
            self.any(False)  # until all have their copies
            yield workdir
            return
        with tempfile.TemporaryDirectory(prefix="resnet_jax-") as scratch:
            folder = pathlib.Path(scratch) / workdir.name
            shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns(*PASSED_OVER))
            self.any(False)
            yield folder


def connect(address: str | None, count: int | None, index: int | None) -> None:
    """Joins this process with the others of its run, before JAX looks for devices.

    Args:
        address: host:port at which the leader can be reached.
        count: of processes.
        index: of this one, from 0, which leads.
        Those that are None are asked of Slurm, Open MPI, Kubernetes or a TPU pod.

    Raises:
        InputError: if these do not say, or the processes do not find one another.
    """
    import jax

    # It would take over SIGTERM, and a run that hears of it saves and ends by itself.
    jax.config.update("jax_enable_preemption_service", False)
    given = {"coordinator_address": address, "num_processes": count, "process_id": index}
    explicit = {"cluster_detection_method": "deactivate"} if address else {}
    try:
        jax.distributed.initialize(
            **given,  # type: ignore[arg-type]
            **explicit,  # type: ignore[arg-type]
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except ValueError as error:
        raise InputError(
            "--distributed: neither Slurm, Open MPI, Kubernetes nor a TPU pod says which processes "
            f"belong together ({first_line(error)}); give --coordinator_address, --num_processes "
            "and --process_id"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"--coordinator_address={address}: the processes did not find one another "
            f"({first_line(error)}); start all of them within {JOIN_SECONDS} s, with an address "
            "that all can reach"
        ) from error


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """Around all that processes do together; gives whether this one leads.

    With others, an error that is not for the user to mend ends the process at once: leaving in
    order would wait for them, and they for this one.
    """
    from jax.errors import JaxRuntimeError

    hosts = Hosts()
    try:
        yield hosts.leads
    except JaxRuntimeError as error:
        if hosts.count == 1:
            raise
        end_as_lost(f"the processes of this run lost touch with one another ({first_line(error)})")
    except Exception as error:
        if hosts.count == 1 or isinstance(error, InputError | WiringError):
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def watched() -> Callable[[], object]:
    """Goes on in a child process, which this one waits for, and tells if others were lost.

    When a process of the run is lost, or never comes, JAX's client ends this one from a thread in
    C++, with a stack trace. Nothing in the same process could add what to do next. Linux and macOS;
    before JAX.

    Returns:
        To be called when all have come.
    """
    joined, join = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        # Its own session: Ctrl-C reaches the parent alone, which passes it on, once.
        os.setsid()
        stopping.end_with_parent()
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)
        return lambda: os.write(join, b"+")

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(joined, False)
    if code == -signal.SIGABRT:
        try:
            os.read(joined, 1)
        except BlockingIOError:
            end_as_lost(f"the processes of this run did not find one another in {JOIN_SECONDS} s")
        end_as_lost("a process of this run, or the connection to it, was lost")
    os._exit(128 - code if code < 0 else code)


def end_as_lost(reason: str) -> NoReturn:
    """Ends this process at once, in one line; not by `sys.exit`, which would wait for the lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, f"error: {reason}; {GO_ON}\n".encode())
    os._exit(LOST)
