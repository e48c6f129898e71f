"""Command lines: a mistake is one line that says what is wrong and allowed, and exit code 2."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = "--config=configs/digits.py"
TABLES = "ambiguities, he2015_fig6, he2015_fig7, he2015_table6, he2016_table1, he2016_table2"


def answer(module, *arguments):
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            f"resnet_jax.main {DIGITS} --config.model.depth=fifty",
            "--config.model.depth must be a whole number, got 'fifty'",
        ),
        (
            f"resnet_jax.main {DIGITS} --config.train.steps=1.5",
            "--config.train.steps must be a whole number, got '1.5'",
        ),
        (
            f"resnet_jax.main {DIGITS} --config.optimizer.learning_rate=x",
            "--config.optimizer.learning_rate must be a number, got 'x'",
        ),
        (
            f"resnet_jax.main {DIGITS} --config.data.flip=maybe",
            "--config.data.flip must be True or False, got 'maybe'",
        ),
        ("resnet_jax.main --mode=try", "--mode must be one of train, evaluate, got 'try'"),
        (
            "resnet_jax.main --config=configs/nosuch.py",
            "--config=configs/nosuch.py is not there; the published nets' files are in configs/",
        ),
        (
            "resnet_jax.main --config=configs/imagenet_resnet50.py:12x",
            "the batch size behind the config's name must be 256 times a divisor of 5000, for "
            "example 256, 512, 1024 or 2048; got 12x",
        ),
        ("resnet_jax.main runs/x", "'runs/x' is not a flag; write --name=value"),
        ("resnet_jax.analysis.complexity runs/x", "'runs/x' is not a flag; write --name=value"),
        ("experiments.degradation runs/x", "'runs/x' is not a flag; write --name=value"),
        (
            "experiments.degradation --dry-run --depths=",
            "the grid has no runs; name at least one seed, depth and family",
        ),
        (
            "experiments.degradation --dry-run --depths=20 --seeds=1,1",
            "plain-20-seed1 is there 2 times; name each seed, depth, family once",
        ),
        (
            "experiments.degradation --dry-run --config.model.depth=56",
            "--config.model.depth has no effect here, where all rows set it; use this command's "
            "own flags (--help), or another grid of experiments/",
        ),
        ("experiments.reproduce", "--table is missing; see --help"),
        ("experiments.reproduce --table=x", f"--table must be one of {TABLES}, got 'x'"),
        ("resnet_jax.report", "the following arguments are required: runs; see --help"),
        ("resnet_jax.report.compare --x", "the following arguments are required: runs; see --help"),
        ("experiments.reproduced --x", "unrecognized arguments: --x; see --help"),
    ],
)
def test_a_mistake_is_told_in_one_line(line, told):
    done = answer(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {told}\n"


def test_help_tells_a_sweeps_flags_and_is_no_failure():
    done = answer("experiments.degradation", "--help")
    assert done.returncode == 0
    for name in ("depths", "families", "seeds", "workdir", "jobs", "executor", "[no]dry_run"):
        assert f"--{name}:" in done.stdout


def test_hyphens_stand_for_underscores_in_flags_but_not_in_values(tmp_path):
    done = answer("experiments.degradation", "--hang-after=0", f"--workdir={tmp_path}/a-b")
    assert done.returncode == 2 and "--hang_after" in done.stderr
