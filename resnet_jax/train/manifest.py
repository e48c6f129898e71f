"""What a checkpoint holds, so that damage is noticed: Orbax restores flipped bits silently."""

import hashlib
import json
import pathlib

from resnet_jax.files import replacing

# Lies inside the checkpoint's folder, so that it goes when that goes.
NAME = "sha256.json"
# Orbax writes these when it renames the finished folder; nothing that is restored is in them.
WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write(folder: pathlib.Path) -> None:
    """Notes size and SHA-256 of every file that a checkpoint is restored from."""
    text = json.dumps(_contents(folder), indent=1) + "\n"
    with replacing(folder / NAME) as file:
        file.write(text.encode())


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is as it was written.

    Args:
        folder: of one step.
    """
    try:
        noted = json.loads((folder / NAME).read_text())
        found = _contents(folder)
    except FileNotFoundError:
        return f"it has no {NAME}, so it was never finished"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    if not isinstance(noted, dict):
        return f"{NAME} is damaged"
    for name in sorted(noted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in noted:
            return f"{name} does not belong to it"
        if noted[name] != found[name]:
            return f"{name} has changed since it was written"
    return None


def _contents(folder: pathlib.Path) -> dict[str, list[int | str]]:
    passed_over = {folder / name for name in (NAME, *WRITTEN_LATER)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in passed_over)
    return {
        path.relative_to(folder).as_posix(): [
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        ]
        for path in files
    }
