"""What commands wire together: the store, the source, the clock. Reads the environment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from ..scanners.sources.base import Source
from .interrupts import Interrupts


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def origin(spec: str, *, endpoint: str) -> dict[str, str]:
    """What tells one source from another of its kind, to be stored with a scan."""
    return {"source": spec, "endpoint": endpoint} if spec == "hub" else {"source": spec}


@contextmanager
def open_source(spec: str, *, endpoint: str, interrupts: Interrupts) -> Iterator[Source]:
    """A source by its name on the command line, `hub` or `dir:PATH`, closed after the block.

    The token comes from HF_TOKEN or the Hugging Face token file and goes to the endpoint only.
    """
    source = _source(spec, endpoint=endpoint, interrupts=interrupts)
    try:
        yield source
    finally:
        asyncio.run(source.close())


def _source(spec: str, *, endpoint: str, interrupts: Interrupts) -> Source:
    if spec == "hub":
        from huggingface_hub import get_token

        from ..scanners.sources.hub import HubSource
        from ..scanners.sources.retry import RetryPolicy

        retry = RetryPolicy(sleep=interrupts.sleep, sleep_async=interrupts.sleep_async)
        return HubSource(endpoint=endpoint, token=get_token(), retry=retry)
    if spec == "dir:":
        raise click.UsageError("name the folder: dir:PATH")
    if spec.startswith("dir:") and Path(spec.removeprefix("dir:")).is_dir():
        from ..scanners.sources.folder import FolderSource

        return FolderSource(Path(spec.removeprefix("dir:")))
    if spec.startswith("dir:"):
        raise click.UsageError(f"{spec.removeprefix('dir:')!r} is not a folder")
    raise click.UsageError(f"a source is 'hub' or 'dir:PATH', not {spec!r}")
