"""What of the papers has been reproduced: keeps finished runs, and tells of all that are kept.

    python -m experiments.reproduced runs/reproduce/he2015      # keeps what is finished there
    python -m experiments.reproduced                            # draws and writes all of it again

A run's record goes to docs/results/reproduction, in a folder of its sweep's name. From the records
alone come the figures beside them, and the tables between `<!-- NAME: begin -->` and
`<!-- NAME: end -->` in README.md and docs/reproduction.md, which a test holds against the records.
"""

import hashlib
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from experiments.cells import Kept
from experiments.keeping import keep, require_usable
from experiments.measured import SECTIONS, responses
from experiments.reproduce import FOLDER, ITERATIONS, TABLES
from resnet_jax import run_folder
from resnet_jax.arguments import Parser
from resnet_jax.errors import InputError
from resnet_jax.report import charts, figures, signals, style

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "reproduction"
DOCUMENTS = (pathlib.Path("README.md"), pathlib.Path("docs/reproduction.md"))
BLOCK = re.compile(r"(<!-- (\w+): begin -->\n).*?(<!-- \2: end -->)", re.DOTALL)


def read(results: pathlib.Path) -> list[Kept]:
    """All that is kept, the longest runs first, and the widest nets of those.

    Raises:
        InputError: if a record cannot be used.
    """
    found = []
    for folder in sorted(results.iterdir() if results.is_dir() else ()):
        if folder.is_dir():
            found.append(Kept(folder, require_usable(folder, folder)))
    return sorted(found, key=lambda item: (-item.iterations, -item.width))


def of_table(all_kept: Sequence[Kept], name: str) -> list[Kept]:
    """The sweeps that a table or figure is told from."""
    match = [(item, FOLDER.fullmatch(item.folder.name)) for item in all_kept]
    return [item for item, found in match if found and found["folder"] == TABLES[name].folder]


def images(all_kept: Sequence[Kept]) -> Iterator[tuple[pathlib.Path, Figure]]:
    """Every figure, and the file that it belongs into."""
    for item in of_table(all_kept, "he2015_fig6"):
        main = charts.main_series(item.runs.groups)
        top = 20.0 if item.iterations >= ITERATIONS else None  # as in the paper
        yield item.folder / "fig6.png", figures.pair(item.runs, main, top=top)
        nets = responses(item.runs)
        if nets:
            yield item.folder / "fig7.png", signals.draw_responses(item.runs, nets)


def fingerprint(folder: pathlib.Path) -> str:
    """A SHA-256 of all records of a sweep, which its figures carry."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.json*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
    parser = Parser(
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
            style.save(figure, path, {"records": fingerprint(path.parent)})
        for document in DOCUMENTS:
            text = (ROOT / document).read_text()
            run_folder.write_text(ROOT / document, written(text, all_kept, document))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
