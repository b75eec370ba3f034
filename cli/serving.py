"""`serve`: the explorer on a port, or written out as files."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..lineage.errors import ModelkinError
from . import options
from .output import say

if TYPE_CHECKING:
    from .explorer.library import Library

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0 for any free one.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Another name that the server goes by, behind a proxy. Can be repeated.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=50.0,
    show_default=True,
    help="Requests a second that one client may make for long; 0 for no limit.",
)
@click.option(
    "--sql-workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="SQL queries at once; each may take 2 GiB of memory.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the pages as files for any file host into DIR, and end.",
)
@click.option(
    "--export-models",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Models that get pages in an export, those with most descendants first.",
)
@options.store
def serve_command(
    *,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    rate: float,
    sql_workers: int,
    export: Path | None,
    export_models: int,
    store: Path,
) -> None:
    """Serve the explorer: pages, a JSON API and sandboxed SQL.

    It works on a copy of the store's published state, so a scan can run meanwhile; a newer state is
    shown within seconds.
    """
    from .explorer.library import Library

    with tempfile.TemporaryDirectory(prefix="modelkin-serve-") as room:
        library = Library(store, room=Path(room))
        try:
            if export is not None:
                from .explorer.export import export_site

                count = export_site(library, export, models=export_models)
                say(f"{count:,} files in {export}")
                return
            with library.shelf() as shelf:
                say(f"serving {store}: {shelf.reader.status().models:,} models")
            _serve(library, host=host, port=port, hosts=hosts, rate=rate, workers=sql_workers)
        finally:
            library.close()


def _serve(
    library: Library, *, host: str, port: int, hosts: tuple[str, ...], rate: float, workers: int
) -> None:
    import uvicorn

    from .explorer.app import make_app
    from .explorer.guard import LONGEST_ADDRESS, Buckets

    known = (*LOOPBACK, *hosts) if host in LOOPBACK else hosts
    buckets = Buckets(rate=rate, burst=max(1.0, 4 * rate))
    app = make_app(
        library, buckets=buckets, hosts=known, sql_workers=workers, sql_waiting=4 * workers
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=LONGEST_ADDRESS,
        limit_concurrency=500,
        timeout_graceful_shutdown=5,
    )
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{listener.getsockname()[1]}/ - Ctrl+C ends it")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ModelkinError(f"cannot listen on {host} port {port}: {error.strerror}") from error
