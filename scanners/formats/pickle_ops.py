"""What a pickle of tensors would build, by walking its opcodes; nothing is imported or called.

The walker knows the opcodes that `torch.save` writes and the few names that it refers to. A name
outside of the allow-list, or an opcode that can only serve to call one, is an `UnsafePickle` that
names it and its place. Strings, counts and the number of opcodes are bounded.

References
----------
CPython `pickletools`; PyTorch `torch/serialization.py` and `torch/_weights_only_unpickler.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ...lineage.errors import LimitExceeded, MalformedFile, TruncatedRead, UnsafePickle
from .pickle_values import (
    DANGEROUS,
    DTYPES,
    FROM_TYPE,
    INERT,
    PARAMETERS,
    REBUILDERS,
    Named,
    Opaque,
    StorageRef,
    TensorRef,
    storage_dtype,
)

MAX_OPCODES = 600_000
MAX_STACK = 200_000


@dataclass(slots=True)
class _Mark:
    """The beginning of a run on the stack."""


class Walker:
    """Walks one pickle.

    Parameters
    ----------
    data : the pickle, and whatever follows it.
    path, offset : where `data` begins, for messages.
    at : where in `data` the pickle begins.
    complete : whether `data` goes on to the end of what is there; if not, a pickle that is cut is
        told by `EndOfData` and more can be read.
    lenient : take names of packages that are not `DANGEROUS` for values of no interest: for files
        that are no weights, as the arguments of a trainer.
    """

    def __init__(
        self,
        data: bytes,
        *,
        path: str,
        offset: int = 0,
        at: int = 0,
        complete: bool = True,
        lenient: bool = False,
    ) -> None:
        self.lenient = lenient
        self.data, self.path, self.offset, self.at = data, path, offset, at
        self.complete = complete
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.began = at

    def walk(self) -> Any:
        """The value that the pickle stands for; `at` is then behind its STOP.

        Raises
        ------
        UnsafePickle : a name or an opcode that no tensors need.
        MalformedFile : the opcodes contradict each other.
        TruncatedRead, EndOfData : the data ends inside the pickle.
        LimitExceeded : more opcodes or a deeper stack than a model needs.
        """
        operations = _OPERATIONS
        for _ in range(MAX_OPCODES):
            self.began = self.at
            code = self._take(1)[0]
            if code == _STOP:
                return self._pop()
            operation = operations.get(code)
            if operation is None:
                self._refuse(code)
            operation(self)
            if len(self.stack) > MAX_STACK:
                self._too_many("pickle stack too deep", MAX_STACK, len(self.stack))
        self._too_many("too many pickle opcodes", MAX_OPCODES, MAX_OPCODES + 1)

    # The stack and the bytes.

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            if not self.complete:
                raise EndOfData
            raise TruncatedRead(
                "the file ends inside a pickle", path=self.path, offset=self.offset + self.at
            )
        begin, self.at = self.at, end
        return self.data[begin:end]

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _pop(self) -> Any:
        if not self.stack:
            self._fail("the pickle takes from an empty stack")
        return self.stack.pop()

    def _to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[at], _Mark):
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        self._fail("the pickle has no mark")

    def _fail(self, message: str) -> NoReturn:
        raise MalformedFile(message, path=self.path, offset=self.offset + self.began)

    def _too_many(self, what: str, limit: int, actual: int) -> NoReturn:
        raise LimitExceeded(
            what, path=self.path, limit=limit, actual=actual, offset=self.offset + self.began
        )

    def _unsafe(self, name: str, opcode: str) -> NoReturn:
        raise UnsafePickle(name, opcode=opcode, path=self.path, offset=self.offset + self.began)

    def _refuse(self, code: int) -> NoReturn:
        if code in _CALLING:
            self._unsafe("a class or an extension", _CALLING[code])
        self._fail(f"opcode {code:#04x} is not one that torch.save writes")

    # Operations.

    def _name(self, module: str, name: str, opcode: str) -> Named:
        full = f"{module}.{name}"
        known = full in REBUILDERS | PARAMETERS | INERT or full == FROM_TYPE
        storage = module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage")
        dtype = module == "torch" and name in DTYPES
        harmless = self.lenient and module.split(".")[0] not in DANGEROUS
        if not known and not storage and not dtype and not harmless:
            self._unsafe(full[:200], opcode)
        return Named(full)

    def global_(self) -> None:
        """GLOBAL: a name in two lines of text."""
        lines = []
        for _ in range(2):
            end = self.data.find(b"\n", self.at, self.at + 512)
            if end < 0:
                if not self.complete and len(self.data) - self.at < 512:
                    raise EndOfData
                self._fail("a name without an end")
            lines.append(self._text(self._take(end + 1 - self.at)[:-1]))
        self.stack.append(self._name(lines[0], lines[1], "GLOBAL"))

    def stack_global(self) -> None:
        """STACK_GLOBAL: a name from two strings."""
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self._fail("a name that is no text")
        self.stack.append(self._name(module, name, "STACK_GLOBAL"))

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._fail("text that is not UTF-8")

    def text(self, size: int) -> None:
        """A string behind its length."""
        self.stack.append(self._text(self._take(self._number(size))))

    def raw(self, size: int) -> None:
        """Bytes behind their length; of no interest but as a storage key of old files."""
        self.stack.append(self._take(self._number(size)).decode("latin-1"))

    def number(self, size: int, *, signed: bool = False) -> None:
        """A whole number of a fixed size."""
        self.stack.append(self._number(size, signed=signed))

    def long(self) -> None:
        """A long number, in at most 255 bytes."""
        self.stack.append(int.from_bytes(self._take(self._number(1)), "little", signed=True))

    def float_(self) -> None:
        """A float; its value is of no interest."""
        self._take(8)
        self.stack.append(Opaque())

    def push(self, value: Callable[[], Any]) -> None:
        """A constant, or a new container."""
        self.stack.append(value())

    def skip(self, size: int) -> None:
        """An opcode whose operand means nothing here: PROTO, FRAME."""
        self._take(size)

    def put(self, size: int) -> None:
        """Remember the top of the stack."""
        self.memo[self._number(size)] = self._top()

    def memoize(self) -> None:
        """Remember the top of the stack under the next number."""
        self.memo[len(self.memo)] = self._top()

    def _top(self) -> Any:
        if not self.stack:
            self._fail("the pickle looks at an empty stack")
        return self.stack[-1]

    def get(self, size: int) -> None:
        """Push what was remembered."""
        at = self._number(size)
        if at not in self.memo:
            self._fail("the pickle asks for what it did not remember")
        self.stack.append(self.memo[at])

    def tuple_(self, size: int) -> None:
        """A tuple of the last few values, or of all behind the mark."""
        if size < 0:
            self.stack.append(tuple(self._to_mark()))
            return
        values = [self._pop() for _ in range(size)]
        self.stack.append(tuple(reversed(values)))

    def list_(self) -> None:
        """A list or dict of all behind the mark."""
        self.stack.append(self._to_mark())

    def dict_(self) -> None:
        """A dict of all behind the mark."""
        values = self._to_mark()
        self.stack.append({})
        self._set(self.stack[-1], values)

    def append(self) -> None:
        """Add one value to a list."""
        value = self._pop()
        self._extend([value])

    def appends(self) -> None:
        """Add all behind the mark to a list."""
        self._extend(self._to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Opaque):
            self._fail("values added to what is no list")

    def setitem(self) -> None:
        """Set one key."""
        value, key = self._pop(), self._pop()
        self._set(self._top(), [key, value])

    def setitems(self) -> None:
        """Set all keys behind the mark."""
        values = self._to_mark()
        self._set(self._top(), values)

    def _set(self, target: Any, values: list[Any]) -> None:
        if len(values) % 2:
            self._fail("a key without a value")
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            self._fail("keys set on what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, str | int):
                target[key] = value

    def pop(self) -> None:
        """Drop the top."""
        self._pop()

    def pop_mark(self) -> None:
        """Drop all behind the mark."""
        self._to_mark()

    def persistent(self) -> None:
        """BINPERSID: a storage."""
        described = self._pop()
        if not isinstance(described, tuple) or len(described) < 5 or described[0] != "storage":
            self._fail("a persistent id that is no storage")
        kind, key, count = described[1], described[2], described[4]
        dtype = storage_dtype(kind)
        if dtype is None or not isinstance(count, int) or count < 0:
            self._fail("a storage that is not described")
        made = StorageRef(key=str(key), dtype=dtype, count=count)
        known = self.storages.setdefault(made.key, made)
        self.stack.append(made if known.dtype != dtype else known)

    def reduce(self) -> None:
        """REDUCE: a tensor where the name rebuilds one, else a value of no interest."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            self._fail("a call of what is no name")
        self.stack.append(self._made(function.name, arguments))

    def _made(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == FROM_TYPE and len(arguments) >= 3 and isinstance(arguments[0], Named):
            inner = arguments[2]
            return self._made(arguments[0].name, inner) if isinstance(inner, tuple) else Opaque()
        if name in PARAMETERS and arguments:
            return arguments[0] if isinstance(arguments[0], TensorRef) else Opaque()
        if name in REBUILDERS:
            return self._tensor(name, arguments)
        if name in ("collections.OrderedDict", "collections.defaultdict"):
            return {}
        return Opaque()

    def _tensor(self, name: str, arguments: tuple[Any, ...]) -> TensorRef | Opaque:
        if len(arguments) < 4 or not isinstance(arguments[0], StorageRef):
            return Opaque()
        storage, offset, shape, stride = arguments[:4]
        numbers = (offset, *shape, *stride) if _are_tuples(shape, stride) else ("",)
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(shape) != len(stride):
            self._fail("a tensor with an odd shape")
        dtype = storage.dtype
        if name.endswith("_v3"):
            last = arguments[6] if len(arguments) > 6 else None
            found = DTYPES.get(last.name.rpartition(".")[2]) if isinstance(last, Named) else None
            if found is None:
                return Opaque()
            dtype = found
        return TensorRef(
            storage=storage, offset=offset, shape=tuple(shape), stride=tuple(stride), dtype=dtype
        )

    def build(self) -> None:
        """BUILD: a state that is set; of no interest."""
        self._pop()
        self._top()

    def newobj(self) -> None:
        """NEWOBJ: an object of a class that was named; of no interest."""
        self._pop()
        if not isinstance(self._pop(), Named):
            self._fail("an object of what is no class")
        self.stack.append(Opaque())


class EndOfData(Exception):
    """The bytes at hand end inside of a pickle, and there are more."""


def _are_tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple | list) for value in values)


_STOP = ord(".")
_CALLING: Mapping[int, str] = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    ord("P"): "PERSID",
}
_OPERATIONS: dict[int, Callable[[Walker], None]] = {
    0x80: lambda w: w.skip(1),
    0x95: lambda w: w.skip(8),
    ord("c"): Walker.global_,
    0x93: Walker.stack_global,
    ord("X"): lambda w: w.text(4),
    0x8C: lambda w: w.text(1),
    0x8D: lambda w: w.text(8),
    ord("U"): lambda w: w.raw(1),
    ord("T"): lambda w: w.raw(4),
    ord("C"): lambda w: w.raw(1),
    ord("B"): lambda w: w.raw(4),
    ord("J"): lambda w: w.number(4, signed=True),
    ord("K"): lambda w: w.number(1),
    ord("M"): lambda w: w.number(2),
    0x8A: Walker.long,
    ord("G"): Walker.float_,
    ord("N"): lambda w: w.push(lambda: None),
    0x88: lambda w: w.push(lambda: True),
    0x89: lambda w: w.push(lambda: False),
    ord("("): lambda w: w.push(_Mark),
    ord(")"): lambda w: w.push(tuple),
    ord("]"): lambda w: w.push(list),
    ord("}"): lambda w: w.push(dict),
    0x8F: lambda w: w.push(list),
    0x90: Walker.appends,
    ord("q"): lambda w: w.put(1),
    ord("r"): lambda w: w.put(4),
    0x94: Walker.memoize,
    ord("h"): lambda w: w.get(1),
    ord("j"): lambda w: w.get(4),
    ord("t"): lambda w: w.tuple_(-1),
    0x85: lambda w: w.tuple_(1),
    0x86: lambda w: w.tuple_(2),
    0x87: lambda w: w.tuple_(3),
    ord("l"): Walker.list_,
    ord("d"): Walker.dict_,
    ord("a"): Walker.append,
    ord("e"): Walker.appends,
    ord("s"): Walker.setitem,
    ord("u"): Walker.setitems,
    ord("0"): Walker.pop,
    ord("1"): Walker.pop_mark,
    ord("Q"): Walker.persistent,
    ord("R"): Walker.reduce,
    ord("b"): Walker.build,
    0x81: Walker.newobj,
}
