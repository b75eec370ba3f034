"""`notify test|send|replay`: try a receiver, deliver what is due, deliver again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import click

from ..scanners.notifying import Receiver
from ..store import Registry
from ..store.lock import scan_lock
from .interrupts import Interrupts
from .listening import HintServer
from .nightly import config_option, courier, read_config
from .opening import utc_now
from .output import say

receiver_option = click.option("--receiver", metavar="NAME", help="Only this receiver.")


@click.group("notify")
def notify_command() -> None:
    """Webhooks of the configuration: test them, deliver what is due, deliver again."""


@notify_command.command("test")
@config_option
@receiver_option
@click.pass_context
def test_command(ctx: click.Context, *, config_path: Path, receiver: str | None) -> None:
    """Send a signed test event now; exit 2 when a receiver does not take it."""
    config = read_config(config_path)
    chosen = _chosen(config.receivers, receiver)
    with scan_lock(config.store), Registry.open(config.store, create=True) as registry:
        sender, now = courier(registry, Interrupts()), utc_now()
        ledger = registry.ledger()
        subject = f"test {now.isoformat()}"
        ledger.add_events([("test", subject, "info", {"sent": now.isoformat()})], scan=0, now=now)
        (event,) = [e for e in ledger.events(since=0, until=0) if e.subject == subject]
        for one in chosen:
            ledger.enqueue([event.event_id], receiver=one.name, now=now)
        ends = sender.deliver(chosen)
    say(_said(ends))
    ctx.exit(0 if ends.get("delivered", 0) >= len(chosen) else 2)


@notify_command.command("send")
@config_option
def send_command(*, config_path: Path) -> None:
    """Deliver what is due: further attempts at what a receiver did not take."""
    config = read_config(config_path)
    with scan_lock(config.store), Registry.open(config.store) as registry:
        say(_said(courier(registry, Interrupts()).deliver(config.receivers)))


@notify_command.command("replay")
@config_option
@receiver_option
@click.option("--since", type=click.IntRange(min=1), required=True, help="From this scan on.")
def replay_command(*, config_path: Path, receiver: str | None, since: int) -> None:
    """Deliver the events of past scans again, with the ids that they had."""
    config = read_config(config_path)
    chosen = _chosen(config.receivers, receiver)
    with scan_lock(config.store), Registry.open(config.store) as registry:
        ledger, now = registry.ledger(), utc_now()
        events = ledger.events(since=since)
        for one in chosen:
            wanted = [event.event_id for event in events if one.wants(event)]
            ledger.enqueue(wanted, receiver=one.name, again=True, now=now)
        say(_said(courier(registry, Interrupts()).deliver(chosen)))


@notify_command.command("listen")
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8096, show_default=True)
def listen_command(*, config_path: Path, host: str, port: int) -> None:
    """Take the Hub's own webhooks as hints for the next night, until a signal comes."""
    config = read_config(config_path)
    if config.webhook_secret is None:
        raise click.UsageError("[hub] webhook_secret is not set")
    interrupts = Interrupts()
    address = (host, port)
    with (
        interrupts.watching(),
        HintServer(address, store=config.store, secret=config.webhook_secret) as server,
    ):
        say(f"listening at http://{host}:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        while not interrupts.stopped():
            time.sleep(0.2)
        server.shutdown()
        thread.join()


def _chosen(receivers: tuple[Receiver, ...], name: str | None) -> tuple[Receiver, ...]:
    chosen = tuple(r for r in receivers if name is None or r.name == name)
    if not chosen:
        known = ", ".join(r.name for r in receivers) or "none"
        raise click.UsageError(f"no such receiver; the configuration has {known}")
    return chosen


def _said(ends: dict[str, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in sorted(ends.items())) or "nothing is due"
