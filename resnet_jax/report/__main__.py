"""Draws everything again from run folders: python -m resnet_jax.report RUNS [--out=DIR]."""

import pathlib
import sys
from collections.abc import Sequence

from resnet_jax import mirror
from resnet_jax.arguments import Parser
from resnet_jax.errors import InputError
from resnet_jax.report.outputs import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a report and says what it found; returns the exit code."""
    parser = Parser(
        prog="python -m resnet_jax.report",
        description="Report, figures, tables and verdict from run folders alone.",
    )
    parser.add_argument("runs", help="a sweep's folder, or a single run's; s3://... too")
    parser.add_argument("--out", type=pathlib.Path, help="where to write; default: RUNS/report")
    flags = parser.parse_args(arguments)
    try:
        with mirror.opened(flags.runs, passed_over=mirror.HEAVY) as (folder, _):
            paths = write_report(folder, flags.out)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(paths.text)
    shown = paths.html if flags.out else f"{flags.runs.rstrip('/')}/{paths.html.parent.name}"
    print(f"report: {shown if mirror.is_remote(flags.runs) else paths.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
