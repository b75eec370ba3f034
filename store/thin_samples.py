"""Thin samples of a bucket's sketches on disk, so that a night's additions do not re-read it all.

A cache and nothing more: one file a shape, written whole, and computed anew where it is missing,
damaged or of another make. Rows are found by the digest of the sketch they were taken from.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..lineage.errors import RegistryError
from ..lineage.infer.neighbours import ThinSample
from .durable import whole_file

FORMAT = 2
MAX_BYTES = 8 << 30
_COLUMNS = ("digests", "lossy", "packed", "weights", "floors")


class ThinRow(NamedTuple):
    """A thin sample, whether the weights lie on a grid or hold many zeros, and were packed."""

    sample: ThinSample
    lossy: bool
    packed: bool


class ThinSampleStore:
    """The `sketches/thin/` folder of a store.

    Parameters
    ----------
    folder : made at the first `save`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def load(self, shape_key: str) -> dict[str, ThinRow]:
        """Rows by sketch digest; empty where the file is missing or cannot be used."""
        path = self._path(shape_key)
        try:
            if path.stat().st_size > MAX_BYTES:
                return {}
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return _decode(file)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return {}

    def save(self, shape_key: str, rows: Mapping[str, ThinRow]) -> None:
        """Replace the rows of a shape.

        Raises
        ------
        RegistryError : the disk refused.
        """
        path = self._path(shape_key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, lasting=False) as file:
                np.savez(file, **_encode(rows))
        except OSError as error:
            raise RegistryError(f"cannot write {path}: {error.strerror}") from error

    def _path(self, shape_key: str) -> Path:
        return self._folder / f"{hashlib.sha256(shape_key.encode()).hexdigest()[:32]}.npz"


def _encode(rows: Mapping[str, ThinRow]) -> dict[str, Any]:
    """One group of arrays for each set of places; models of a bucket nearly all share one."""
    groups: dict[str, list[str]] = {}
    for digest, row in sorted(rows.items()):
        groups.setdefault(_places_text(row.sample), []).append(digest)
    arrays: dict[str, Any] = {"format": np.array(FORMAT)}
    for at, (places, digests) in enumerate(sorted(groups.items())):
        members = [rows[digest] for digest in digests]
        names = sorted(members[0].sample.weights)
        sizes = [members[0].sample.weights[name].size for name in names]
        arrays[f"{at}.places"] = np.array(places)
        arrays[f"{at}.digests"] = np.array(digests)
        arrays[f"{at}.lossy"] = np.array([row.lossy for row in members])
        arrays[f"{at}.packed"] = np.array([row.packed for row in members])
        arrays[f"{at}.sizes"] = np.array(sizes, dtype=np.int64)
        arrays[f"{at}.weights"] = np.stack(
            [np.concatenate([row.sample.weights[name] for name in names]) for row in members]
        )
        arrays[f"{at}.floors"] = np.array(
            [[row.sample.floors[name] for name in names] for row in members]
        )
    return arrays


def _places_text(sample: ThinSample) -> str:
    return json.dumps(sorted(sample.places, key=str))


def _decode(file: Mapping[str, Any]) -> dict[str, ThinRow]:
    if int(file["format"]) != FORMAT:
        return {}
    rows: dict[str, ThinRow] = {}
    at = 0
    while f"{at}.places" in file:
        places = frozenset(_place(one) for one in json.loads(str(file[f"{at}.places"])))
        names = sorted(str(place[0]) for place in places)
        ends = np.cumsum(file[f"{at}.sizes"])[:-1]
        columns = (file[f"{at}.{kind}"] for kind in _COLUMNS)
        for digest, lossy, packed, weights, floors in zip(*columns, strict=True):
            pieces = np.split(weights, ends)
            sample = ThinSample(
                places=places,
                weights=dict(zip(names, pieces, strict=True)),
                floors=dict(zip(names, floors.tolist(), strict=True)),
            )
            rows[str(digest)] = ThinRow(sample, bool(lossy), bool(packed))
        at += 1
    return rows


def _place(described: list[object]) -> tuple[object, ...]:
    name, shape, *rest = described
    if not isinstance(shape, list):
        raise ValueError("a place without a shape")
    return (name, tuple(shape), *rest)
