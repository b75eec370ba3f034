"""Fingerprints of hidden states: kept as models are run, compared when all have been."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..lineage.behaviour import (
    POSITIONS,
    BehaviouralKin,
    behavioural_kin,
    fingerprint,
    prompts_of,
)
from ..lineage.compute import Compute
from ..lineage.errors import MalformedFile, RegistryError
from ..lineage.infer.disjoint import DisjointSets
from ..store.facts import BehaviourRow, FingerprintRow
from ..store.registry import Registry
from ..store.sketches import RawArray
from .probes.transformers_backend import FirstPass

VERSION = "gram-1"
_ARRAY = "gram"

Float32 = NDArray[np.float32]


def keep_fingerprint(
    registry: Registry,
    scan: int,
    *,
    revision: tuple[str, str],
    prompt_set: str,
    passes: tuple[FirstPass, FirstPass],
) -> None:
    """Store the fingerprint of a revision over the harmful and the harmless prompts of a set.

    Raises
    ------
    ValueError : too few prompts.
    RegistryError : the disk refused.
    """
    first, second = passes
    grams = fingerprint(
        {d: np.concatenate([one, second.states[d]]) for d, one in first.states.items()}
    )
    model, sha = revision
    key = hashlib.sha256("\0".join((model, sha, prompt_set, VERSION)).encode()).hexdigest()
    array = RawArray("F32", grams.shape, grams.astype("<f4").tobytes())
    file = registry.activations.save(key, {_ARRAY: array}, metadata={"version": VERSION})
    row = FingerprintRow(
        model=model,
        sha=sha,
        prompt_set=prompt_set,
        version=VERSION,
        path=file.path,
        sha256=file.sha256,
    )
    registry.add_fingerprint(scan, row)


def compare_behaviour(
    registry: Registry, scan: int, *, prompt_set: str, compute: Compute
) -> dict[str, str]:
    """Compare all fingerprints on a prompt set and store the pairs that are most alike.

    Returns
    -------
    The models whose fingerprint cannot be read, with the reason.
    """
    unreadable: dict[str, str] = {}
    names: list[str] = []
    grams: list[Float32] = []
    for row in registry.fingerprints(prompt_set=prompt_set, version=VERSION):
        try:
            gram = _load(registry, row)
            if grams and gram.shape != grams[0].shape:
                raise MalformedFile("a fingerprint of other prompts", path=row.path)
            grams.append(gram)
            names.append(row.model)
        except (RegistryError, MalformedFile) as error:
            unreadable[row.model] = str(error)
    found: list[BehaviouralKin] = []
    if len(names) > 1:
        lines = registry.fingerprinted_lines(prompt_set=prompt_set, version=VERSION)
        found = behavioural_kin(grams, _families(names, lines), compute=compute)
    pairs = [
        BehaviourRow(
            first=names[one.first],
            second=names[one.second],
            n=prompts_of(grams[0].shape[1]),
            debiased_cka=one.debiased,
            cka=one.biased,
            null_pairs=one.null,
            p_value=one.p_value,
            q_value=one.q_value,
        )
        for one in found
    ]
    registry.replace_behaviour(scan, pairs, prompt_set=prompt_set, version=VERSION)
    return unreadable


def _load(registry: Registry, row: FingerprintRow) -> Float32:
    array = registry.activations.load(row.path).get(_ARRAY)
    if array is None or array.dtype != "F32" or array.shape[:1] != (POSITIONS,):
        raise MalformedFile("a fingerprint without its Gram vectors", path=row.path)
    values = np.frombuffer(array.data, dtype="<f4").reshape(POSITIONS, -1)
    if not np.isfinite(values).all():
        raise MalformedFile("a fingerprint that is not finite", path=row.path)
    return values.astype(np.float32)


def _families(names: Sequence[str], lines: Iterable[tuple[str, str]]) -> list[int]:
    """A number for each model; those that hang together by weights or by claim share theirs.

    `lines` are pairs of a model and one of its ancestors, which may have no number of its own.
    """
    sets = DisjointSets()
    owner = {name: at for at, name in enumerate(names)}
    for model, ancestor in lines:
        if model in owner:
            sets.join(owner[model], owner.setdefault(ancestor, owner[model]))
    return [sets.find(at) for at in range(len(names))]
