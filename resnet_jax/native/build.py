"""Builds the extension next to its sources.

    python -m resnet_jax.native.build [--optional]

Takes oneDNN 2 or 3, on OpenMP or without threads, from $ONEDNN_ROOT, from this Python's
environment (conda) or from the system (Debian and Ubuntu: libdnnl-dev; Fedora: onednn-devel).
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

import jax

from resnet_jax import native

# A oneDNN on TBB or SYCL (as the wheel `onednn`) brings threads that we cannot confine.
PROBE = """
#include <dnnl.hpp>
#if DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_SEQ
#error unsuitable
#endif
"""


class BuildError(Exception):
    """Why there is no extension, in one line."""


def build() -> None:
    """Compiles and links; the library takes its place in one step.

    Raises:
        BuildError: without a C++ compiler, without a usable oneDNN, or if the compiler fails.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None or not shutil.which(compiler):
        raise BuildError(f"no C++ compiler found ({compiler or 'g++, clang++'})")
    found = [flags for flags in map(_flags, _prefixes()) if _has_onednn(compiler, flags)]
    if not found:
        raise BuildError(
            "oneDNN not found (with OpenMP or sequential): install libdnnl-dev (Debian, Ubuntu), "
            "onednn-devel (Fedora) or onednn (conda), or set ONEDNN_ROOT to where it lies"
        )
    native.LIBRARY.parent.mkdir(exist_ok=True)
    draft = native.LIBRARY.with_suffix(f".{os.getpid()}.tmp")
    command = [
        compiler,
        *("-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp", "-Wall", "-Wno-psabi"),
        f'-DNATIVE_BUILD="{native.build_stamp()}"',
        *("-isystem", jax.ffi.include_dir(), *found[0]),
        *map(str, sorted(native.FOLDER.glob("*.cc"))),
        *("-ldnnl", "-o", str(draft)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            raise BuildError(f"{compiler} failed, see above")
        draft.replace(native.LIBRARY)
    finally:
        draft.unlink(missing_ok=True)


def _prefixes() -> list[pathlib.Path | None]:
    """Where oneDNN may lie, in order; None is where the compiler looks of its own."""
    if root := os.environ.get("ONEDNN_ROOT"):
        return [pathlib.Path(root)]
    return [pathlib.Path(sys.prefix), None]


def _flags(prefix: pathlib.Path | None) -> list[str]:
    if prefix is None:
        return []
    libraries = [prefix / name for name in ("lib", "lib64")]
    return [
        f"-I{prefix / 'include'}",
        *(f"-L{folder}" for folder in libraries),
        *(f"-Wl,-rpath,{folder}" for folder in libraries),
    ]


def _has_onednn(compiler: str, flags: list[str]) -> bool:
    """Whether these flags lead to its headers, and its threads are OpenMP's or none."""
    done = subprocess.run(
        [compiler, "-std=c++20", *flags, "-E", "-x", "c++", "-"],
        input=PROBE,
        capture_output=True,
        text=True,
    )
    return done.returncode == 0


def main() -> int:
    """Builds, and says in one line what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--optional", action="store_true", help="only if need be, and if it can be")
    optional = parser.parse_args().optional
    if optional and native.is_current():
        return 0
    try:
        build()
    except BuildError as error:
        if optional:
            print(f"without the CPU extension: {error}", file=sys.stderr)
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
