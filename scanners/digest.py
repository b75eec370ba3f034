"""One digest a night, in Markdown and as an Atom feed: what a person reads in the morning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from xml.etree import ElementTree

from ..store.facts import Event, Publication, Queue

MOST_LINES = 20
MOST_ENTRIES = 30
_ATOM = "http://www.w3.org/2005/Atom"
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~])")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_TITLES = {
    "finding.new": "New findings",
    "finding.fixed": "Findings that are no longer found",
    "edge.added": "New parents",
    "edge.removed": "Parents no longer believed",
    "edge.changed": "Parents believed otherwise",
    "repo.moved": "Renamed",
    "repo.removed": "Gone",
    "repo.returned": "Back again",
    "repo.gated": "Gates that opened or closed",
    "repo.rewound": "Set back to an earlier commit",
}


def write_digest(
    *,
    scan: int,
    events: Sequence[Event],
    outcomes: Mapping[str, int],
    listed: int,
    publication: Publication | None,
    queue: Queue,
    now: datetime,
) -> str:
    """The digest of a night in Markdown; text from repositories cannot form markup in it."""
    lines = [f"# modelkin, scan {scan}: {now:%Y-%m-%d}", ""]
    lines += [_published(publication), ""]
    visited = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(outcomes.items()))
    lines += [f"- listed: {listed:,} models", f"- visited: {visited or 'none'}"]
    lines += [
        f"- still to be read: {queue.waiting:,} now, {queue.cooling:,} after a pause, "
        f"{queue.disabled:,} given up until they change",
    ]
    if any(event.baseline for event in events):
        lines += ["- first scan: what it found is the baseline, and no news"]
    grouped: dict[str, list[Event]] = {}
    for event in events:
        if event.kind in _TITLES:
            grouped.setdefault(event.kind, []).append(event)
    for kind, title in _TITLES.items():
        lines += _section(title, grouped.get(kind, []))
    return "\n".join(lines) + "\n"


def digest_body(
    *, scan: int, events: Sequence[Event], publication: Publication | None, queue: Queue
) -> dict[str, object]:
    """The digest as the body of an event: counts, and the gravest findings by name."""
    kinds = Counter(event.kind for event in events if event.kind in _TITLES)
    new = [event for event in events if event.kind == "finding.new"]
    return {
        "counts": dict(sorted(kinds.items())),
        "findings": [
            {"id": e.subject, "severity": e.severity, **_short(e.body)} for e in new[:MOST_LINES]
        ],
        "published": publication is not None and publication.status == "published",
        "reasons": list(publication.reasons[:MOST_LINES]) if publication is not None else [],
        "backlog": queue.waiting,
        "baseline": any(event.baseline for event in events),
        "snapshot": scan,
    }


def add_to_feed(feed: bytes | None, *, scan: int, digest: str, now: datetime) -> bytes:
    """The Atom feed with this night in front, thirty nights at the most.

    Parameters
    ----------
    feed : the feed so far; a damaged one is begun anew.
    """
    ElementTree.register_namespace("", _ATOM)
    root = _feed_root(now)
    entry = ElementTree.SubElement(root, f"{{{_ATOM}}}entry")
    name = f"urn:modelkin:scan:{scan}"
    for tag, text in (
        ("id", name),
        ("title", f"Scan {scan}"),
        ("updated", now.isoformat()),
        ("content", "\n".join(_UNSEEN.sub("", line) for line in digest.split("\n"))),
    ):
        ElementTree.SubElement(entry, f"{{{_ATOM}}}{tag}").text = text
    older = [e for e in _entries(feed) if e.findtext(f"{{{_ATOM}}}id") != name]
    root.extend(older[: MOST_ENTRIES - 1])
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _feed_root(now: datetime) -> ElementTree.Element:
    root = ElementTree.Element(f"{{{_ATOM}}}feed")
    for tag, text in (
        ("id", "urn:modelkin:scans"),
        ("title", "modelkin: what changed"),
        ("updated", now.isoformat()),
    ):
        ElementTree.SubElement(root, f"{{{_ATOM}}}{tag}").text = text
    author = ElementTree.SubElement(root, f"{{{_ATOM}}}author")
    ElementTree.SubElement(author, f"{{{_ATOM}}}name").text = "modelkin"
    return root


def _entries(feed: bytes | None) -> list[ElementTree.Element]:
    if feed is None:
        return []
    try:
        return ElementTree.fromstring(feed).findall(f"{{{_ATOM}}}entry")
    except ElementTree.ParseError:
        return []


def _published(publication: Publication | None) -> str:
    if publication is None:
        return "No snapshot was written."
    if publication.status == "blocked":
        reasons = "; ".join(map(_plain, publication.reasons))
        return f"**Not published**, the snapshot before it stays current: {reasons}."
    if publication.accepted is not None:
        reasons = "; ".join(map(_plain, publication.reasons))
        return f"Published by decision ({_plain(publication.accepted)}) although: {reasons}."
    return f"Published as snapshot {publication.scan}."


def _section(title: str, events: Sequence[Event]) -> list[str]:
    if not events:
        return []
    lines = ["", f"## {title}: {len(events):,}", ""]
    lines += [f"- {_line(event)}" for event in events[:MOST_LINES]]
    left = len(events) - MOST_LINES
    return [*lines, f"- and {left:,} more"] if left > 0 else lines


def _line(event: Event) -> str:
    body = event.body
    if "finding" in body:
        against = f" against {_plain(body['ancestor'])}" if body.get("ancestor") else ""
        what = _plain(str(body["finding"]).replace("_", " "))
        return f"{event.severity}: {what}, {_plain(body.get('model'))}{against}"
    before, after = body.get("before"), body.get("after")
    if before is None and after is None:
        return _plain(event.subject)
    return f"{_plain(event.subject)}: {_plain(before)} → {_plain(after)}"


def _short(body: Mapping[str, object]) -> dict[str, object]:
    return {key: body.get(key) for key in ("finding", "model", "ancestor")}


def _plain(value: object) -> str:
    """Text that cannot form markup, a link or an invisible character."""
    text = "none" if value is None else _UNSEEN.sub("", str(value))[:300]
    return _MARKUP.sub(r"\\\1", text)
