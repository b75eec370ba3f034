"""`python -m benchmarks.zoo OUT --seed N`: see the package for what it writes."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from .menus import ALL
from .shelf import build

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, build beside the target or take from the cache, put in place."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; replaced if it is there")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--small", action="store_true", help="about forty models")
    parser.add_argument("--only", default=",".join(ALL), help="architectures, by comma")
    parser.add_argument("--cache", type=Path, help="folder of finished zoos")
    options = parser.parse_args(arguments)
    only = sorted(set(options.only.split(",")))
    if unknown := set(only) - set(ALL):
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    begin = time.perf_counter()
    source = kept(options.cache, f"{options.seed}/{options.small}/{only}")
    made = source is None or not source.is_dir()
    work = options.out.with_name(options.out.name + ".new")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    if made:
        work.mkdir()
        build(work, seed=options.seed, small=options.small, only=only, log=True)
        if source is not None:
            shutil.copytree(work, source)
    elif source is not None:
        shutil.copytree(source, work)
    shutil.rmtree(options.out, ignore_errors=True)
    work.rename(options.out)
    how = "trained" if made else "from the cache"
    print(f"{options.out}: {how}, {time.perf_counter() - begin:.0f} s", file=sys.stderr)


def kept(cache: Path | None, key: str) -> Path | None:
    """Where the zoo of `key` lies in the cache when this code has made it."""
    if cache is None:
        return None
    digest = hashlib.sha256(f"{key}/{torch.__version__}".encode())
    files = [*sorted(HERE.glob("*.py")), HERE.parent / "toys.py", HERE.parent / "toy_language.py"]
    for file in files:
        digest.update(file.read_bytes())
    return cache / digest.hexdigest()[:24]


if __name__ == "__main__":
    main()
