"""All weights of two models, tensor by tensor: how far apart, and in how many directions.

The difference is taken in float32 from exactly widened weights before anything is squared, on
whatever device there is; nothing of a tensor is kept but numbers and, of a matrix that changed,
one direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compute import Compute
from .dtypes import float_grid, to_float32
from .errors import NotComparable
from .records import RoleKey
from .sketch.plan import is_writer

DIRECTIONS = 64
_OVERSAMPLED = 8
_POWER = 2
_CHUNK = 1 << 22
_NOISE_MARGIN = 3.0
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
READERS = ("attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up")


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class StoredTensor:
    """One whole tensor in the bytes it was published in, or decoded to F32 from a packed type.

    `step` (count,) float32: the step of the grid at each weight of a packed type.
    """

    key: RoleKey
    name: str
    shape: tuple[int, ...]
    transposed: bool
    dtype: str
    data: bytes
    step: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDelta:
    """One tensor of two models.

    `distance` is |a - b|, `relative_distance` the same over |b|; `same_share` the share of weights
    that differ by no more than half the spacing of each; `rounding_ratio` |a - b|^2 over what
    rounding to the coarser of the two types leaves (spacing^2 / 12 a weight): near 1 for a cast,
    a quantization or an exact merge, far above for anything else. Of a matrix that changed:
    `rank` directions above the rounding, `full_rank` where there are more than were looked at,
    `top_energy` the share of |a - b|^2 in the first four, `rank_90` how many hold nine tenths.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    norm_a: float
    norm_b: float
    distance: float
    relative_distance: float | None
    cosine: float | None
    same_share: float
    zeros_a: float
    zeros_b: float
    rounding_ratio: float | None
    rank: int | None = None
    full_rank: bool = False
    top_energy: float | None = None
    rank_90: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDelta:
    """All tensors that both models hold, and the whole.

    `writer_coherence` and `reader_coherence`: agreement, from 1 / n to 1, of the leading
    directions in the residual stream of n changed matrices that write to it, or read from it.
    """

    tensors: tuple[TensorDelta, ...]
    weights: int
    changed: int
    relative_distance: float | None
    cosine: float | None
    same_share: float
    rounding_ratio: float | None
    writer_coherence: float | None
    reader_coherence: float | None


@dataclass(slots=True)
class _Sums:
    """Added up over the chunks of a tensor, or over tensors; float64."""

    count: int = 0
    a: float = 0.0
    b: float = 0.0
    dot: float = 0.0
    delta: float = 0.0
    floor: float = 0.0
    same: int = 0
    zeros_a: int = 0
    zeros_b: int = 0

    def add(self, other: _Sums) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def relative(self) -> float | None:
        return _finite(math.sqrt(self.delta / self.b)) if self.b > 0 else None

    @property
    def cosine(self) -> float | None:
        scale = math.sqrt(self.a) * math.sqrt(self.b)
        return _finite(max(-1.0, min(1.0, self.dot / scale))) if scale > 0 else None

    @property
    def ratio(self) -> float | None:
        return _finite(self.delta / self.floor) if self.floor > 0 else None


@dataclass(slots=True, kw_only=True)
class FullComparison:
    """Takes pairs of tensors one after another; holds numbers and one direction a matrix."""

    compute: Compute
    _found: list[TensorDelta] = field(default_factory=list)
    _whole: _Sums = field(default_factory=_Sums)
    _writers: list[Tensor] = field(default_factory=list)
    _readers: list[Tensor] = field(default_factory=list)

    def add(self, a: StoredTensor, b: StoredTensor) -> TensorDelta:
        """Compare one tensor of both models; one with NaN or infinite weights counts for nothing.

        Raises
        ------
        NotComparable : the shapes differ, or a type cannot be widened.

        Notes
        -----
        O(weights) and, for a matrix, O(weights x 72 x 6) for the randomised spectrum. Memory: the
        two tensors in float32 and chunks of four million weights.
        """
        device = self.compute.resolve()
        first, second = _widened(a, device), _widened(b, device)
        if first.shape != second.shape:
            raise NotComparable(f"{a.name}: {a.shape} against {b.shape}")
        sums = _summed(first, second, a, b)
        if not math.isfinite(sums.delta):
            # It says nothing, and would silence what all the others say.
            return _delta(a, b, sums)
        self._whole.add(sums)
        found = self._spectrum(a.key, first.sub_(second), _delta(a, b, sums), sums)
        self._found.append(found)
        return found

    def result(self) -> FullDelta:
        """What all that was added comes to."""
        whole = self._whole
        return FullDelta(
            tensors=tuple(self._found),
            weights=whole.count,
            changed=sum(one.same_share < 1 for one in self._found),
            relative_distance=whole.relative,
            cosine=whole.cosine,
            same_share=whole.same / whole.count if whole.count else 0.0,
            rounding_ratio=whole.ratio,
            writer_coherence=_coherence(self._writers),
            reader_coherence=_coherence(self._readers),
        )

    def _spectrum(
        self, key: RoleKey, delta: Tensor, found: TensorDelta, sums: _Sums
    ) -> TensorDelta:
        if delta.dim() != 2 or found.same_share == 1 or not math.isfinite(sums.delta):
            return found
        u, s, v = randomised_svd(delta, count=DIRECTIONS)
        energy = (s.double().square() / sums.delta).cumsum(0).cpu().numpy()
        edge = math.sqrt(sums.floor / sums.count) * sum(math.sqrt(n) for n in delta.shape)
        rank = int((s.double() > _NOISE_MARGIN * edge).sum())
        if is_writer(key):
            self._writers.append(u[:, 0].cpu())
        elif key.role.endswith(READERS):
            self._readers.append(v[:, 0].cpu())
        return replace(
            found,
            rank=rank,
            full_rank=rank == len(s) < min(delta.shape),
            top_energy=min(1.0, float(energy[min(3, len(energy) - 1)])),
            rank_90=int(np.searchsorted(energy, 0.9)) + 1 if energy[-1] >= 0.9 else None,
        )


def randomised_svd(matrix: Tensor, *, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triplets of a matrix: (m, k), (k,) falling and (n, k).

    Parameters
    ----------
    matrix : (m, n) float32; k is `count`, or as many as there are.

    Notes
    -----
    A random range finder with two power iterations and eight directions to spare. O(m n k).

    References
    ----------
    Halko, Martinsson and Tropp (2011), SIAM Review 53(2), algorithms 4.4 and 5.1.
    """
    width = min(*matrix.shape, count + _OVERSAMPLED)
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, generator=draw).to(matrix.device)
    q = torch.linalg.qr(matrix @ start)[0]
    for _ in range(_POWER):
        q = torch.linalg.qr(matrix.T @ q)[0]
        q = torch.linalg.qr(matrix @ q)[0]
    left, s, right = torch.linalg.svd(q.T @ matrix, full_matrices=False)
    kept = min(count, width)
    return (q @ left)[:, :kept], s[:kept], right[:kept].T


def _widened(one: StoredTensor, device: str) -> Tensor:
    """The tensor in float32 on the device, residual stream first where it is stored transposed."""
    kind = _TORCH.get(one.dtype)
    if kind is None:
        values = torch.from_numpy(to_float32(one.data, one.dtype)).to(device)
    else:
        # It travels as it was published: half the bytes of what it is widened to.
        host = torch.empty(math.prod(one.shape), dtype=kind, pin_memory=device != "cpu")
        host.view(torch.uint8).numpy()[:] = np.frombuffer(one.data, dtype=np.uint8)
        values = host.to(device, non_blocking=True).float()
    shaped = values.reshape(one.shape)
    return shaped.T.contiguous() if one.transposed and shaped.dim() == 2 else shaped


def _spacings(one: StoredTensor, values: Tensor, start: int) -> Tensor:
    """(n,) float32 spacing of the stored type at a chunk of the flattened values."""
    if one.step is not None:
        steps = one.step.reshape(one.shape).T.reshape(-1) if one.transposed else one.step
        return torch.from_numpy(steps[start : start + len(values)]).to(values.device)
    grid = float_grid(one.dtype)
    if grid is None:
        return torch.ones_like(values)
    mantissa, lowest, highest = grid
    exponent = torch.frexp(values).exponent - 1
    exponent = exponent.clamp(lowest, highest).masked_fill(values == 0, lowest)
    return torch.ldexp(torch.ones_like(values), exponent - mantissa)


def _summed(first: Tensor, second: Tensor, a: StoredTensor, b: StoredTensor) -> _Sums:
    flat = first.reshape(-1), second.reshape(-1)
    whole = _Sums()
    for start in range(0, flat[0].numel(), _CHUNK):
        x, y = (one[start : start + _CHUNK] for one in flat)
        gaps = [_spacings(one, part, start) for one, part in ((a, x), (b, y))]
        away = x - y
        same = (
            away == 0
            if a.dtype == b.dtype and a.step is b.step is None
            else (away.abs() <= (gaps[0] + gaps[1]) / 2)
        )
        floor = torch.maximum(*gaps).double().square().sum() / 12
        whole.add(
            _Sums(
                count=x.numel(),
                a=float(x.double().square().sum()),
                b=float(y.double().square().sum()),
                dot=float((x.double() * y.double()).sum()),
                delta=float(away.double().square().sum()),
                floor=float(floor),
                same=int(same.sum()),
                zeros_a=int((x == 0).sum()),
                zeros_b=int((y == 0).sum()),
            )
        )
    return whole


def _delta(a: StoredTensor, b: StoredTensor, sums: _Sums) -> TensorDelta:
    count = max(1, sums.count)
    return TensorDelta(
        tensor=str(a.key),
        shape=a.shape,
        dtype_a=a.dtype,
        dtype_b=b.dtype,
        norm_a=math.sqrt(sums.a),
        norm_b=math.sqrt(sums.b),
        distance=math.sqrt(sums.delta),
        relative_distance=sums.relative,
        cosine=sums.cosine,
        same_share=sums.same / count,
        zeros_a=sums.zeros_a / count,
        zeros_b=sums.zeros_b / count,
        rounding_ratio=0.0 if sums.delta == 0 else sums.ratio,
    )


def _coherence(directions: Sequence[Tensor]) -> float | None:
    """Largest eigenvalue of the mean projector on unit directions of one width."""
    width = max((len(one) for one in directions), default=0)
    alike = [one for one in directions if len(one) == width]
    if len(alike) < 2:
        return None
    stacked = torch.stack(alike).double()
    return float(torch.linalg.eigvalsh(stacked @ stacked.T)[-1]) / len(alike)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
