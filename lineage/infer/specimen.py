"""What inference works on: the sampled weights of one revision as float32, with its date."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..dtypes import round_to, ulp
from ..records import RoleKey
from ..sketch.plan import is_matrix
from ..sketch.sketch import Sketch

Float32 = NDArray[np.float32]

MIN_COMMON = 0.25
NARROWER = {"F64": ("BF16", "F16"), "F32": ("BF16", "F16"), "F16": ("BF16",)}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One sampled tensor of a specimen, widened.

    `values` (count,) float32; `grain` the coarsest type that holds all of them, which is coarser
    than `dtype` where a file was widened; `half_ulp` (count,) float32: half the spacing of the
    published dtype at each value, the most that its rounding can have moved it. `step` (count,) is
    the step of the grid that a packed file's weights were decoded from; `width` the leading
    weights of each row that are held, None for a run without gaps.
    """

    key: RoleKey
    shape: tuple[int, ...]
    transposed: bool
    start: int
    dtype: str
    values: Float32
    step: Float32 | None = None
    width: int | None = None

    @cached_property
    def grain(self) -> str:
        """BF16 or F16 where every value is one, else the published dtype."""
        if self.dtype in NARROWER:
            for narrow in NARROWER[self.dtype]:
                if np.array_equal(round_to(self.values, narrow), self.values):
                    return narrow
        return self.dtype

    @property
    def half_ulp(self) -> Float32:
        """(count,) float32 rounding bound; computed at each call to keep memory at one copy."""
        half: Float32 = ulp(self.values, self.dtype) * np.float32(0.5)
        return half

    def half_ulp_at(self, at: NDArray[np.intp]) -> Float32:
        """The rounding bound of some of the weights, by their places in `values`."""
        half: Float32 = ulp(self.values[at], self.dtype) * np.float32(0.5)
        return half

    @cached_property
    def floor(self) -> float:
        """Squared norm that rounding to the grain leaves: the sum of spacing^2 / 12."""
        spacing = ulp(self.values, self.grain).astype(np.float64)
        return float((spacing**2).sum() / 12)

    @property
    def columns(self) -> int:
        """Length of a stored row."""
        return self.shape[-1] if len(self.shape) > 1 else max(1, self.values.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One revision under comparison; `node` is its name in the graph.

    `packing` says how its weights were packed, empty for weights published as they are.
    """

    node: str
    created: datetime | None
    blocks: Mapping[str, Block]
    packing: Mapping[str, str] = field(default_factory=dict)

    def matrices(self) -> tuple[str, ...]:
        """Names of the blocks that lineage is decided on."""
        return tuple(name for name, block in self.blocks.items() if is_matrix(block.key))


def specimen(node: str, sketch: Sketch, *, created: datetime | None) -> Specimen:
    """Widen a sketch; a block with NaN or infinities is left out, for nothing compares to it."""
    widened = ((b, b.values()) for b in sketch)
    blocks = {
        b.name: Block(
            key=b.key,
            shape=b.shape,
            transposed=b.transposed,
            start=b.start,
            dtype=b.dtype,
            values=values,
            step=b.steps(),
            width=b.width,
        )
        for b, values in widened
        if np.isfinite(values).all()
    }
    return Specimen(node=node, created=created, blocks=blocks, packing=sketch.packing)


def mean_of(parts: Sequence[tuple[Specimen, float]]) -> Specimen:
    """The weighted sum of some specimens over the blocks that they all hold at the same places."""
    first, _ = parts[0]
    blocks = {}
    for name, block in first.blocks.items():
        others = [one.blocks.get(name) for one, _ in parts]
        if any(other is None or not comparable(block, other) for other in others):
            continue
        values = sum(w * one.blocks[name].values.astype(np.float64) for one, w in parts)
        blocks[name] = replace(block, dtype="F32", values=np.asarray(values, dtype=np.float32))
    return Specimen(node="", created=None, blocks=blocks)


def comparable(a: Block, b: Block) -> bool:
    """Whether two blocks hold the same weights of the same tensor, coordinate by coordinate.

    Rows of an embedding may differ in number (an extended vocabulary): the sampled rows are then
    still the same ones.
    """
    same_run = a.start == b.start and a.values.size == b.values.size
    if not same_run or a.transposed != b.transposed:
        return False
    return a.shape == b.shape or (not is_matrix(a.key) and a.shape[1:] == b.shape[1:])


def shared_matrices(group: Sequence[Specimen]) -> tuple[str, ...]:
    """Matrix blocks that every specimen of the group holds and can be compared on."""
    first = group[0]
    return tuple(
        name
        for name in first.matrices()
        if all(
            name in other.blocks and comparable(first.blocks[name], other.blocks[name])
            for other in group[1:]
        )
    )


def comparable_parts(group: Sequence[Specimen]) -> list[list[Specimen]]:
    """Split a bucket so that no file with odd or missing blocks spoils the others' comparison.

    A part starts with the specimen whose matrix blocks are the most widely held and takes in all
    others that leave at least `MIN_COMMON` of those blocks shared by the whole part.

    Returns
    -------
    Parts in the order they were formed, members in the order given. Specimens without a matrix
    block are in none.
    """
    return [[group[at] for at in part] for part in parts_of([matrix_places(o) for o in group])]


def parts_of(places: Sequence[frozenset[tuple[object, ...]]]) -> list[list[int]]:
    """`comparable_parts` on the places alone: what each model holds, from `matrix_places`.

    Returns
    -------
    Parts in the order they were formed, members' numbers rising.
    """
    left = [at for at, held in enumerate(places) if held]
    parts = []
    while left:
        usual = Counter(place for at in left for place in places[at])
        first = max(left, key=lambda at: sum(usual[place] for place in places[at]))
        shared = places[first]
        least = MIN_COMMON * len(shared)
        part = []
        for at in sorted(left, key=lambda at: -len(places[at] & places[first])):
            common = shared & places[at]
            if common and len(common) >= least:
                shared = common
                part.append(at)
        parts.append(sorted(part))
        taken = set(part)
        left = [at for at in left if at not in taken]
    return parts


def matrix_places(one: Specimen) -> frozenset[tuple[object, ...]]:
    """What two matrix blocks must agree in to be compared."""
    held = ((name, one.blocks[name]) for name in one.matrices())
    return frozenset((name, b.shape, b.transposed, b.start, b.values.size) for name, b in held)


def content_key(one: Specimen) -> str:
    """sha256 of the sampled weights and their types: what names and dates do not enter."""
    digest = hashlib.sha256()
    for name in sorted(one.blocks):
        digest.update(one.blocks[name].dtype.encode())
        digest.update(one.blocks[name].values.tobytes())
    return digest.hexdigest()


def same_up_to_cast(mine: Block, theirs: Block) -> NDArray[np.bool_]:
    """(n,) which weights of two comparable blocks no more than a cast can part."""
    bound = 0 if mine.dtype == theirs.dtype else mine.half_ulp + theirs.half_ulp
    same: NDArray[np.bool_] = np.abs(mine.values - theirs.values) <= bound
    return same


def is_narrowed(child: Specimen, parent: Specimen) -> bool:
    """Whether a cast to the child's type cost the parent's weights something."""
    pairs = [(child.blocks[n], parent.blocks[n]) for n in child.matrices() if n in parent.blocks]
    return any(a.grain in NARROWER.get(b.grain, ()) for a, b in pairs)
