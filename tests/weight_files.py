"""Files in memory, and spans read out of them."""

from __future__ import annotations

from modelkin.scanners.formats.base import Decoded, Weight

BUDGET = 500_000


class MemoryBytes:
    """A file in memory (a `ByteSource`) that counts what is read."""

    def __init__(self, data: bytes, path: str = "m.gguf") -> None:
        self.data, self.path, self.size = data, path, len(data)
        self.reads: list[tuple[int, int]] = []

    async def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end)."""
        assert 0 <= begin <= end <= self.size
        self.reads.append((begin, end))
        return self.data[begin:end]


def span(weight: Weight, data: bytes, start: int, count: int) -> Decoded:
    """A span of a weight that lies in one file."""
    located = weight.locate(start, count, budget=BUDGET)
    assert located is not None
    return located.decode([data[r.begin : r.end] for r in located.ranges])
