"""Progress of a scan on stderr: a live line on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..lineage.records import Coverage, Outcome
from .output import safe, say

WORDS = {
    "list": "listing",
    "read": "reading cards and weights",
    "infer": "inferring parents",
    "probe": "probing",
}
QUIET = frozenset({Outcome.OK, Outcome.UNCHANGED, Outcome.SKIPPED})


class Watch:
    """A `scanners.progress.Progress` that shows models, bytes, rate and time left."""

    def __init__(self, console: Console) -> None:
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._terminal = console.is_terminal
        self._task: TaskID | None = None
        self._name = ""
        self._count = 0
        self._bytes = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_stage()
        self._live.stop()

    def stage(self, name: str, total: int | None) -> None:
        """Begin a stage."""
        self._end_stage()
        self._name, self._count, self._bytes = name, 0, 0
        self._began = time.monotonic()
        self._task = self._live.add_task(WORDS.get(name, name), total=total, note="")

    def listed(self, models: int) -> None:
        """Count listed models."""
        self._advance(models)

    def step(self, label: str) -> None:
        """Count a step."""
        self._advance(1)

    def visited(self, coverage: Coverage) -> None:
        """Count a visit; one that failed is told at once, with the reason."""
        self._bytes += coverage.bytes_read
        self._advance(1)
        if coverage.outcome not in QUIET:
            text = f"{coverage.model}: {coverage.outcome} ({coverage.stage}): {coverage.reason}"
            if self._terminal:
                self._live.console.print(safe(text))
            else:
                say(text)

    def _advance(self, by: int) -> None:
        self._count += by
        if self._task is not None:
            self._live.update(self._task, advance=by, note=self._note())

    def _note(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = f"{self._count / seconds:,.1f}/s"
        return f"{_size(self._bytes)} {rate}" if self._bytes else rate

    def _end_stage(self) -> None:
        if self._task is None:
            return
        seconds = time.monotonic() - self._began
        self._live.remove_task(self._task)
        self._task = None
        read = f", {_size(self._bytes)}" if self._bytes else ""
        say(f"{WORDS.get(self._name, self._name)}: {self._count:,}{read} in {seconds:.1f} s")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{count} B"
