"""`doctor`: whether this machine, the token and the store are fit for work."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from .. import __version__
from ..lineage.errors import ModelkinError, RegistryBusy, RegistryError
from ..store import Registry, scan_lock
from ..store.migrate import known_migrations
from . import options
from .output import emit, emit_ids, say

OK, WARN, FAIL = "ok", "warn", "fail"
REQUIRED = ("duckdb", "numpy", "safetensors", "huggingface_hub", "aiohttp", "torch", "transformers")
LITTLE_DISK = 5 << 30
NO_DISK = 100 << 20
COLUMNS = ("check", "state", "found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: `ok`, `warn` (works, but) or `fail`, with what was found."""

    check: str
    state: str
    found: str


@click.command("doctor")
@click.option("--gpu", is_flag=True, help="Import torch and look for a GPU (takes seconds).")
@click.option("--online", is_flag=True, help="Ask the endpoint for one model, without the token.")
@options.endpoint
@options.data
@click.pass_context
def doctor_command(
    ctx: click.Context,
    *,
    gpu: bool,
    online: bool,
    endpoint: str,
    store: Path,
    output_format: str,
    quiet: bool,
) -> None:
    """Check versions, token, disk, GPU and the store; exit 2 when something fails.

    Nothing is sent anywhere without --online, and the token is never shown. -q writes the names
    of the checks that are not ok.
    """
    checks = [*check_parts(), *check_token(), *check_disk(store), *check_store(store)]
    checks += [*(check_gpu() if gpu else ()), *(check_endpoint(endpoint) if online else ())]
    bad = [one for one in checks if one.state != OK]
    if quiet:
        emit_ids([one.check for one in bad])
    else:
        emit([asdict(one) for one in checks], output_format=output_format, columns=COLUMNS)
    failed = sum(one.state == FAIL for one in checks)
    say(f"{len(checks) - len(bad)} ok, {len(bad) - failed} warnings, {failed} failures")
    ctx.exit(2 if failed else 0)


def check_parts() -> Iterator[Check]:
    """Versions of Python, modelkin and what it stands on, read without importing them."""
    state = OK if sys.version_info >= (3, 11) else FAIL
    yield Check(check="python", state=state, found=platform.python_version())
    yield Check(check="modelkin", state=OK, found=__version__)
    for name in REQUIRED:
        try:
            yield Check(check=name, state=OK, found=version(name))
        except PackageNotFoundError:
            yield Check(check=name, state=FAIL, found="not installed")


def check_token() -> Iterator[Check]:
    """Whether a Hugging Face token is there; never what it is."""
    from huggingface_hub import get_token

    if get_token() is None:
        found = "absent: open models only, and a lower rate limit; set HF_TOKEN or run `hf auth`"
        yield Check(check="token", state=WARN, found=found)
        return
    place = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token file"
    yield Check(check="token", state=OK, found=f"present, from {place}")


def check_disk(store: Path) -> Iterator[Check]:
    """Free space where the store is, or will be, and whether it can be written to."""
    place = next(p for p in (store.absolute(), *store.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    state = OK if free >= LITTLE_DISK else WARN if free >= NO_DISK else FAIL
    yield Check(check="disk", state=state, found=f"{free / 2**30:.1f} GiB free at {place}")
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".modelkin-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{place}: {error.strerror or error}"
        yield Check(check="write", state=FAIL, found=found)
    else:
        yield Check(check="write", state=OK, found=str(place))


def check_store(store: Path) -> Iterator[Check]:
    """Whether the store opens, at which schema, and whether a scan is writing to it."""
    if not store.exists():
        found = f"none at {store} yet: `modelkin scan` or `modelkin map` makes one"
        yield Check(check="store", state=WARN, found=found)
        return
    try:
        with Registry.open(store, read_only=True) as registry:
            schema = known_migrations()[-1].version
            found = f"{registry.opened}, schema {schema}, {registry.status().models:,} models"
        yield Check(check="store", state=OK, found=found)
    except RegistryBusy:
        found = "another process writes to it and there is no published copy: look-ups wait"
        yield Check(check="store", state=WARN, found=found)
    except RegistryError as error:
        yield Check(check="store", state=FAIL, found=str(error))
        return
    yield _check_lock(store)


def check_gpu() -> Iterator[Check]:
    """What torch sees, and how long it took to import."""
    began = time.monotonic()
    import torch

    took = f"torch imported in {time.monotonic() - began:.1f} s"
    if not torch.cuda.is_available():
        yield Check(check="gpu", state=WARN, found=f"none: dense work runs on the CPU; {took}")
        return
    for at in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(at)
        found = f"{known.name}, {known.total_memory / 2**30:.0f} GiB; {took}"
        yield Check(check=f"gpu {at}", state=OK, found=found)


def check_endpoint(endpoint: str) -> Iterator[Check]:
    """Whether the endpoint answers a listing of one model."""
    from ..scanners.bytes import Traffic
    from ..scanners.sources.base import ListingFilter
    from ..scanners.sources.hub import HubSource
    from ..scanners.sources.retry import RetryPolicy

    began = time.monotonic()
    try:
        source = HubSource(
            endpoint=endpoint, token=None, retry=RetryPolicy(attempts=1), page_size=1
        )
        try:
            next(iter(source.pages(narrow=ListingFilter(), traffic=Traffic())), None)
        finally:
            asyncio.run(source.close())
    except ModelkinError as error:
        yield Check(check="endpoint", state=FAIL, found=str(error))
        return
    seconds = time.monotonic() - began
    yield Check(check="endpoint", state=OK, found=f"{source.endpoint} answered in {seconds:.2f} s")


def _check_lock(store: Path) -> Check:
    try:
        with scan_lock(store):
            return Check(check="scan lock", state=OK, found="free")
    except RegistryBusy as error:
        return Check(check="scan lock", state=WARN, found=str(error))
    except RegistryError as error:
        return Check(check="scan lock", state=FAIL, found=str(error))
