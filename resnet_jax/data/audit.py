"""Looks for ways in which val or test could have reached training.

    python -m resnet_jax.data.audit --config=configs/cifar_resnet20.py [--out=DIR]
    python -m resnet_jax.data.audit --config=... --config.data.data_dir=...

Prints the findings and writes, into DIR (default runs/audit/<data set>), `audit.json` with all
of them and, if there are pairs of duplicates, `pairs.png`, a picture sheet of the worst.

Exit codes: 0 nothing is shared between splits, 1 something is (exact or near duplicates in two
splits, ids in two splits or used twice, over-sampled images outside of train, a normalisation that
depends on val or test), 2 bad input. Duplicates within one split are listed as notes and leave the
code 0: they weigh a picture twice, but tell training nothing about val or test.
"""

import dataclasses
import json
import logging
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from resnet_jax import command, terminal
from resnet_jax import config as run_config
from resnet_jax.data import datasets, leakage, pair_sheet
from resnet_jax.data.datasets import Dataset
from resnet_jax.data.leakage import Leakage, Pair
from resnet_jax.errors import InputError
from resnet_jax.files import replacing

LOG = logging.getLogger(__name__)
LEAKS = 1
REPORT, SHEET = "audit.json", "pairs.png"


def write(found: Leakage, dataset: Dataset, out: pathlib.Path) -> None:
    """Writes `audit.json` and `pairs.png`; without pairs, removes an older sheet.

    Raises:
        InputError: if the folder cannot be written.
    """
    report = {
        "dataset": dataset.describe(),
        "leaks": found.leaks,
        "findings": [dataclasses.asdict(finding) for finding in found.findings],
        "test_duplicates": found.test_duplicates,
        "pairs": [_row(pair) for pair in found.pairs],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        if found.pairs:
            with replacing(out / SHEET) as file:
                pair_sheet.draw(dataset, found.pairs).save(file, "png")
        else:
            (out / SHEET).unlink(missing_ok=True)
        with replacing(out / REPORT) as file:
            file.write(json.dumps(report, indent=1).encode())
    except OSError as error:
        raise InputError(
            f"--out={out} cannot be written ({error.strerror}); choose another folder"
        ) from error


def _row(pair: Pair) -> dict[str, object]:
    ends = [
        {"id": end.id, "split": end.split, "label": end.label} for end in (pair.first, pair.second)
    ]
    return {"kind": pair.kind, "similarity": pair.similarity, "images": ends}


def main(argv: list[str]) -> None:
    """Audits the data set that the flags name."""
    del argv
    terminal.set_up_logging()
    if _CONFIG.value is None:
        raise InputError("--config is missing, for example --config=configs/cifar_resnet20.py")
    config = run_config.validate(command.read_config(_CONFIG)).data
    dataset = datasets.load(config)
    out = pathlib.Path(_OUT.value or f"runs/audit/{dataset.name}")
    examples = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    LOG.info("auditing %s: %s", dataset.name, examples)
    found = leakage.check(dataset, config)
    write(found, dataset, out)
    terminal.print_audit([dataclasses.asdict(finding) for finding in found.findings])
    print(
        f"{len(found.test_duplicates)} of {len(dataset.test)} test images are in train or val too"
    )
    print(f"report: {out / REPORT}")
    hidden = max(len(found.pairs) - pair_sheet.MOST, 0)
    print(
        f"pairs to judge by eye: {out / SHEET} ({len(found.pairs) - hidden}; {hidden} not shown)"
        if found.pairs
        else "no pairs of duplicates, so no picture sheet"
    )
    if found.leaks:
        sys.exit(LEAKS)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "A run's config file.")
    _OUT = flags.DEFINE_string("out", None, "Where to write; default runs/audit/<data set>.")
    command.run(main)
