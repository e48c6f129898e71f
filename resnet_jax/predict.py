"""What a trained run makes of your own images; the data set it learned from is not needed.

    python -m resnet_jax.predict --workdir=runs/r56 photo.jpg drawing.png
    python -m resnet_jax.predict --workdir=runs/r56 --checkpoint=best --top=3 --json *.png

Images may be of any format that Pillow reads, of any size, in colour or grey. They are turned as
their EXIF data say, laid on white where they are transparent, cut to a square around the centre and
resized. In a pipe each line is an image, a class and its probability, divided by tabs.

Exit codes: 0 done, 2 bad input (one line says what to mend), 1 anything else.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from resnet_jax import environment, run_folder, terminal
from resnet_jax.arguments import Parser
from resnet_jax.command import BAD_INPUT
from resnet_jax.config import load_json
from resnet_jax.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the most probable classes of each image; returns the exit code."""
    parser = Parser(
        prog="python -m resnet_jax.predict",
        description="A trained run's classes for your own images.",
    )
    parser.add_argument("images", nargs="+", type=pathlib.Path, help="image files")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="the run's folder")
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), default="last", help="which one; best is on val"
    )
    parser.add_argument("--top", type=int, default=5, help="classes to print for each image")
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        flags = parser.parse_args(arguments)
        if flags.top < 1:
            raise InputError(f"--top must be at least 1, got {flags.top}")
        # Flags are checked before JAX starts, so that mistakes are told at once.
        environment.prepare(load_json(flags.workdir / run_folder.CONFIG))
        from resnet_jax.train import prediction

        predicted = prediction.predict(
            flags.workdir, flags.images, which=flags.checkpoint, top=flags.top
        )
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    if flags.json:
        print(json.dumps(predicted, indent=2))
    else:
        terminal.print_predictions(predicted["images"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
