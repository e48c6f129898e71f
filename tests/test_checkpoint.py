import collections
import pathlib
import shutil

import numpy as np
import pytest

from resnet_jax.errors import InputError
from resnet_jax.train import checkpoint, manifest
from resnet_jax.train.checkpoint import Checkpoints

USAGE = collections.namedtuple("usage", "total used free")


def state_of(step):
    random = np.random.RandomState(step)
    return {"kernel": random.normal(size=(64, 64)).astype(np.float32), "step": np.int32(step)}


@pytest.fixture
def saved(tmp_path):
    """Three steps in tmp_path/checkpoints."""
    return save_steps(tmp_path / "checkpoints")


def save_steps(folder, steps=(2, 4, 6)):
    checkpoints = Checkpoints(folder, keep=3)
    for step in steps:
        checkpoints.save(step, state_of(step), val_error=50.0 - step)
    checkpoints.close()
    return folder


def files(step):
    """What a step is restored from, and its manifest."""
    later = {step / name for name in manifest.WRITTEN_LATER}
    return sorted(path for path in step.rglob("*") if path.is_file() and path not in later)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def restore_newest(folder):
    checkpoints = Checkpoints(folder, keep=3)
    step = checkpoints.newest_intact()
    state = checkpoints.restore(step, like=state_of(0))
    checkpoints.close()
    np.testing.assert_array_equal(state["kernel"], state_of(step)["kernel"])
    return step


def test_every_step_has_a_manifest_once_its_save_is_over(saved):
    for step in (2, 4, 6):
        assert manifest.damage(saved / str(step)) is None
        noted = (saved / str(step) / manifest.NAME).read_text()
        names = {
            path.relative_to(saved / str(step)).as_posix() for path in files(saved / str(step))
        }
        assert all(f'"{name}"' in noted for name in names - {manifest.NAME})
    assert restore_newest(saved) == 6


def test_every_flipped_bit_is_noticed(saved):
    random, step = np.random.RandomState(0), saved / "6"
    paths = [path for path in files(step) if path.stat().st_size]
    for path in [*paths, *random.choice(paths, 60)]:
        before = path.read_bytes()
        flip(path, random.randint(8 * len(before)))
        assert manifest.damage(step), path
        path.write_bytes(before)
    assert manifest.damage(step) is None


@pytest.mark.parametrize("how", ["cut", "emptied", "removed", "added"])
def test_every_file_that_is_cut_emptied_removed_or_added_is_noticed(saved, how):
    step = saved / "6"
    for path in files(step):
        before = path.read_bytes()
        if how == "removed":
            path.unlink()
        elif how == "added":
            path.with_name("more").write_bytes(b"")
        else:
            path.write_bytes(before[: len(before) // 2] if how == "cut" else b"")
        assert manifest.damage(step), path
        path.write_bytes(before)
        path.with_name("more").unlink(missing_ok=True)
    assert manifest.damage(step) is None


@pytest.mark.parametrize("name", manifest.WRITTEN_LATER)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\x00"])
def test_damage_to_the_files_that_orbax_writes_later_does_no_harm(saved, name, content):
    path = saved / "6" / name
    path.unlink() if content is None else path.write_bytes(content)
    assert restore_newest(saved) == 6


def test_a_damaged_step_is_moved_aside_and_the_one_before_it_is_taken(saved, caplog):
    flip(max(files(saved / "6"), key=lambda path: path.stat().st_size), 1000)
    damaged = contents(saved / "6")
    assert restore_newest(saved) == 4
    assert contents(saved.parent / checkpoint.DAMAGED / "6") == damaged
    assert not (saved / "6").exists()
    assert "checkpoint 6 is damaged" in caplog.text and "taking 4" in caplog.text
    # The run goes on, reaches step 6 again, and that may be damaged again.
    save_steps(saved, steps=(6,))
    assert restore_newest(saved) == 6
    flip(files(saved / "6")[0], 3)
    assert restore_newest(saved) == 4
    assert len(list((saved.parent / checkpoint.DAMAGED).iterdir())) == 2


def test_two_damaged_steps_are_passed_over(saved):
    for step in "46":
        (saved / step / manifest.NAME).unlink()
    assert restore_newest(saved) == 2


def test_if_all_are_damaged_nothing_is_deleted_and_the_run_is_refused(saved):
    for step in "246":
        flip(files(saved / step)[-1], 5)
    before = contents(saved)
    with pytest.raises(InputError, match="all checkpoints in .* are damaged .the newest, 6: "):
        restore_newest(saved)
    assert contents(saved) == before


def test_a_folder_without_steps_has_no_newest(tmp_path):
    assert Checkpoints(tmp_path / "none").newest_intact() is None


def test_looking_only_moves_nothing(saved):
    (saved / "6" / manifest.NAME).unlink()
    before = contents(saved.parent)
    assert Checkpoints(saved, read_only=True).newest_intact() == 4
    assert contents(saved.parent) == before


@pytest.mark.parametrize("step", ["2", "6"])
def test_with_a_damaged_one_the_best_is_not_known_and_refused(saved, step):
    flip(files(saved / step)[0], 1)
    with pytest.raises(InputError, match=f"checkpoint {step} is damaged .* not known"):
        checkpoint.of_run(saved.parent, "best")
    assert checkpoint.of_run(saved.parent, "last")[1] == (4 if step == "6" else 6)


@pytest.mark.parametrize("content", [b"", b'{"val_er', b"\xff", b"{}", b'{"val_error": "low"}'])
@pytest.mark.parametrize("step", ["2", "6"])
def test_a_damaged_error_on_val_of_any_step_does_not_hide_the_intact_ones(saved, step, content):
    (saved / step / "metrics" / "metrics").write_bytes(content)
    expected = 4 if step == "6" else 6
    looking, found = checkpoint.of_run(saved.parent, "last")
    np.testing.assert_array_equal(
        looking.restore(found, like=state_of(0))["kernel"], state_of(expected)["kernel"]
    )
    assert restore_newest(saved) == expected
    save_steps(saved, steps=(8,))
    assert checkpoint.of_run(saved.parent, "best")[1] == 8


def test_half_written_steps_of_a_dead_process_are_cleared_away(saved):
    left = saved / "8.orbax-checkpoint-tmp-123"
    left.mkdir()
    (left / "data").write_bytes(b"x" * 1000)
    Checkpoints(saved, read_only=True)
    assert left.exists()
    assert restore_newest(saved) == 6 and not left.exists()


@pytest.mark.parametrize(
    "live", [{"kernel": np.zeros((64, 64), np.float32)}, {**state_of(0), "more": np.zeros(3)}]
)
def test_a_state_of_other_leaves_is_refused(saved, live):
    with pytest.raises(InputError, match="cannot be restored"):
        Checkpoints(saved, read_only=True).restore(6, like=live)


def no_space(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(10**9, 10**9 - free, free))


def test_without_room_two_saves_are_left_out_and_the_third_fails(saved, monkeypatch, caplog):
    checkpoints, before = Checkpoints(saved, keep=3), contents(saved)
    no_space(monkeypatch, free=1000)
    for step in (8, 10):
        checkpoints.save(step, state_of(step), None)
    assert caplog.text.count("left out") == 2
    with pytest.raises(OSError, match="No space left on device: a checkpoint needs 0 MB"):
        checkpoints.save(12, state_of(12), None)
    checkpoints.close()
    assert contents(saved) == before


def test_room_that_comes_back_is_used(saved, monkeypatch):
    checkpoints = Checkpoints(saved, keep=3)
    for step, free in ((8, 0), (10, 0), (12, 10**6), (14, 0), (16, 0)):
        no_space(monkeypatch, free)
        checkpoints.save(step, state_of(step), None)
    checkpoints.close()
    assert restore_newest(saved) == 12


def test_the_last_save_is_never_left_out(saved, monkeypatch):
    checkpoints = Checkpoints(saved, keep=3)
    no_space(monkeypatch, free=0)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(8, state_of(8), None, last=True)
    checkpoints.close()


@pytest.mark.parametrize("waiting", ["save", "wait"])
def test_a_save_that_failed_in_the_background_is_told_at_the_next_call(saved, monkeypatch, waiting):
    checkpoints = Checkpoints(saved, keep=3)

    def full(folder: pathlib.Path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    checkpoints.save(8, state_of(8), None)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(10, state_of(10), None) if waiting == "save" else checkpoints.wait()
    assert checkpoints.newest_intact() == 6


def test_a_step_that_is_saved_anew_takes_the_olds_place_with_its_own_error(saved):
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.best_step == 6
    checkpoints.replace(4, state_of(4), val_error=1.0)
    assert checkpoints.steps == [2, 4, 6] and checkpoints.best_step == 4
    checkpoints.close()
    assert sorted(path.name for path in saved.iterdir()) == ["2", "4", "6"]
    assert manifest.damage(saved / "4") is None


@pytest.mark.parametrize("new_is_complete", [False, True])
def test_a_process_that_dies_while_it_saves_a_step_anew_loses_neither(
    saved, monkeypatch, new_is_complete
):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    # At its last act, the removal of the old step; or before the new one is begun.
    owner, name = (shutil, "rmtree") if new_is_complete else (Checkpoints, "save")
    checkpoints = Checkpoints(saved, keep=3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, die)
        checkpoints.replace(6, state_of(6), val_error=1.0)
    assert (saved / "6").exists() is new_is_complete
    assert restore_newest(saved) == 6
    assert sorted(path.name for path in saved.iterdir()) == ["2", "4", "6"]


def test_a_full_disk_does_not_cost_the_step_that_was_to_be_saved_anew(saved, monkeypatch):
    checkpoints = Checkpoints(saved, keep=3)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(shutil, "disk_usage", lambda _: USAGE(1, 1, 0))
        checkpoints.replace(6, state_of(6), val_error=1.0)
    assert restore_newest(saved) == 6
