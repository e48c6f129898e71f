"""The script of a Slurm array, run as Slurm would run it."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from experiments import on_slurm
from experiments.plan import plan
from resnet_jax import run_folder
from resnet_jax.config import load_json
from tests.test_runner import base, rows

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def scontrol(tmp_path):
    """A command of that name that notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    (folder / "scontrol").chmod(0o755)
    return folder


def task(folder, number, scontrol):
    environment = {
        **os.environ,
        "PATH": f"{scontrol}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_ARRAY_JOB_ID": "77",
        "XLA_FLAGS": "",
    }
    return subprocess.Popen(
        ["bash", str(folder / on_slurm.SCRIPT)],
        env=environment,
        stderr=subprocess.DEVNULL,
        cwd=folder.parent,
    )


def write(runs, folder, **more):
    fields = {"cores": 2, "gpus": 0, "most": 0, "options": []} | more
    on_slurm.write(runs, folder, **fields)
    return (folder / on_slurm.SCRIPT).read_text()


def test_the_array_has_a_task_for_every_run_that_is_left(tmp_path, capsys):
    folder = tmp_path / "it's a sweep"
    runs = plan(base(), rows(0, 1, 2), folder)
    runs[1].folder.mkdir(parents=True)
    done = {"state": "completed", "step": 6, "steps": 6}
    run_folder.write_json(runs[1].folder / run_folder.STATUS, done)
    text = write(runs, folder, most=8, gpus=1, options=["--time=8:00:00"])
    for line in (
        "--array=0-1%8",
        "--cpus-per-task=2",
        "--gpus-per-task=1",
        "--time=8:00:00",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in text
    assert (folder / on_slurm.NAMES).read_text().split() == [runs[0].name, runs[2].name]
    for planned in (runs[0], runs[2]):
        assert load_json(planned.folder / run_folder.CONFIG) == planned.config
    assert f"sbatch {shlex.quote(str(folder / on_slurm.SCRIPT))}" in capsys.readouterr().err
    assert subprocess.run(["bash", "-n", str(folder / on_slurm.SCRIPT)]).returncode == 0


def test_a_task_trains_its_run_to_the_end(tmp_path, scontrol):
    folder = tmp_path / "a sweep"
    runs = plan(base(), rows(0, 1), folder)
    write(runs, folder)
    assert task(folder, 1, scontrol).wait(120) == 0
    assert [run.status["state"] for run in runs] == ["queued", "completed"]
    assert not (tmp_path / "called").exists()
    assert task(folder, 2, scontrol).wait(60) == 2


def test_a_task_that_is_told_of_its_time_limit_saves_and_is_queued_again(tmp_path, scontrol):
    folder = tmp_path / "sweep"
    runs = plan(base(steps=100_000), rows(0), folder)
    write(runs, folder)
    process = task(folder, 0, scontrol)
    until = time.monotonic() + 120
    while not runs[0].status["step"]:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert runs[0].status["state"] == "stopped"
    assert (tmp_path / "called").read_text() == "requeue 77_0\n"


def test_the_command_line_writes_the_array_and_begins_nothing(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.degradation", "--config=configs/digits.py"),
            *("--depths=8", "--seeds=0,1", "--executor=slurm", "--gpus-per-run=1"),
            *("--sbatch=--partition=a100", f"--workdir={tmp_path / 'sweep'}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sweep" / on_slurm.SCRIPT).read_text()
    assert "--array=0-3\n" in text and "--partition=a100" in text
    assert not (tmp_path / "sweep" / "report").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address=auto"], "--address has no effect with --executor=local; it is for ray"),
        (["--executor=slurm", "--minutes=9"], "--minutes has no effect with --executor=slurm"),
        (["--executor=ray", "--sbatch=x"], "--sbatch has no effect with --executor=ray"),
        (["--executor=slurm", "--gpus_per_run=0.5"], "--gpus_per_run=0.5 must be a whole number"),
        (["--executor=ray", "--gpus_per_run=1.5"], "must be a whole number, or on Ray a share"),
    ],
)
def test_flags_without_effect_are_refused_in_one_line(tmp_path, flags, words):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.degradation", "--config=configs/digits.py"),
            *("--depths=8", "--seeds=0", f"--workdir={tmp_path / 'sweep'}", *flags),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and words in done.stderr
    assert not (tmp_path / "sweep").exists()
