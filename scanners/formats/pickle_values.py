"""What a pickle of tensors may name, and the values that come of it: references, never objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...lineage.errors import LimitExceeded

MAX_TENSORS = 200_000
MAX_DEPTH = 16

REBUILDERS = frozenset(
    {
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v3",
    }
)
PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
INERT = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch.nn.parameter.Parameter",
        "argparse.Namespace",
        "datetime.datetime",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "builtins.set",
        "__builtin__.set",
    }
)
"""Names that only make values: what comes of them is of no interest and is not built."""

DANGEROUS = frozenset(
    {"os", "posix", "nt", "posixpath", "subprocess", "sys", "builtins", "__builtin__", "shutil"}
    | {"socket", "runpy", "importlib", "imp", "pty", "commands", "popen2", "webbrowser"}
    | {"ctypes", "_ctypes", "code", "codeop", "pdb", "bdb", "timeit", "pip", "ensurepip"}
    | {"multiprocessing", "threading", "_thread", "asyncio", "signal", "platform", "operator"}
    | {"functools", "types", "marshal", "pickle", "_pickle", "dill", "cloudpickle", "joblib"}
    | {"urllib", "http", "httplib", "requests", "aiohttp", "ftplib", "smtplib", "tempfile"}
    | {"pathlib", "io", "_io", "glob", "fileinput", "zipimport", "pkgutil", "pydoc", "doctest"}
    | {"cProfile", "profile", "trace", "venv", "uuid", "lib2to3", "distutils", "setuptools"}
    | {"logging", "configparser", "sqlite3", "cffi", "gc", "inspect", "atexit", "resource"}
)
"""Packages that can run, load, fetch or write something; tensors need none of them."""

STORAGE_TYPES: Mapping[str, str] = {
    **{"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64"},
    **{"Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"},
    **{"ComplexFloat": "C64", "Untyped": "U8", "": "U8"},
}
DTYPES: Mapping[str, str] = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
    **{"bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"uint16": "U16", "uint32": "U32", "uint64": "U64"},
}


@dataclass(frozen=True, slots=True)
class Named:
    """A name that the pickle refers to; never resolved."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value of no interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRef:
    """A storage by its key: `dtype` of its elements and how many there are."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRef:
    """A tensor: elements of a storage from `offset`, with shape and stride."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


def storage_dtype(kind: Any) -> str | None:
    """The element type of a storage class that a pickle names; None for any other name."""
    if not isinstance(kind, Named):
        return None
    return STORAGE_TYPES.get(kind.name.rpartition(".")[2].removesuffix("Storage"))


def flatten(value: Any, *, path: str) -> dict[str, TensorRef]:
    """Tensors by their dotted names, however they are nested; what refers to itself ends.

    Raises
    ------
    LimitExceeded : more than 200,000 tensors.
    """
    found: dict[str, TensorRef] = {}
    for at, (name, tensor) in enumerate(_tensors(value, "", 0)):
        if at >= MAX_TENSORS:
            raise LimitExceeded("too many tensors", path=path, limit=MAX_TENSORS, actual=at + 1)
        if tensor is not None:
            found[name] = tensor
    return found


def _tensors(value: Any, name: str, depth: int) -> Iterator[tuple[str, TensorRef | None]]:
    """Tensors below a value, and None for each other value, so that all of them are counted."""
    if isinstance(value, TensorRef):
        yield name, value
        return
    yield name, None
    if depth >= MAX_DEPTH:
        return
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list | tuple):
        items = iter(enumerate(value))
    else:
        return
    for key, inner in items:
        yield from _tensors(inner, f"{name}.{key}" if name else str(key), depth + 1)
