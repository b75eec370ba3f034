"""`modelkin.toml` as records: every key is checked, an unknown one is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ..lineage.errors import ModelkinError
from .limits import ScanLimits
from .notifying import EVENT_KINDS, SEVERITIES, Receiver
from .publishing import GateLimits
from .sources.base import ListingFilter
from .sources.names import is_model_id

T = TypeVar("T")
Environment = Callable[[str], str | None]

_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d{1,12})\s*(kB|MB|GB|TB|)")
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d{1,9})\s*([smhd])")


class BadConfig(ModelkinError):
    """The configuration names an unknown key, or holds a value that means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightConfig:
    """What one night does; paths are as written, secrets are resolved.

    `most_visits` bounds the models read in a night, beside `limits`. `canaries` are edges (child,
    parent) that have to be in a snapshot, and pairs that must not be.
    """

    store: Path = Path("modelkin-store")
    keep_snapshots: int = 14
    source: str = "hub"
    endpoint: str = "https://huggingface.co"
    narrow: ListingFilter = field(default_factory=ListingFilter)
    contact: str | None = None
    page_size: int = 1000
    watch: tuple[str, ...] = ()
    full_every: timedelta = timedelta(days=7)
    limits: ScanLimits = field(default_factory=ScanLimits)
    most_visits: int | None = None
    connections: int = 64
    engine: str = "local"
    processes: int = 0
    device: str = "auto"
    probe: str = "none"
    prompts: Path | None = None
    max_model_bytes: int = 20 << 30
    gate: GateLimits = field(default_factory=GateLimits)
    receivers: tuple[Receiver, ...] = ()
    healthcheck: str | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)


class _Table:
    """One table of the file; what nobody takes from it is unknown."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise BadConfig(f"[{name}] has to be a table")
        self._left = dict(value)
        self._name = name

    def take(self, key: str, default: T, read: Callable[[Any], T]) -> T:
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            return read(value)
        except (TypeError, ValueError) as error:
            raise BadConfig(f"[{self._name}] {key} = {value!r}: {error}") from None

    def end(self) -> None:
        if self._left:
            keys = ", ".join(sorted(self._left))
            raise BadConfig(f"[{self._name}] has no key {keys}; see docs/nightly.md")


def parse_config(data: Mapping[str, Any], *, environment: Environment) -> NightConfig:
    """Read the tables of `modelkin.toml`.

    Parameters
    ----------
    environment : looks up what `env:NAME` stands for.

    Raises
    ------
    BadConfig : naming the table and the key.
    """
    known = ("store", "hub", "scan", "probe", "publish", "notify")
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise BadConfig(f"no table [{unknown[0]}]; there are {', '.join(known)}")
    tables = {name: _Table(data.get(name, {}), name) for name in known[:-1]}
    secret = _secret(environment)
    fields = {
        **_store(tables["store"]),
        **_hub(tables["hub"], secret),
        **_scan(tables["scan"]),
        **_probe(tables["probe"]),
        **_publish(tables["publish"], secret),
    }
    for table in tables.values():
        table.end()
    return NightConfig(**fields, receivers=_receivers(data.get("notify", []), secret))


def _store(table: _Table) -> dict[str, Any]:
    return {
        "store": table.take("path", Path("modelkin-store"), lambda v: Path(_text(v))),
        "keep_snapshots": table.take("keep_snapshots", 14, _positive),
    }


def _hub(table: _Table, secret: Callable[[Any], str]) -> dict[str, Any]:
    none: tuple[str, ...] = ()
    narrow = ListingFilter(
        author=table.take("author", None, _text),
        search=table.take("search", None, _text),
        tags=table.take("tags", none, _texts),
    )
    return {
        "source": table.take("source", "hub", _source),
        "endpoint": table.take("endpoint", "https://huggingface.co", _text),
        "contact": table.take("contact", None, _text),
        "webhook_secret": table.take("webhook_secret", None, secret),
        "page_size": table.take("page_size", 1000, _positive),
        "narrow": narrow,
    }


def _scan(table: _Table) -> dict[str, Any]:
    none: tuple[str, ...] = ()
    limits = ScanLimits(
        max_bytes=table.take("max_bytes", None, parse_size),
        max_requests=table.take("max_requests", None, _positive),
        deadline=table.take("deadline", None, lambda v: parse_span(v).total_seconds()),
    )
    return {
        "limits": limits,
        "watch": table.take("watch", none, _models),
        "full_every": table.take("full_every", timedelta(days=7), parse_span),
        "most_visits": table.take("max_visits", None, _whole),
        "connections": table.take("connections", 64, _positive),
        "engine": table.take("engine", "local", lambda v: _one_of(v, ("local", "ray"))),
        "processes": table.take("processes", 0, _whole),
        "device": table.take("device", "auto", lambda v: _one_of(v, ("auto", "cpu", "cuda"))),
    }


def _probe(table: _Table) -> dict[str, Any]:
    return {
        "probe": table.take("tier", "none", lambda v: _one_of(v, ("none", "generation"))),
        "prompts": table.take("prompts", None, lambda v: Path(_text(v))),
        "max_model_bytes": table.take("max_model_bytes", 20 << 30, parse_size),
    }


def _publish(table: _Table, secret: Callable[[Any], str]) -> dict[str, Any]:
    usual = GateLimits()
    gate = GateLimits(
        shrink=table.take("shrink", usual.shrink, _share),
        growth=table.take("growth", usual.growth, _factor),
        coverage=table.take("coverage", usual.coverage, _share),
        freshness=table.take("freshness", usual.freshness, parse_span),
        edges=table.take("canary_edges", (), _pairs),
        strangers=table.take("canary_strangers", (), _pairs),
    )
    return {"gate": gate, "healthcheck": table.take("healthcheck", None, secret)}


def _receivers(value: Any, secret: Callable[[Any], str]) -> tuple[Receiver, ...]:
    if not isinstance(value, list):
        raise BadConfig("receivers are written [[notify]]")
    found = []
    for at, item in enumerate(value, 1):
        table = _Table(item, "notify")
        receiver = Receiver(
            name=table.take("name", f"receiver-{at}", _text),
            url=table.take("url", "", secret),
            secret=table.take("secret", "", secret),
            kinds=table.take("events", EVENT_KINDS, _kinds),
            mode=table.take("mode", "digest", lambda v: _one_of(v, ("digest", "each"))),
            immediate=table.take("immediate", "critical", lambda v: _one_of(v, SEVERITIES)),
        )
        table.end()
        found.append(receiver)
    if len({receiver.name for receiver in found}) < len(found):
        raise BadConfig("two receivers in [[notify]] have the same name")
    return tuple(found)


def parse_size(value: Any) -> int:
    """Bytes: a number, or one with kB, MB, GB or TB."""
    found = _SIZE.fullmatch(str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError("a size is like 200GB")
    return _positive(int(found[1]) * _UNITS[found[2]])


def parse_span(value: Any) -> timedelta:
    """A span of time: a number with s, m, h or d."""
    found = _SPAN.fullmatch(str(value))
    if found is None:
        raise ValueError("a span is like 6h or 7d")
    return timedelta(seconds=int(found[1]) * _SPANS[found[2]])


def _secret(environment: Environment) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = _text(value)
        if not text.startswith("env:"):
            return text
        found = environment(text.removeprefix("env:"))
        if not found:
            raise ValueError("that environment variable is not set")
        return found

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text is wanted")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of texts is wanted")
    return tuple(map(_text, value))


def _kinds(value: Any) -> tuple[str, ...]:
    return tuple(_one_of(kind, EVENT_KINDS) for kind in _texts(value))


def _models(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    for name in names:
        if not is_model_id(name) or "/" not in name:
            raise ValueError(f"{name!r} is no org/model")
    return names


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise TypeError("a list of [child, parent] is wanted")
    pairs = [_texts(pair) for pair in value]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("each entry is [child, parent]")
    return tuple((child, parent) for child, parent in pairs)


def _one_of(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"one of {', '.join(choices)} is wanted")
    return str(value)


def _source(value: Any) -> str:
    text = _text(value)
    if text != "hub" and not text.startswith("dir:"):
        raise ValueError("hub, or dir:PATH")
    return text


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a whole number is wanted")
    return value


def _positive(value: Any) -> int:
    if _whole(value) == 0:
        raise ValueError("at least 1")
    return int(value)


def _factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TypeError("a number from 0 is wanted")
    return float(value)


def _share(value: Any) -> float:
    if _factor(value) > 1:
        raise ValueError("a share from 0 to 1 is wanted")
    return float(value)
