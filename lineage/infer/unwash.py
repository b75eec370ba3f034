"""Two models brought into one residual space and one order of hidden units.

The rows of the embedding keep their meaning through every change of basis. They, and the rows of
the head, give the map from one residual space to the other (orthogonal Procrustes). In one space
hidden units are matched by their gate rows, and whether the match is real is asked of the up rows,
which took no part in it: for independent models the up rows of matched units agree no better than
those of units matched at random (Zhu et al. 2025). Without a gate one half of the directions
matches and the other is asked.

References
----------
Zhu et al. (2025), "Independence tests for language models", arXiv:2502.12292.
Sch\u00f6nemann (1966), "A generalized solution of the orthogonal Procrustes problem".
Ashkboos et al. (2024), SliceGPT, arXiv:2401.15024: rotations with gains folded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..compute import Compute
from ..records import RoleKey
from ..sketch.plan import is_writer
from ..sketch.sketch import complete_rows
from .alignment import Site, layered, match_units, unit_norm, units
from .specimen import Block, Specimen

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_ANCHORS = 4
MIN_UNITS = 8
SINGULAR = 1e-3
SAME_CHANNEL = 0.9
GATES = {"mlp.gate": "mlp.up"}
HEADS = ("attn.v", "attn.qkv")
AFTER_ATTENTION_NORM = (*HEADS, "attn.q", "attn.k")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a specimen holds that reads the residual space, with the norms' gains folded in.

    `tokens` (n, d) rows of the embedding, then of the head; `embedded` how many are of the
    embedding; `readers` (units, d) rows by site and role; `hidden` how many units each of those
    matrices has in all.
    """

    tokens: Float32
    embedded: int
    readers: Mapping[Site, Mapping[str, Float32]]
    hidden: Mapping[Site, Mapping[str, int]]

    def cut(self, rows: int) -> Space:
        """The same with the first token rows only: vocabularies of different length."""
        return replace(self, tokens=self.tokens[: min(rows, self.embedded)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One candidate with everything undone.

    `agreement`, `z` and `units` as in a `Laundering`; `covered` whether at least half of the units
    are matched that both samples hold if units were shuffled at random; `residual` the mean over
    matrices of the median of one minus the squared cosine of matched rows.
    """

    agreement: float
    z: float
    units: int
    covered: bool
    residual: float
    done: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Matched rows of one matrix: `a` and `b` (k, d) in their own spaces, `rows` their numbers."""

    role: str
    rows: Ints
    a: Float32
    b: Float32


def space_of(one: Specimen) -> Space | None:
    """Rows in the residual space; None without embedding rows to find the space by."""
    embed = one.blocks.get("embed")
    if embed is None or embed.transposed or len(embed.shape) != 2:
        return None
    tokens = [_rows(embed)]
    head, gain = one.blocks.get("lm_head"), one.blocks.get("final_norm")
    if head is not None and gain is not None and head.columns == gain.values.size == embed.columns:
        tokens.append(_rows(head) * gain.values)
    readers, hidden = {}, {}
    for site, blocks in layered(one).items():
        kept = {
            role: block
            for role, block in blocks.items()
            if not is_writer(block.key) and not block.transposed and block.columns == embed.columns
        }
        readers[site] = {role: _folded(one, site, block) for role, block in kept.items()}
        hidden[site] = {role: block.shape[0] for role, block in kept.items()}
    return Space(
        tokens=np.concatenate(tokens), embedded=len(tokens[0]), readers=readers, hidden=hidden
    )


def _rows(block: Block) -> Float32:
    _, rows = complete_rows(block.values, start=block.start, columns=block.columns)
    return rows


def _folded(one: Specimen, site: Site, block: Block) -> Float32:
    """Rows times the gain of the norm that stands before them, where it was sampled."""
    rows = units(block)
    norm = "attn_norm" if block.key.role.endswith(AFTER_ATTENTION_NORM) else "mlp_norm"
    gain = one.blocks.get(str(RoleKey(role=site.stack + norm, layer=site.layer)))
    if gain is None or gain.values.size != rows.shape[1]:
        return rows
    return rows * gain.values


def row_gram(rows: Float32, *, compute: Compute) -> Float32:
    """(n, n) cosines of rows: what no change of basis changes."""
    scaled = unit_norm(rows)
    return compute.cross(scaled, scaled)


def procrustes(a: Float32, b: Float32) -> tuple[Float32, Float32]:
    """Bases in which two sets of corresponding rows are nearest, up to an orthogonal map.

    Parameters
    ----------
    a, b : (n, d) float32 rows.

    Returns
    -------
    u, v : (d, r) orthonormal columns; rows x of the first space compare to rows y of the second
        as x @ u to y @ v. r is d where the rows span the space, else the rank they share.

    Notes
    -----
    The singular vectors of a^T b, through the QR of the thin factors: O(n^2 d) for few rows.
    """
    qa, ra = np.linalg.qr(a.astype(np.float64).T)
    qb, rb = np.linalg.qr(b.astype(np.float64).T)
    x, s, yt = np.linalg.svd(ra @ rb.T)
    keep = s > SINGULAR * max(float(s[0]), 1e-30)
    u, v = qa @ x[:, : s.size][:, keep], qb @ yt.T[:, : s.size][:, keep]
    return u.astype(np.float32), v.astype(np.float32)


def fit(mine: Space, theirs: Space) -> Fit | None:
    """Undo whatever was done to the candidate, as far as the two sketches allow.

    Returns
    -------
    None when there is too little to say: few embedding rows, no matrix in common.
    """
    n = min(len(mine.tokens), len(theirs.tokens))
    if n < MIN_ANCHORS or mine.tokens.shape[1] != theirs.tokens.shape[1]:
        return None
    u, v = procrustes(mine.tokens[:n], theirs.tokens[:n])
    pairs: list[_Pair] = []
    tests: list[Float64] = []
    matched = expected = 0.0
    for site, role in _matching_roles(mine, theirs):
        a, b = mine.readers[site], theirs.readers[site]
        rows, cosines = _match(a, b, role, u, v)
        total = max(mine.hidden[site][role], 1)
        matched += len(rows)
        expected += len(a[role]) * len(b[role]) / total
        if len(rows) > 1:
            tests.append(cosines)
        pairs += [
            _Pair(role=name, rows=rows, a=a[name][rows[:, 0]], b=b[name][rows[:, 1]])
            for name in {role, GATES.get(role, role)} & a.keys() & b.keys()
        ]
    if not tests:
        return None
    agreement, z, count = _judge(tests)
    pairs += _head_pairs(mine, theirs, u, v)
    tokens = _Pair(
        role="tokens",
        rows=np.stack([np.arange(n)] * 2, axis=1),
        a=mine.tokens[:n],
        b=theirs.tokens[:n],
    )
    pairs.append(tokens)
    return Fit(
        agreement=agreement,
        z=z,
        units=count,
        covered=count >= MIN_UNITS and 2 * matched >= expected,
        residual=_residual(pairs, u, v),
        done=_done(pairs),
    )


def _matching_roles(mine: Space, theirs: Space) -> Iterator[tuple[Site, str]]:
    """The matrix that units are matched by, in each layer that both hold."""
    for site in sorted(mine.readers.keys() & theirs.readers.keys()):
        both = mine.readers[site].keys() & theirs.readers[site].keys()
        for name in ("mlp.gate", "mlp.gate_up", "mlp.up"):
            if site.stack + name in both:
                yield site, site.stack + name
                break


def _match(
    a: Mapping[str, Float32], b: Mapping[str, Float32], role: str, u: Float32, v: Float32
) -> tuple[Ints, Float64]:
    """Units matched by one part of their weights, and the (k, k) absolute cosines of another."""
    other = GATES.get(role)
    if other is not None and other in a and other in b and len(a[other]) >= len(a[role]):
        x, y, s, t = a[role] @ u, b[role] @ v, a[other] @ u, b[other] @ v
    else:
        x, y = (a[role] @ u)[:, ::2], (b[role] @ v)[:, ::2]
        s, t = (a[role] @ u)[:, 1::2], (b[role] @ v)[:, 1::2]
    rows = match_units(x, y)
    rows = rows[(rows[:, 0] < len(s)) & (rows[:, 1] < len(t))]
    cosines = np.abs(unit_norm(s[rows[:, 0]]) @ unit_norm(t[rows[:, 1]]).T).astype(np.float64)
    return rows, cosines


def _judge(tests: list[Float64]) -> tuple[float, float, int]:
    """Agreement of matched units, its z against units matched at random, and their number."""
    found = sum(float(np.diag(c).sum()) for c in tests)
    count = sum(len(c) for c in tests)
    null, variance = 0.0, 0.0
    for cosines in tests:
        off = cosines[~np.eye(len(cosines), dtype=bool)]
        null += len(cosines) * float(off.mean())
        variance += len(cosines) * float(off.var())
    return found / count, (found - null) / max(math.sqrt(variance), 1e-9), count


def _head_pairs(mine: Space, theirs: Space, u: Float32, v: Float32) -> list[_Pair]:
    """Rows of the value (or fused) projections, matched by themselves and up to sign."""
    pairs = []
    for site in sorted(mine.readers.keys() & theirs.readers.keys()):
        for role in HEADS:
            a = mine.readers[site].get(site.stack + role)
            b = theirs.readers[site].get(site.stack + role)
            if a is not None and b is not None:
                rows = match_units(a @ u, b @ v)
                pairs.append(_Pair(role=role, rows=rows, a=a[rows[:, 0]], b=b[rows[:, 1]]))
    return pairs


def _residual(pairs: list[_Pair], u: Float32, v: Float32) -> float:
    """Mean over matrices of the median of one minus the squared cosine; 1 for one without pairs."""
    left = []
    for pair in pairs:
        if not len(pair.a):
            left.append(1.0)
            continue
        a, b = pair.a.astype(np.float64) @ u, pair.b.astype(np.float64) @ v
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-30)
        left.append(max(0.0, float(np.median(1 - cosine**2))))
    return float(np.mean(left))


def _done(pairs: list[_Pair]) -> tuple[str, ...]:
    """What separates the two, named."""
    found = []
    if _moved([p for p in pairs if p.role.endswith(("gate", "up"))]):
        found.append("mlp-permutation")
    if _moved([p for p in pairs if p.role in HEADS]):
        found.append("head-permutation")
    if _rescaled(pairs):
        found.append("rescaled")
    basis = _basis(pairs)
    return (*found, basis) if basis else tuple(found)


def _moved(pairs: list[_Pair]) -> bool:
    """Whether most matched units stand elsewhere."""
    rows = [p.rows for p in pairs if len(p.rows)]
    return bool(rows) and bool(np.mean(np.diff(np.concatenate(rows), axis=1) != 0) > 0.5)


def _rescaled(pairs: list[_Pair]) -> bool:
    """Whether norms of up or value rows changed by more than those of rows that cannot change.

    The gate stands inside the nonlinearity and the tokens outside the blocks: what their norms
    moved by is rounding and training.
    """
    free = [p for p in pairs if p.role.endswith(("mlp.up", "attn.v"))]
    bound = [p for p in pairs if p.role.endswith(("gate", "tokens"))]
    return max(map(_spread, free), default=0.0) > 5 * max(map(_spread, bound), default=0.0) + 0.05


def _spread(pair: _Pair) -> float:
    """Median absolute log of the rows' ratio of norms."""
    if not len(pair.a):
        return 0.0
    a, b = np.linalg.norm(pair.a, axis=1), np.linalg.norm(pair.b, axis=1)
    fine = (a > 0) & (b > 0)
    return float(np.median(np.abs(np.log(a[fine] / b[fine])))) if fine.any() else 0.0


def _basis(pairs: list[_Pair]) -> str | None:
    """Whether channels stayed, were permuted and flipped, or were mixed."""
    a = unit_norm(np.ascontiguousarray(np.concatenate([unit_norm(p.a) for p in pairs]).T))
    b = unit_norm(np.ascontiguousarray(np.concatenate([unit_norm(p.b) for p in pairs]).T))
    if float(np.median(np.einsum("ij,ij->i", a, b))) > SAME_CHANNEL:
        return None
    best = np.abs(a @ b.T).max(axis=1)
    return "basis-permutation" if float(np.median(best)) > SAME_CHANNEL else "basis-rotation"
