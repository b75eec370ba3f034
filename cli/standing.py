"""What a store holds and what is still to do: the inside of `status`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..lineage.sketch.plan import PLAN_VERSION
from ..store.facts import OutcomeCount, ScanState, Status
from ..store.ledger import Ledger
from .output import clean

DEFAULT_STORE = Path("modelkin-store")
DEFAULT_ENDPOINT = "https://huggingface.co"
COUNTS = {
    "models": "listed and live",
    "named_only": "known from cards alone",
    "hidden": "inferred, unpublished",
    "tombstones": "gone from their source",
    "sketched": "with weights that can be compared",
    "inferred_edges": "that weights name",
    "declared_edges": "that cards name",
    "open_findings": "new or open",
    "backlog": "live, and not yet visited at their current commit",
}


def as_mapping(found: Status, *, store: Path) -> dict[str, Any]:
    """The JSON shape: counts, the last scan with its outcomes, unfinished scans with `resume`."""
    last = None if found.last_scan is None else asdict(found.last_scan)
    outcomes = [asdict(one) for one in found.outcomes]
    unfinished = [
        {**asdict(scan), "resume": resume_command(scan, store=store)} for scan in found.unfinished
    ]
    counts = {name: getattr(found, name) for name in COUNTS}
    return {"last_scan": last, "outcomes": outcomes, "unfinished": unfinished, **counts}


def as_rows(found: Status, *, most: int | None = None) -> list[dict[str, Any]]:
    """Flat rows `what`, `value`, `note`; at most so many reasons for outcomes."""
    rows = [*_last(found.last_scan), *_outcomes(found.outcomes, most=most)]
    rows += [_row(f"unfinished scan {s.scan}", s.visited, _about(s)) for s in found.unfinished]
    rows += [
        _row(name.replace("_", " "), getattr(found, name), note) for name, note in COUNTS.items()
    ]
    return rows


def nightly_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """What the scan of every night has still to do, and what became of its last snapshot."""
    queue = ledger.queue(source="hub", plan=PLAN_VERSION, now=datetime.now(UTC))
    rows = [
        _row("waiting", queue.waiting, "want a visit now"),
        _row("cooling", queue.cooling, "visited or failed lately"),
        _row("given up", queue.disabled, "failed three times; a new commit brings them back"),
        _row("undelivered", ledger.undelivered(), "notifications on their way"),
    ]
    for last in ledger.publications()[:1]:
        about = "; ".join(last.reasons) or f"{last.judged_at:%Y-%m-%d %H:%M} UTC"
        rows.append(_row(f"snapshot {last.status}", last.scan, about))
    return rows


def as_values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as one mapping from what to value."""
    return {row["what"]: row["value"] for row in rows}


def resume_command(scan: ScanState, *, store: Path) -> str:
    """The command line that goes on with a scan.

    A folder that the scan does not name stands there as PATH.
    """
    spec = scan.parameters.get("source")
    known = spec if isinstance(spec, str) else scan.source
    match scan.kind:
        case "map":
            words = ["map", scan.target or "RELEASE"]
            if scan.source == "dir":
                words += ["--source", known if known.startswith("dir:") else "dir:PATH"]
            words.append("--resume")
        case "scan":
            words = ["scan", scan.source]
            if scan.source == "dir":
                words.append(known.removeprefix("dir:") if known.startswith("dir:") else "PATH")
            words.append("--resume")
        case "nightly":
            return "modelkin nightly"
        case _:
            words = [scan.kind]
    words += _narrowed(scan)
    if store != DEFAULT_STORE:
        words += ["--store", str(store)]
    return " ".join(["modelkin", *(shlex.quote(clean(word)) for word in words)])


def _narrowed(scan: ScanState) -> Iterator[str]:
    """The options that a scan was begun with: a resume repeats them."""
    if scan.kind not in ("map", "scan"):
        return
    for name in ("endpoint", "author", "search"):
        value = scan.parameters.get(name)
        if isinstance(value, str) and value != DEFAULT_ENDPOINT:
            yield from (f"--{name}", value)
    tags = scan.parameters.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        yield from ("--filter", str(tag))


def _last(scan: ScanState | None) -> Iterator[dict[str, Any]]:
    if scan is None:
        yield _row("last scan", None, "none yet")
        return
    yield _row("last scan", scan.scan, _about(scan))
    yield _row("listed", scan.listed, "models that the last scan's listing named")
    yield _row("visited", scan.visited, "of them")


def _outcomes(outcomes: tuple[OutcomeCount, ...], *, most: int | None) -> Iterator[dict[str, Any]]:
    for one in outcomes[:most]:
        yield _row(f"  {one.outcome}", one.models, one.reason or "")
    left = outcomes[len(outcomes[:most]) :]
    if left:
        models = sum(one.models for one in left)
        yield _row("  other", models, f"{len(left):,} more outcomes and reasons")


def _about(scan: ScanState) -> str:
    what = f"{scan.kind} of {scan.target}" if scan.target else scan.kind
    began = f"{scan.started_at:%Y-%m-%d %H:%M} UTC"
    until = "" if scan.finished_at is None else f" to {scan.finished_at:%Y-%m-%d %H:%M}"
    return f"{what} from {scan.source}, {scan.status}, {began}{until}"


def _row(what: str, value: int | None, note: str) -> dict[str, Any]:
    return {"what": what, "value": value, "note": note}
