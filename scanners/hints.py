"""Webhooks of the Hub taken as hints: they say what to look at first, the listing what is true.

A hint is a file in the store's `hints` folder, because a night may hold the store when it comes;
the next night describes the hinted models before it visits, and forgets the hints.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ..lineage.errors import (
    AccessDenied,
    LimitExceeded,
    MalformedFile,
    ModelNotFound,
    RegistryError,
    TransientError,
    UnsafeRequest,
)
from ..lineage.records import Coverage, Outcome
from ..store.durable import write_whole
from ..store.facts import Visit
from ..store.registry import Registry
from .bounded_json import parse_json_object
from .limits import Meter
from .sources.base import Source
from .sources.names import is_model_id

LARGEST = 256 * 1024
MOST = 10_000
FOLDER = "hints"


def receive_hint(store: Path, body: bytes, *, given: str | None, secret: str) -> str | None:
    """Check a delivery of the Hub and keep the model that it names.

    Parameters
    ----------
    body : as received.
    given : the header `X-Webhook-Secret`.
    secret : what the webhook was made with.

    Returns
    -------
    The model's name, or None when the delivery is about something else.

    Raises
    ------
    AccessDenied : the secret is missing or wrong.
    LimitExceeded, MalformedFile : too large, or no such payload.
    RegistryError : the disk refused, or too many hints wait already.
    """
    if not secret or not hmac.compare_digest((given or "").encode(), secret.encode()):
        raise AccessDenied("the webhook secret is wrong", model="", reason="unauthorized")
    if len(body) > LARGEST:
        raise LimitExceeded("too large", path="webhook", limit=LARGEST, actual=len(body))
    name = _model_of(parse_json_object(body, path="webhook"))
    if name is None:
        return None
    folder = store / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if sum(1 for _ in folder.glob("*.json")) >= MOST:
            raise RegistryError(f"{MOST:,} hints wait already: run `modelkin nightly`")
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        write_whole(folder / f"{key}.json", json.dumps({"model": name}).encode())
    except OSError as error:
        raise RegistryError(f"cannot keep a hint in {folder}: {error.strerror}") from error
    return name


def take_hints(store: Path) -> dict[str, Path]:
    """Models that were hinted at, and the file of each; damaged files are dropped."""
    found: dict[str, Path] = {}
    for path in sorted((store / FOLDER).glob("*.json"))[:MOST]:
        try:
            name = json.loads(path.read_bytes()[:LARGEST])["model"]
        except (OSError, ValueError, KeyError, TypeError):
            name = None
        if isinstance(name, str) and is_model_id(name):
            found[name] = path
        else:
            path.unlink(missing_ok=True)
    return found


def follow_hints(
    registry: Registry, source: Source, *, scan: int, meter: Meter, now: datetime
) -> None:
    """Describe the models that were hinted at: the listing may not have them yet.

    Raises
    ------
    Interrupted : the run was asked to stop; the hints stay.
    """
    visits, followed = [], []
    for name, path in take_hints(registry.path).items():
        meter.go_on()
        try:
            info = source.info(name, traffic=meter.traffic)
        except TransientError:
            continue
        except (ModelNotFound, AccessDenied, UnsafeRequest):
            # What is gone is for the next full sweep to find, by its own rules.
            followed.append(path)
            continue
        followed.append(path)
        listed = Coverage(model=info.name, outcome=Outcome.UNCHANGED, stage="list")
        visits.append(Visit(coverage=listed, info=info))
    registry.record_visits(scan, visits, now=now)
    for path in followed:
        path.unlink(missing_ok=True)


def _model_of(payload: Mapping[str, object]) -> str | None:
    event, repo = payload.get("event"), payload.get("repo")
    if not isinstance(event, dict) or not isinstance(repo, dict):
        raise MalformedFile("not a delivery of the Hub", path="webhook")
    moved = payload.get("movedTo")
    name = moved.get("name") if isinstance(moved, dict) else repo.get("name")
    about = str(event.get("scope", "")).split(".")[0]
    if repo.get("type") != "model" or about != "repo" or not is_model_id(name):
        return None
    return str(name)
