"""How a sketch is written to the sketch store and read back.

Each block is one array, in the type it was published in; beside a decoded block stands another,
`<block>#step`, with the steps of its grid. What arrays cannot say stands in the file's metadata:
the plan, how the weights were packed, and of each block `shape@start`, `T` when it is stored
transposed, `/n` when only the first n weights of each row are held.
"""

from __future__ import annotations

import re

from ..lineage.errors import MalformedFile
from ..lineage.records import RoleKey
from ..lineage.sketch.sketch import Sketch, SketchBlock
from ..store.sketches import RawArray, SketchStore

_STEP = "#step"
_PACKING = "packing."
_PLACE = re.compile(r"(\d+(?:x\d+)*)?@(\d+)(T?)(?:/(\d+))?")


def sketch_arrays(sketch: Sketch) -> dict[str, RawArray]:
    """The arrays of a sketch file."""
    arrays = {}
    for block in sketch:
        arrays[block.name] = RawArray(block.dtype, (block.count,), block.data)
        if block.step is not None:
            arrays[block.name + _STEP] = RawArray("F32", (len(block.step) // 4,), block.step)
    return arrays


def describe_blocks(sketch: Sketch) -> dict[str, str]:
    """What a sketch file's header has to say beside dtypes: place and shape of each block."""
    described = {"plan": sketch.plan}
    described |= {_PACKING + key: value for key, value in sketch.packing.items()}
    for block in sketch:
        shape = "x".join(map(str, block.shape))
        width = "" if block.width is None else f"/{block.width}"
        described[block.name] = f"{shape}@{block.start}{'T' if block.transposed else ''}{width}"
    return described


def load_sketch(sketches: SketchStore, path: str) -> Sketch:
    """Read a sketch back from the store.

    Raises
    ------
    RegistryError : the file is missing or damaged.
    MalformedFile : a block is not described, or its steps do not fit it.
    """
    arrays, described = sketches.load(path), sketches.metadata(path)
    blocks = {}
    for name, array in arrays.items():
        if name.endswith(_STEP):
            continue
        step = arrays.get(name + _STEP)
        _check_steps(name, array, step, path)
        shape, start, transposed, width = _parse_place(described.get(name, ""), path)
        blocks[name] = SketchBlock(
            key=_parse_key(name),
            shape=shape,
            transposed=transposed,
            start=start,
            count=array.shape[0],
            dtype=array.dtype,
            data=array.data,
            step=None if step is None else step.data,
            width=width,
        )
    packing = {
        key.removeprefix(_PACKING): value
        for key, value in described.items()
        if key.startswith(_PACKING)
    }
    return Sketch(plan=described.get("plan", ""), blocks=blocks, packing=packing)


def _check_steps(name: str, array: RawArray, step: RawArray | None, path: str) -> None:
    if step is None:
        return
    count = step.shape[0]
    if step.dtype != "F32" or not count or array.shape[0] % count:
        raise MalformedFile(f"the steps of {name!r} do not fit its weights", path=path)


def _parse_place(text: str, path: str) -> tuple[tuple[int, ...], int, bool, int | None]:
    found = _PLACE.fullmatch(text)
    if found is None:
        raise MalformedFile(f"a sketch block is described as {text!r}", path=path)
    shape, start, transposed, width = found.groups()
    dims = tuple(int(d) for d in shape.split("x")) if shape else ()
    return dims, int(start), bool(transposed), None if width is None else int(width)


def _parse_key(name: str) -> RoleKey:
    layer, _, role = name.partition(".")
    if layer.isdigit():
        return RoleKey(role=role, layer=int(layer))
    return RoleKey(role=name)
