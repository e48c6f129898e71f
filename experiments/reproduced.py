"""What of the papers has been reproduced: keeps finished runs, and tells of all that are kept.

    python -m experiments.reproduced runs/reproduce/he2015      # keeps what is finished there
    python -m experiments.reproduced                            # draws and writes all of it again

A run's record goes to docs/results/reproduction, in a folder of its sweep's name. From the records
alone come the figures beside them, and the tables between `<!-- NAME: begin -->` and
`<!-- NAME: end -->` in README.md and docs/reproduction.md, which a test holds against the records.
"""

import argparse
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from experiments import kept
from experiments.measured import SECTIONS, Kept, responses
from experiments.reproduce import FOLDER, ITERATIONS, TABLES
from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import charts, figures, signals, style, sweep
from resnet_jax.report.sweep import Sweep

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "reproduction"
DOCUMENTS = (pathlib.Path("README.md"), pathlib.Path("docs/reproduction.md"))
BLOCK = re.compile(r"(<!-- (\w+): begin -->\n).*?(<!-- \2: end -->)", re.DOTALL)


def keep(folder: pathlib.Path, results: pathlib.Path) -> list[str]:
    """Keeps a sweep's finished runs beside those that are kept of it; returns their names.

    Raises:
        InputError: if it is no sweep of a table, has no finished run, or one that does not fit to
            the others; then nothing is kept.
    """
    name = folder.resolve().name
    if not folder.is_dir() or not FOLDER.fullmatch(name):
        raise InputError(
            f"{folder} is not a sweep's folder of experiments.reproduce; give one that is below "
            "its --workdir, as runs/reproduce/he2015"
        )
    finished = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and _is_finished(path)
    ]
    if not finished:
        raise InputError(
            f"{folder} has no finished run; see what `status.json` says in its folders"
        )
    with tempfile.TemporaryDirectory() as place:
        draft = pathlib.Path(place) / name
        if (results / name).is_dir():
            shutil.copytree(results / name, draft)
        for path in finished:
            kept.keep(path, draft / path.name)
        _require_usable(draft, folder)
        shutil.copytree(draft, results / name, dirs_exist_ok=True)
    return [path.name for path in finished]


def _is_finished(path: pathlib.Path) -> bool:
    status = run_folder.read_json(path / run_folder.STATUS) or {}
    return status.get("state") in run_folder.FINISHED


def _require_usable(folder: pathlib.Path, named: pathlib.Path) -> Sweep:
    """The runs in a folder, all of them.

    Args:
        folder: where they lie.
        named: what it is called in the error.

    Raises:
        InputError: if one would be left out.
    """
    runs = sweep.load(folder)
    for item in runs.excluded:
        raise InputError(
            f"{named / item.name} cannot stand beside the others: {item.reason}; train all runs of "
            "a table from one commit, in a clone or worktree of it"
        )
    return runs


def read(results: pathlib.Path) -> list[Kept]:
    """All that is kept, the longest runs first, and the widest nets of those.

    Raises:
        InputError: if a record cannot be used.
    """
    found = []
    for folder in sorted(results.iterdir() if results.is_dir() else ()):
        if folder.is_dir():
            runs = _require_usable(folder, folder)
            found.append(Kept(folder, runs))
    return sorted(found, key=lambda item: (-item.iterations, -item.width))


def of_table(all_kept: Sequence[Kept], name: str) -> list[Kept]:
    """The sweeps that a table or figure is told from."""
    match = [(item, FOLDER.fullmatch(item.folder.name)) for item in all_kept]
    return [item for item, found in match if found and found[1] == TABLES[name].folder]


def images(all_kept: Sequence[Kept]) -> Iterator[tuple[pathlib.Path, Figure]]:
    """Every figure, and the file that it belongs into."""
    for item in of_table(all_kept, "he2015_fig6"):
        main = charts.main_series(item.runs.groups)
        top = 20.0 if item.iterations >= ITERATIONS else None  # as in the paper
        yield item.folder / "fig6.png", figures.pair(item.runs, main, top=top)
        nets = responses(item.runs)
        if nets:
            yield item.folder / "fig7.png", signals.draw_responses(item.runs, nets)


def written(text: str, all_kept: Sequence[Kept], document: pathlib.Path) -> str:
    """A document with its blocks as the records have them.

    Args:
        text: of the document.
        all_kept: the records.
        document: its file, from which figures are linked.

    Raises:
        InputError: if it has a block that there is no table for.
    """

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name not in TABLES:
            raise InputError(
                f"{document} has a block {name!r}, which is none of {', '.join(TABLES)}"
            )
        told = SECTIONS[name](of_table(all_kept, name), (ROOT / document).parent)
        return f"{match[1]}{told}{match[3]}"

    return BLOCK.sub(block, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduced",
        description="Keeps finished runs, and tells of all that are kept.",
    )
    parser.add_argument("runs", nargs="*", type=pathlib.Path, help="sweeps whose runs to keep")
    flags = parser.parse_args(arguments)
    try:
        for folder in flags.runs:
            print(f"kept {', '.join(keep(folder, RESULTS))}")
        all_kept = read(RESULTS)
        for path, figure in images(all_kept):
            style.save(figure, path)
        for document in DOCUMENTS:
            text = (ROOT / document).read_text()
            run_folder.write_text(ROOT / document, written(text, all_kept, document))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
