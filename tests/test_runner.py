import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import rich.console

from experiments import degradation, live, run, slots
from experiments.grid import Row
from experiments.plan import REPLACED, PlannedRun, plan
from resnet_jax import run_folder
from resnet_jax.config import default_config, validate
from resnet_jax.errors import InputError

# Other tests have started JAX in this process, which then warns of forks; the runner never does.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORES = sorted(os.sched_getaffinity(0))


def base(**train):
    config = default_config()
    config.model.depth = 8
    config.data.name = "synthetic"
    config.data.synthetic.image_size = 8
    config.data.synthetic.examples = 100
    config.train.batch_size = 16
    config.train.steps = 6
    config.parallel.devices = 1
    config.log.interval = 2
    config.log.tensorboard = False
    config.train.update(train)
    return config


def rows(*seeds, **overrides):
    return [Row(f"plain-8-seed{seed}", {"train.seed": seed, **overrides}) for seed in seeds]


PLACES = [slots.Slot("somewhere", (), {}), slots.Slot("elsewhere", (), {})]


def work(runs, *, retries=1, **more):
    return run.Sweep(runs, slots.Local(PLACES), retries=retries, title="test", **more).work()


def finish(folder, state="completed"):
    return (
        f"import json, pathlib; p = pathlib.Path({str(folder)!r}) / 'status.json'; "
        f"s = json.loads(p.read_text()); s['state'] = {state!r}; s['step'] = s['steps']; "
        "p.write_text(json.dumps(s))"
    )


@pytest.fixture
def processes(monkeypatch):
    """Replaces the runs' processes by Python one-liners; tells which runs were started."""
    started, scripts = [], {}

    def start(folder, slot, config):
        started.append(folder.name)
        script = scripts.get(folder.name, finish)
        script = script.pop(0) if isinstance(script, list) else script
        with (folder / slots.LOG).open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", script(folder)], stderr=log)

    monkeypatch.setattr(slots, "start", start)
    return started, scripts


def test_every_run_gets_a_folder_with_its_own_config_and_the_costliest_come_first(tmp_path):
    grid = [Row("small", {"model.depth": 8}), Row("large", {"model.depth": 20})]
    runs = plan(base(), grid, tmp_path / "sweep")
    assert [(r.name, r.config.model.depth) for r in runs] == [("large", 20), ("small", 8)]
    assert not (tmp_path / "sweep").exists()


def test_a_row_that_is_not_valid_is_named(tmp_path):
    with pytest.raises(InputError, match="deep: config.model.depth must be 6n"):
        plan(base(), [Row("deep", {"model.depth": 57})], tmp_path)
    with pytest.raises(InputError, match="typo: .*model.dept"):
        plan(base(), [Row("typo", {"model.dept": 56})], tmp_path)


def test_a_sweep_runs_everything_once_and_nothing_when_it_is_started_again(tmp_path, processes):
    started, _ = processes
    assert work(plan(base(), rows(0, 1, 2), tmp_path)) == 0
    assert sorted(started) == ["plain-8-seed0", "plain-8-seed1", "plain-8-seed2"]
    assert work(plan(base(), rows(0, 1, 2), tmp_path)) == 0
    assert len(started) == 3
    assert work(plan(base(), rows(0, 1, 2, 3), tmp_path)) == 0
    assert started[3:] == ["plain-8-seed3"]


def test_a_diverged_run_is_a_result_and_not_tried_again(tmp_path, processes):
    started, scripts = processes
    scripts["plain-8-seed0"] = lambda folder: finish(folder, "diverged") + "; raise SystemExit(3)"
    assert work(plan(base(), rows(0, 1), tmp_path)) == 0
    assert work(plan(base(), rows(0, 1), tmp_path)) == 0
    assert sorted(started) == ["plain-8-seed0", "plain-8-seed1"]


def crash(folder):
    return "raise MemoryError('no more')"


def killed(folder):
    return "import os; os.kill(os.getpid(), 9)"


def test_a_run_that_crashes_is_tried_again_and_takes_no_other_with_it(tmp_path, processes):
    started, scripts = processes
    scripts |= {"plain-8-seed0": [crash, finish], "plain-8-seed1": [killed, killed]}
    runs = plan(base(), rows(0, 1, 2, 3), tmp_path)
    assert work(runs) == 1
    states = {r.name: r.status["state"] for r in runs}
    assert states.pop("plain-8-seed1") == "failed" and set(states.values()) == {"completed"}
    assert started.count("plain-8-seed0") == started.count("plain-8-seed1") == 2
    (failed,) = [r for r in runs if r.name == "plain-8-seed1"]
    assert failed.status["reason"].startswith("its process was killed (signal 9)")


@pytest.mark.parametrize(
    "words", ["RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.", "MemoryError: no more"]
)
def test_a_run_that_runs_out_of_memory_says_so(tmp_path, processes, words):
    _, scripts = processes
    scripts["plain-8-seed0"] = lambda folder: f"raise SystemExit({words!r})"
    (planned,) = plan(base(), rows(0), tmp_path)
    assert work([planned], retries=0) == 1
    assert planned.status["reason"] == f"out of memory: {words}"


def beat_then(script):
    def with_beat(folder):
        return f"import pathlib; (pathlib.Path({str(folder)!r}) / '.heartbeat').touch(); {script}"

    return with_beat


def test_a_run_without_a_sign_of_life_is_ended_and_tried_again(tmp_path, processes):
    started, scripts = processes
    scripts["plain-8-seed0"] = [beat_then("import time; time.sleep(600)"), finish]
    runs = plan(base(), rows(0, 1), tmp_path)
    began = time.monotonic()
    assert work(runs, hang_after=2.0) == 0
    assert 2 < time.monotonic() - began < 30
    assert started.count("plain-8-seed0") == 2 and all(r.is_finished for r in runs)


def test_a_run_that_hangs_twice_has_failed_and_says_why(tmp_path, processes):
    _, scripts = processes
    scripts["plain-8-seed0"] = lambda folder: "import time; time.sleep(600)"
    (planned,) = plan(base(), rows(0), tmp_path)
    assert work([planned], hang_after=1.0) == 1
    assert planned.status["reason"] == "it showed no sign of life for 1 s and was ended"


def test_a_slow_run_that_shows_signs_of_life_is_left_alone(tmp_path, processes):
    started, scripts = processes

    def slow(folder):
        touch = f"(pathlib.Path({str(folder)!r}) / '.heartbeat').touch()"
        loop = f"for _ in range(8): {touch}; time.sleep(0.5)"
        return f"import pathlib, time\n{loop}\n{finish(folder)}"

    scripts["plain-8-seed0"] = slow
    assert work(plan(base(), rows(0), tmp_path), hang_after=3.0) == 0
    assert started == ["plain-8-seed0"]


def test_where_every_run_fails_before_its_first_step_the_third_is_the_last(
    tmp_path, processes, capsys
):
    started, scripts = processes
    scripts |= {f"plain-8-seed{seed}": crash for seed in range(50)}
    assert work(plan(base(), rows(*range(50)), tmp_path)) == 1
    assert 3 <= len(started) <= 3 + len(PLACES) - 1
    assert "3 processes in a row failed before their first step" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_run_whose_process_is_killed_when_its_work_is_done_has_not_failed(tmp_path, processes):
    started, scripts = processes

    def killed_at_its_end(folder):
        return f"{finish(folder)}; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    scripts["plain-8-seed0"] = killed_at_its_end
    runs = plan(base(), rows(0), tmp_path)
    assert work(runs) == 0
    assert started == ["plain-8-seed0"] and runs[0].status["state"] == "completed"


def test_a_run_that_saves_while_a_sweep_is_given_up_does_not_hide_that_it_was(tmp_path, processes):
    started, scripts = processes
    patient = beat_then(
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); "
        "time.sleep(60)"
    )
    scripts |= {f"plain-8-seed{seed}": crash for seed in range(1, 6)}
    scripts["plain-8-seed0"] = patient
    assert work(plan(base(), rows(*range(6)), tmp_path), retries=0) == 1
    assert len(started) == 4


def test_a_request_to_stop_that_comes_while_a_process_is_started_reaches_it_too(
    tmp_path, processes, monkeypatch
):
    started, scripts = processes
    ready = tmp_path / "ready"
    patient = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    scripts["plain-8-seed0"] = lambda folder: patient
    runs = plan(base(), rows(0, 1), tmp_path / "sweep")
    sweep, start = run.Sweep(runs, slots.Local(PLACES), retries=1, title="test"), slots.start

    def interrupted(*arguments):
        process = start(*arguments)
        while not ready.exists():
            time.sleep(0.01)
        sweep.stop(signal.SIGINT, None)
        return process

    monkeypatch.setattr(slots, "start", interrupted)
    began = time.monotonic()
    assert sweep.work() == 75
    assert started == ["plain-8-seed0"] and time.monotonic() - began < 30


def test_when_its_minutes_are_over_a_sweep_lets_its_runs_save_and_the_next_goes_on(
    tmp_path, processes
):
    started, scripts = processes
    patient = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); "
        "print('ready', file=sys.stderr, flush=True); time.sleep(60)"
    )
    scripts |= {f"plain-8-seed{seed}": [lambda folder: patient, finish] for seed in range(2)}
    runs = plan(base(), rows(0, 1, 2), tmp_path)
    sweep = run.Sweep(
        runs, slots.Local(PLACES), retries=0, title="test", until=time.monotonic() + 60
    )
    show = sweep.board.show

    def let_time_pass_when_ready():
        show()
        logs = [r.folder / slots.LOG for r in runs]
        if sum(log.is_file() and "ready" in log.read_text() for log in logs) == 2:
            sweep.until = time.monotonic()

    sweep.board.show = let_time_pass_when_ready
    assert sweep.work() == 75
    assert sorted(started) == ["plain-8-seed0", "plain-8-seed1"]
    assert [planned.status["state"] for planned in runs] == ["queued"] * 3
    assert work(runs, retries=0, until=time.monotonic() + 60) == 0
    assert len(started) == 5 and all(planned.is_finished for planned in runs)
    # A sweep that has nothing left to do is done, however little time it has.
    assert work(runs, until=0) == 0


def test_no_run_is_begun_when_the_time_is_nearly_over(tmp_path, processes, monkeypatch):
    started, scripts = processes
    scripts["plain-8-seed0"] = lambda folder: "import time; time.sleep(4); " + finish(folder)
    runs, begun = plan(base(), rows(0, 1), tmp_path), time.monotonic()
    monkeypatch.setattr(run, "LAST_SHARE", 0.998)  # all but the first two seconds
    places = slots.Local(PLACES[:1])
    assert run.Sweep(runs, places, retries=0, title="test", until=begun + 1000).work() == 75
    assert started == ["plain-8-seed0"] and runs[0].is_finished
    assert time.monotonic() - begun < 60


def test_failures_after_the_first_step_or_with_successes_between_do_not_stop_a_sweep(
    tmp_path, processes
):
    started, scripts = processes
    late = beat_then("raise ValueError('late')")
    scripts |= {f"plain-8-seed{seed}": late for seed in range(4)}
    scripts |= {f"plain-8-seed{seed}": [crash, finish] for seed in range(4, 6)}
    runs = plan(base(), rows(*range(8)), tmp_path)
    assert work(runs) == 1
    assert [r.status["state"] for r in sorted(runs, key=lambda r: r.name)] == ["failed"] * 4 + [
        "completed"
    ] * 4
    assert len(started) == 4 * 2 + 2 * 2 + 2


@pytest.mark.parametrize(
    "name", ["../out", "a/b", "/etc/x", "", ".", "..", ".hidden", "a b", "x" * 81, "a\n", "ä", "-f"]
)
def test_names_that_lead_out_of_the_sweeps_folder_or_hide_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be a run's name"):
        plan(base(), [Row(name, {})], tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_run_that_is_refused_stops_the_sweep_with_its_own_words(tmp_path, processes):
    started, scripts = processes
    refuse = "import sys; print('error: no such data', file=sys.stderr); sys.exit(2)"
    scripts |= {f"plain-8-seed{seed}": lambda folder: refuse for seed in range(8)}
    with pytest.raises(InputError, match="seed. was refused: no such data"):
        work(plan(base(), rows(*range(8)), tmp_path))
    assert len(started) <= len(PLACES)


def test_a_changed_config_is_refused_with_the_difference_and_force_keeps_the_old_run(
    tmp_path, processes
):
    work(plan(base(), rows(0, 1), tmp_path))
    with pytest.raises(InputError, match=r"2 run.s. .*train\.batch_size: 16 -> 32.*--force"):
        plan(base(batch_size=32), rows(0, 1), tmp_path)
    forced = plan(base(batch_size=32), rows(0), tmp_path, force=True)
    assert not forced[0].is_finished
    old = json.loads((tmp_path / REPLACED / "plain-8-seed0-1" / "config.json").read_text())
    assert old["train"]["batch_size"] == 16
    # What cannot change a result may change.
    assert plan(base(eval_interval=7), rows(1), tmp_path)[0].is_finished


def test_a_stopped_sweep_asks_its_runs_to_save_and_begins_no_others(tmp_path, processes):
    started, scripts = processes
    patient = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(75)); "
        "print('ready', file=sys.stderr, flush=True); time.sleep(60)"
    )
    scripts |= {f"plain-8-seed{seed}": lambda folder: patient for seed in range(4)}
    runs = plan(base(), rows(*range(4)), tmp_path)
    sweep = run.Sweep(runs, slots.Local(PLACES), retries=1, title="test")
    show = sweep.board.show

    def stop_when_ready():
        show()
        logs = [r.folder / slots.LOG for r in runs]
        if sum(log.is_file() and "ready" in log.read_text() for log in logs) == 2:
            if not sweep.requests:
                sweep.stop(signal.SIGINT, None)

    sweep.board.show = stop_when_ready
    began = time.monotonic()
    assert sweep.work() == 75
    assert len(started) == 2 and time.monotonic() - began < 30


def test_a_sweep_that_is_asked_twice_to_stop_ends_its_runs_at_once_and_calls_none_failed(
    tmp_path, processes
):
    started, scripts = processes
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    scripts |= {f"plain-8-seed{seed}": lambda folder: deaf for seed in range(3)}
    runs = plan(base(), rows(*range(3)), tmp_path)
    sweep = run.Sweep(runs, slots.Local(PLACES), retries=1, title="test")
    show, shown = sweep.board.show, []

    def stop_twice():
        show()
        shown.append(None)
        if len(shown) in (6, 9):
            sweep.stop(signal.SIGINT, None)

    sweep.board.show = stop_twice
    began = time.monotonic()
    assert sweep.work() == 75
    assert len(started) == 2 and time.monotonic() - began < 30
    assert {r.status["state"] for r in runs} == {"queued"}


def test_a_run_that_another_process_still_works_on_is_left_alone_until_it_ends(tmp_path, processes):
    started, _ = processes
    runs = plan(base(), rows(0), tmp_path)
    run_folder_path = tmp_path / "plain-8-seed0"
    run_folder_path.mkdir()
    sweep = run.Sweep(runs, slots.Local(PLACES), retries=1, title="test")
    with run_folder.locked(run_folder_path):
        sweep._begin()
        assert started == []
    sweep._begin()
    assert started == ["plain-8-seed0"]
    sweep._end_all(signal.SIGKILL)
    for job in sweep.running.values():
        job.process.wait()


def test_a_run_whose_folder_was_taken_while_its_process_started_waits_for_its_turn(
    tmp_path, processes
):
    started, scripts = processes

    def taken(folder):
        words = f"error: --workdir={folder} is in use by process 1 on host"
        return f"import sys; print({words!r}, file=sys.stderr); sys.exit(2)"

    scripts["plain-8-seed0"] = [taken, taken, finish]
    runs = plan(base(), rows(0, 1), tmp_path)
    assert work(runs) == 0
    assert started.count("plain-8-seed0") == 3 and all(r.is_finished for r in runs)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with run_folder.locked(tmp_path):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
            with run_folder.locked(tmp_path):
                pass
        assert str(os.getpid()) in run_folder.owner(tmp_path)
    assert run_folder.owner(tmp_path) is None


def test_each_run_on_a_cpu_has_cores_of_its_own():
    assert [place.cores for place in slots.available(0)] == [(core,) for core in CORES]
    (all_cores,) = slots.available(1)
    assert sorted(all_cores.cores) == CORES
    with pytest.raises(InputError, match=f"jobs=99 is more than the {len(CORES)} cores"):
        slots.available(99)


def test_gpus_are_picked_by_environment_and_may_be_shared(monkeypatch):
    monkeypatch.setattr(slots, "_devices", lambda: ("gpu", 2))
    picked = [place.environment["CUDA_VISIBLE_DEVICES"] for place in slots.available(0)]
    assert picked == ["0", "1"]
    assert len(slots.available(5)) == 5


def test_a_process_is_pinned_to_its_slots_cores(tmp_path):
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    slot = slots.Slot("last", (CORES[-1],), {})
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        **slots.placement(slot, validate(base())),
    )
    assert json.loads(done.stdout) == [CORES[-1]]


def test_the_board_estimates_the_time_left_from_the_work_done(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    runs = plan(base(), rows(0, 1), tmp_path)
    board = live.Board("test", runs)
    assert np.isnan(board.seconds_left())
    runs[0].folder.mkdir()
    running = {"state": "running", "step": 3, "steps": 6, "train_error": 12.5}
    running["images_per_second"] = 8.0
    run_folder.write_json(runs[0].folder / "status.json", running)
    clock[0] = 110.0  # a quarter of all steps in ten seconds
    assert board.seconds_left() == pytest.approx(30)
    console = rich.console.Console(width=120, record=True, file=open(os.devnull, "w"))
    with console.file:
        console.print(board._table())
        text = console.export_text()
    assert "0 of 2 runs finished, about 0 min 30 s left" in text
    row = next(line for line in text.splitlines() if runs[0].name in line)
    # 3 steps of 16 images at 8 a second.
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        runs[0].name, "running", "3/6", "12.5", "8", "0 min 06 s",
    ]  # fmt: skip


def test_the_degradation_grids_twins_differ_in_the_shortcuts_alone():
    grid = degradation.GRID.rows(depths=(20, 110), families=("plain", "residual"), seeds=(0, 1))
    assert len({row.name for row in grid}) == 8
    by_name = {row.name: dict(row.overrides) for row in grid}
    for depth in (20, 110):
        plain, residual = by_name[f"plain-{depth}-seed1"], by_name[f"ResNet-{depth}-seed1"]
        assert plain.pop("model.residual") is False and residual.pop("model.residual") is True
        assert plain == residual


def sweep_command(workdir, *more):
    return [
        sys.executable, "-m", "experiments.degradation", f"--workdir={workdir}",
        f"--config={ROOT / 'configs' / 'digits.py'}", "--depths=8", "--seeds=0,1",
        "--config.train.steps=30", "--config.train.eval_interval=10", "--config.log.interval=5",
        "--config.train.checkpoint_interval=5", "--config.parallel.devices=1",
        "--config.optimizer.milestones=(15,25)", *more,
    ]  # fmt: skip


def results(workdir):
    return {
        folder.name: (
            json.loads((folder / "evaluation.json").read_text()),
            (folder / "metrics.jsonl").read_text(),
        )
        for folder in workdir.glob("*-seed*")
    }


def test_a_sweep_whose_runner_and_runs_are_killed_ends_with_the_same_numbers(tmp_path):
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(sweep_command(tmp_path / "whole"), check=True, **quiet)
    dice = random.Random(0)
    for kill in range(5):
        process = subprocess.Popen(sweep_command(tmp_path / "killed"), **quiet)
        time.sleep(dice.uniform(4, 12))
        if kill % 2:  # one of the runs first, and the runner a little later
            victims = psutil.Process(process.pid).children()
            if victims:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
                    dice.choice(victims).kill()
            time.sleep(dice.uniform(0, 2))
        process.kill()
        process.wait()
    subprocess.run(sweep_command(tmp_path / "killed"), check=True, **quiet)
    expected = results(tmp_path / "whole")
    assert len(expected) == 4
    assert results(tmp_path / "killed") == expected


def test_a_dry_run_prints_parameters_multiply_adds_and_time_and_starts_nothing(tmp_path):
    done = subprocess.run(
        sweep_command(tmp_path / "sweep", "--dry-run", "--seeds=0", "--families=residual"),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sweep").exists()
    row = next(line for line in done.stdout.splitlines() if "ResNet-8-seed0" in line)
    # Option A at depth 8 with one channel; 8x8 images, halved twice (He 2015, Sec. 4.2).
    parameters = 9 * 16 + 2 * 9 * (16**2 + 32**2 + 64**2) - 9 * (16 * 32 + 32 * 64)
    parameters += 2 * (16 * 3 + 32 * 2 + 64 * 2) + 650
    assert f"{parameters:,}" in row
    assert "min" in row and "queued" in row


def test_a_family_that_does_not_exist_is_refused(tmp_path):
    done = subprocess.run(
        sweep_command(tmp_path / "sweep", "--families=plane"),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: --families must be plain, residual or both, got 'plane'\n"


def test_a_planned_run_without_a_folder_is_queued(tmp_path):
    (planned,) = plan(base(), rows(0), tmp_path)
    assert isinstance(planned, PlannedRun)
    assert planned.status == {"state": "queued", "step": 0, "steps": 6}
