"""The files that every method gets: copies under random names, in random order, without cards."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zoo_scoring import Truth, read_truth

TELLING_KEYS = ("_name_or_path", "base_model_name_or_path", "name_or_path")
CARDS = frozenset({"README.md"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindZoo:
    """A zoo under random names: folders by name, the truth in the same names, creation times.

    `root` holds the folders as `org/name`; `names` leads from the true names to these.
    """

    root: Path
    models: Mapping[str, Path]
    truth: Truth
    dates: Mapping[str, datetime]
    names: Mapping[str, str]


def blind(zoo: Path, target: Path, *, seed: int = 0) -> BlindZoo:
    """Copy the published models of a zoo to `target`.

    Cards are left out, configurations lose the keys that may name a parent, and every file gets
    the same time stamp: a copy, not a link, for a link would keep the order of training.

    Raises
    ------
    FileNotFoundError : the truth names a published model that is not there.
    """
    truth, draw = read_truth(zoo), random.Random(seed)
    order = sorted(truth.shown)
    draw.shuffle(order)
    names = {old: f"{draw.randrange(16**8):08x}/{draw.randrange(16**8):08x}" for old in order}
    for old, new in names.items():
        _copy(zoo / old, target / new)
    dates = {
        names[old]: datetime.fromtimestamp(truth.models[old].created or 0, UTC) for old in order
    }
    return BlindZoo(
        root=target,
        models={names[old]: target / names[old] for old in order},
        truth=truth.renamed(names),
        dates=dates,
        names=names,
    )


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.name in CARDS or not file.is_file():
            continue
        if file.name.endswith("config.json"):
            told = json.loads(file.read_text())
            kept = {key: value for key, value in told.items() if key not in TELLING_KEYS}
            (target / file.name).write_text(json.dumps(kept))
        else:
            shutil.copyfile(file, target / file.name)
        os.utime(target / file.name, (0, 0))
