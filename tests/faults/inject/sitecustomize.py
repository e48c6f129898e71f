"""Faults at exact points of a real process.

Python imports a module of this name when it starts, if its folder is on PYTHONPATH; so the commands
are those that a user gives, and not a line of the product knows of it. FAULTS in the environment
says which run (by its folder's name, or "*") meets what at which point, as JSON:

    {"ResNet-8-seed0": {"step 3": "kill"}}

Points: `import` (JAX is loaded, nothing started), `step N` (N steps are made, the next is wanted),
`save N` (a checkpoint is about to be begun), `commit N` (it is complete but not yet renamed),
`evaluate N` (the Nth evaluation of a split), `report` (the last file is about to be written).
"""

import datetime
import importlib.util
import json
import os
import pathlib
import resource
import signal
import sys
import threading
import time
import types

_PASSED = {"evaluate": 0}
_CLOCK = {}


def _plan():
    faults = json.loads(os.environ.get("FAULTS", "{}"))
    if not faults or "resnet_jax.main" not in sys.orig_argv:
        return {}
    workdirs = [a.split("=", 1)[1] for a in sys.orig_argv if a.startswith("--workdir=")]
    name = pathlib.Path(workdirs[0]).name if workdirs else ""
    return faults.get(name, faults.get("*", {}))


def _reach(point):
    action, _, value = _PLAN.get(point, "").partition(" ")
    if not action:
        return
    log = os.environ.get("FAULTS_LOG")
    if log:
        # The monotonic clock is the machine's, so another process can subtract.
        with open(log, "a") as file:
            file.write(json.dumps({"point": point, "time": time.monotonic()}) + "\n")
    _ACTIONS[action](value)


def _kill(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate(seconds):
    """At once, or some seconds later, which is when the process is busy with what comes next."""
    if seconds:
        later = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGTERM))
        later.daemon = True
        later.start()
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def _fail(_):
    raise RuntimeError("a fault on purpose")


def _exhaust(_):
    """Asks for more memory than the kernel will give."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    bytearray(2**33)


def _hang(_):
    while True:
        time.sleep(1000)


def _set_clock(seconds):
    """Python's clock, for whoever asks it from now on; the machine's is left alone."""
    if not _CLOCK:
        _wind("time", 1)
        _wind("time_ns", 10**9)
        # Its `now` belongs to a type that cannot be changed, and that libraries know the size of.
        kept = {"UTC": datetime.UTC, "datetime": _Datetime}
        sys.modules["resnet_jax.run_folder"].datetime = types.SimpleNamespace(**kept)
    _CLOCK["seconds"] = _CLOCK.get("seconds", 0) + float(seconds)


_ACTIONS = {
    "kill": _kill,
    "terminate": _terminate,
    "fail": _fail,
    "exhaust": _exhaust,
    "hang": _hang,
    "clock": _set_clock,
}


def _before(owner, name, point):
    """Passes a point whenever a function is called; `point` names it from the arguments."""
    original = getattr(owner, name)

    def passing(*arguments, **more):
        _reach(point(*arguments, **more))
        return original(*arguments, **more)

    setattr(owner, name, passing)


def _evaluation(*_, **__):
    _PASSED["evaluate"] += 1
    return f"evaluate {_PASSED['evaluate']}"


_PATCHES = {
    "jax": lambda module: _reach("import"),
    "resnet_jax.data.order": lambda module: _before(
        module.TrainingOrder, "batches", lambda order, step, steps: f"step {step}"
    ),
    "resnet_jax.train.checkpoint": lambda module: _before(
        module.Checkpoints, "save", lambda self, step, *_, **__: f"save {step}"
    ),
    "resnet_jax.train.manifest": lambda module: _before(
        module, "write", lambda folder: f"commit {folder.name.split('.')[0]}"
    ),
    "resnet_jax.train.evaluator": lambda module: _before(module.Evaluator, "measure", _evaluation),
    "resnet_jax.train.final": lambda module: _before(
        module, "final_report", lambda *_, **__: "report"
    ),
}


class _Hook:
    """Patches modules when they are imported."""

    def find_spec(self, name, path=None, target=None):
        patch = _PATCHES.pop(name, None)  # so that the search below does not come back here
        spec = importlib.util.find_spec(name) if patch else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_CLOCK["seconds"])


def _wind(name, unit):
    read = getattr(time, name)
    setattr(time, name, lambda: read() + type(read())(_CLOCK["seconds"] * unit))


_PLAN = _plan()
if _PLAN:
    sys.meta_path.insert(0, _Hook())
