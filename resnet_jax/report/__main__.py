"""Draws everything again from run folders: python -m resnet_jax.report RUNS [--out=DIR]."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from resnet_jax.errors import InputError
from resnet_jax.report.outputs import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a report and says what it found; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_jax.report",
        description="Report, figures, tables and verdict from run folders alone.",
    )
    parser.add_argument("runs", type=pathlib.Path, help="a sweep's folder, or a single run's")
    parser.add_argument("--out", type=pathlib.Path, help="where to write; default: RUNS/report")
    flags = parser.parse_args(arguments)
    try:
        paths = write_report(flags.runs, flags.out)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(paths.text)
    print(f"report: {paths.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
