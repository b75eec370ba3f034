"""Which of several files in other formats than safetensors is the one to read.

A repository often holds one model in many precisions. The most precise copy says most about its
parents, so it is the one that is read; the others are the same model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_SPLIT = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_PRECISION = re.compile(r"(?:^|[-._/])(BF16|F16|F32|FP16|FP32|I?T?Q(\d)[0-9A-Z_]*|MXFP(\d))", re.I)
_NO_MODEL = re.compile(
    r"(^|[-._/])(mmproj|imatrix|clip|vae|lora|adapter|projector|control-?vector)", re.IGNORECASE
)


def choose_gguf(paths: Iterable[str]) -> tuple[str, ...]:
    """The most precise GGUF model of a listing: one file, or a whole set of shards; () for none.

    Projectors, importance matrices and adapters are no models. Nothing but the choice among
    copies of one model hangs on the names.
    """
    sets = [files for files in _gguf_sets(paths) if not _NO_MODEL.search(files[0])]
    if not sets:
        return ()
    return min(sets, key=lambda files: (-_precision(files[0]), files[0].count("/"), files))


def _gguf_sets(paths: Iterable[str]) -> list[tuple[str, ...]]:
    sets: list[tuple[str, ...]] = []
    shards: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for path in sorted(set(paths)):
        if found := _SPLIT.fullmatch(path):
            shards[found[1], int(found[3])][int(found[2])] = path
        elif path.lower().endswith(".gguf"):
            sets.append((path,))
    sets += [
        tuple(numbered[at] for at in sorted(numbered))
        for (_, total), numbered in shards.items()
        if sorted(numbered) == list(range(1, total + 1))
    ]
    return sets


def _precision(path: str) -> int:
    """Bits of a weight by the name of the file; 16 where it does not say."""
    found = list(_PRECISION.finditer(path.rpartition("/")[2]))
    if not found:
        return 16
    digits = found[-1][2] or found[-1][3]
    return int(digits) if digits else 32 if found[-1][1].endswith("32") else 17
