"""Low-rank adapters as changes to weights of the plain model.

An adapter holds two thin matrices for each weight that it changes, B A times a scale. Asked for a
span, such a weight gives the change to the base's weights there, so that a model with the adapter
merged into it, less its base, is the same numbers.

References
----------
Hu et al. (2021), arXiv 2106.09685; rsLoRA: Kalajdzievski (2023), arXiv 2312.03732; DoRA: Liu et al.
(2024), arXiv 2402.09353. The layouts of peft, mlx-lm and kohya's sd-scripts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...lineage.dtypes import to_float32
from ...lineage.errors import MalformedFile
from ...lineage.records import TensorSpec
from .adapter_names import DENOISER, adapter_tensor, other_kind
from .base import ByteRange, Decoded, Located, Packing, Weight, WeightFile
from .plain import PlainWeight, element_range

Float32 = NDArray[np.float32]

FORMATS = frozenset({"peft", "mlx-adapter", "kohya", "diffusers-lora"})
MAX_RANK = 4_096

_CONV1D = ("c_attn", "c_proj", "c_fc")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraWeight:
    """The change to one weight of the base (a `Weight`); `shape` is the base's stored shape.

    `down` [r, in] and `up` [out, r]; with `flipped` [in, r] and [r, out] as MLX has them.
    `transposed` when the base stores the weight [in, out]. `alpha` is a stored number that the
    scale is made of, for kohya's files; `scale` then holds what is left of it, 1 / r.
    """

    name: str
    shape: tuple[int, ...]
    down: TensorSpec
    up: TensorSpec
    scale: float
    flipped: bool = False
    transposed: bool = False
    alpha: TensorSpec | None = None
    magnitude: TensorSpec | None = None
    dtype: str = "LORA"

    @property
    def path(self) -> str:
        """The file of the thin matrices."""
        return self.down.path

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.down.shape[1] if self.flipped else self.down.shape[0]

    def locate(self, start: int, count: int, *, budget: int) -> Located | None:
        """One thin matrix whole, and of the other the rows that the span needs."""
        columns = self.shape[1]
        first, last = start // columns, -(-(start + count) // columns)
        if last > self.shape[0]:
            raise MalformedFile(f"row {last} of {self.name[:200]!r} does not exist", path=self.path)
        by_row = not self.flipped and not self.transposed
        up = self.up
        part = element_range(up, first * self.rank, (last - first) * self.rank)
        ranges = [_whole(self.down), part if by_row else _whole(up)]
        ranges += [] if self.alpha is None else [_whole(self.alpha)]
        if sum(r.end - r.begin for r in ranges) > budget:
            return None

        def decode(parts: Sequence[bytes]) -> Decoded:
            scale = self.scale
            if self.alpha is not None:
                scale *= float(to_float32(parts[2], self.alpha.dtype).reshape(-1)[0])
            rows = self._rows(parts, slice(0, None) if by_row else slice(first, last), scale)
            flat = rows.reshape(-1)[start - first * columns :][:count]
            return Decoded(dtype="F32", data=flat.astype("<f4").tobytes())

        return Located(ranges=tuple(ranges), decode=decode)

    def magnitude_of(self, start: int, count: int) -> tuple[int, int, Weight] | None:
        """(first row, rows, the magnitudes) of a span of the change; None without magnitudes."""
        if self.magnitude is None:
            return None
        columns = self.shape[1]
        first, last = start // columns, -(-(start + count) // columns)
        size = (math.prod(self.magnitude.shape),)
        return first, last - first, PlainWeight(spec=self.magnitude, shape=size)

    def _rows(self, parts: Sequence[bytes], wanted: slice, scale: float) -> Float32:
        down = to_float32(parts[0], self.down.dtype)
        up = to_float32(parts[1], self.up.dtype)
        if self.flipped:
            down, up = down.reshape(-1, self.rank).T, up.reshape(self.rank, -1).T
        else:
            down, up = down.reshape(self.rank, -1), up.reshape(-1, self.rank)
        left, right = (down.T, up.T) if self.transposed else (up, down)
        with np.errstate(over="ignore", invalid="ignore"):
            change = left[wanted].astype(np.float64) @ right * scale
        return change.astype(np.float32)


def adapter_weights(specs: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> WeightFile:
    """The changes that an adapter's file holds.

    Parameters
    ----------
    specs : stored tensors by name.
    config : adapter_config.json.

    Returns
    -------
    WeightFile with `packing` (format, `lora r8`, 16) and the changes to the part of a pipeline that
    is trained, or to the one part there is. Changes to other parts, adapters of other kinds than
    low rank and changes that need more of the base than a sketch has are counted in `skipped`.

    Raises
    ------
    MalformedFile : two matrices of one weight that do not fit each other.
    """
    modules, form = _modules(specs)
    part = DENOISER if any(part == DENOISER for part, _ in modules) else _first_part(modules)
    weights: dict[str, Weight] = {}
    ranks: Counter[int] = Counter()
    skipped: Counter[str] = Counter()
    stated = bool(config.get("use_dora"))
    kind = "dora" if stated else "lora"
    for (belongs, module), held in modules.items():
        flat = all(len(spec.shape) == 2 for side, spec in held.items() if side in ("in", "out"))
        if not {"in", "out"} <= held.keys() or not flat:
            skipped["convolution" if not flat else "half"] += bool(held.keys() & {"in", "out"})
            continue
        weight = _weight(module, held, form, config)
        ranks[weight.rank] += 1
        kind = "dora" if weight.magnitude is not None else kind
        if belongs != part:
            skipped[belongs] += 1
        elif weight.transposed if weight.magnitude is not None else stated:
            skipped["dora"] += 1
        else:
            weights[weight.name] = weight
    rank = max(ranks, key=lambda r: (ranks[r], r), default=0)
    other = other_kind(specs)
    if other is not None and not ranks:
        return WeightFile(
            weights={},
            packing=Packing(format=form, type=other, bits=16),
            skipped={other: len(specs)},
        )
    return WeightFile(
        weights=weights,
        packing=Packing(format=form, type=f"{kind} r{rank}", bits=16),
        skipped={name: count for name, count in skipped.items() if count},
    )


Modules = dict[tuple[str, str], dict[str, TensorSpec]]


def _first_part(modules: Modules) -> str:
    return min((part for part, _ in modules), default=DENOISER)


def _modules(specs: Mapping[str, TensorSpec]) -> tuple[Modules, str]:
    """The tensors of each module by side, and the layout they are in."""
    found: Modules = {}
    form = "peft"
    for name, spec in specs.items():
        if (one := adapter_tensor(name)) is not None:
            found.setdefault((one.part, one.module), {})[one.side] = spec
            form = one.layout or form
    return found, form


def _weight(
    name: str, held: Mapping[str, TensorSpec], form: str, config: Mapping[str, Any]
) -> LoraWeight:
    down, up, flipped = held["in"], held["out"], form == "mlx-adapter"
    rank, inputs = down.shape[::-1] if flipped else down.shape
    other, outputs = up.shape if flipped else up.shape[::-1]
    if rank != other or not 0 < rank <= MAX_RANK:
        raise MalformedFile(
            f"the two matrices of {name[:200]!r} have the ranks {rank} and {other}",
            path=down.path,
            offset=down.begin,
        )
    alpha, magnitude = held.get("alpha"), held.get("magnitude")
    if magnitude is not None and math.prod(magnitude.shape) != outputs:
        raise MalformedFile(
            f"{name[:200]!r} has {outputs} rows and {math.prod(magnitude.shape)} magnitudes",
            path=magnitude.path,
            offset=magnitude.begin,
        )
    transposed = bool(config.get("fan_in_fan_out")) and name.rpartition(".")[2] in _CONV1D
    return LoraWeight(
        name=f"{name}.weight",
        shape=(inputs, outputs) if transposed else (outputs, inputs),
        down=down,
        up=up,
        scale=_scale(name, rank, form, config, alpha),
        flipped=flipped,
        transposed=transposed,
        alpha=alpha if form == "kohya" else None,
        magnitude=magnitude,
    )


def _scale(
    name: str, rank: int, form: str, config: Mapping[str, Any], alpha: TensorSpec | None
) -> float:
    if form == "mlx-adapter":
        settings = config.get("lora_parameters")
        return _number(settings.get("scale") if isinstance(settings, Mapping) else None, 10.0)
    if form == "kohya":
        return 1.0 / rank if alpha is not None else 1.0
    stated = _by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha"))
    held = _number(stated, float(rank))
    return held / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Any, name: str, otherwise: Any) -> Any:
    """The entry whose key ends the module's name; keys of peft are suffixes, or expressions.

    Expressions of strangers are not run: a key that is none of the name's endings is passed over.
    """
    if isinstance(patterns, Mapping):
        for key, value in patterns.items():
            if isinstance(key, str) and (name == key or name.endswith("." + key.lstrip("^"))):
                return value
    return otherwise


def _number(value: Any, otherwise: float) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else otherwise


def _whole(spec: TensorSpec) -> ByteRange:
    return ByteRange(spec.path, spec.begin, spec.end)
