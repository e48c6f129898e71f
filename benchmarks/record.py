"""How results are written: JSON, and a Markdown table with all that its numbers depend on."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def about(*packages: str) -> dict[str, Any]:
    """Commit, machine and versions of Python, JAX and more packages."""
    # It imports JAX, before which a process that measures has its environment to prepare.
    from resnet_jax.train import provenance

    about = provenance.circumstances(("jax", "jaxlib", *packages))
    return {**about, "devices": provenance.accelerators()}


def markdown(
    title: str, report: Mapping[str, Any], columns: Mapping[str, str], rows: Sequence[Any]
) -> str:
    """A table under a line that says where its numbers come from.

    Args:
        title: what was measured, and how.
        report: with what `about` gives.
        columns: headings, and how each row's values are formatted: {"images/s": ".0f"}.
        rows: sequences of values, as long as `columns`.
    """
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    hardware = report["hardware"]
    machine = ", ".join(
        [*report["devices"], hardware["processor"], f"{hardware['usable_cores']} cores"]
    )
    lines = [
        f"{title} {machine}. Commit {report['commit']}; {versions}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [
            "-" if value is None else format(value, form)
            for value, form in zip(row, columns.values(), strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(out: str, name: str, report: Mapping[str, Any], table: str) -> None:
    """Writes `name`.json and `name`.md into the folder, and prints the table."""
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / f"{name}.md").write_text(table)
    print(table, end="")
