"""Logs of Inspect in their JSON form: replies to our prompts, and the metrics of other tasks.

A reply is handed to the graders like any other and kept nowhere. Logs in the `.eval` form are made
JSON by `inspect log convert --to json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...lineage.errors import LimitExceeded, MalformedFile, ProbeError
from ..bounded_json import clean_text

MAX_LOG: Final = 256 << 20
_SHORT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure that a scorer of Inspect made of a whole run; `se` where it gave one."""

    scorer: str
    name: str
    value: float
    se: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectLog:
    """A finished run of Inspect.

    `replies` are first replies by what was asked, of samples that are one question; `prompt_set` is
    the digest in the samples' metadata where the task was written by `write_task`. `sha256` is that
    of the file.
    """

    task: str
    version: str
    model: str
    engine: str
    sha256: str
    prompt_set: str | None
    samples: int
    replies: Mapping[str, str]
    metrics: tuple[Metric, ...]

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """The replies that the log holds, as a backend gives them (`ChatBackend`).

        Raises
        ------
        ProbeError : the log does not hold a reply to every prompt.
        """
        lacking = sum(prompt not in self.replies for prompt in prompts)
        if lacking:
            raise ProbeError(f"the log holds no reply to {lacking} of {len(prompts)} prompts")
        return [self.replies[prompt] for prompt in prompts]

    def environment(self) -> dict[str, Any]:
        """What the replies depend on, as far as the log says."""
        return {
            "engine": "inspect",
            "engine_version": self.engine,
            "served_model": self.model,
            "task": self.task,
            "log_sha256": self.sha256,
        }


def read_log(path: Path) -> InspectLog:
    """Read a log file.

    Raises
    ------
    MalformedFile : it is no JSON log of Inspect, or its run did not succeed.
    LimitExceeded : more than 256 MiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOG + 1)
    except OSError as error:
        raise MalformedFile(f"cannot be read: {error.strerror}", path=str(path)) from error
    return parse_log(data, path=str(path))


def parse_log(data: bytes, *, path: str) -> InspectLog:
    """A log from the bytes of its file; see `read_log`."""
    if len(data) > MAX_LOG:
        raise LimitExceeded("log too large", path=path, limit=MAX_LOG, actual=len(data))
    if data[:4] == b"PK\x03\x04":
        raise MalformedFile("an .eval log: make it JSON with `inspect log convert`", path=path)
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"not JSON: {error}", path=path) from error
    about = content.get("eval") if isinstance(content, dict) else None
    if not isinstance(about, dict) or not isinstance(content.get("version"), int):
        raise MalformedFile("not a log of Inspect", path=path)
    if content.get("status") != "success":
        raise MalformedFile(f"the run did not succeed: {_text(content.get('status'))!r}", path=path)
    rows = [row for row in _list(content.get("samples")) if isinstance(row, dict)]
    sets = {_text(_dict(row.get("metadata")).get("prompt_set")) for row in rows}
    return InspectLog(
        task=_text(about.get("task")),
        version=_text(about.get("task_version", "0")),
        model=_text(about.get("model")),
        engine=_text(_dict(about.get("packages")).get("inspect_ai", "unknown")),
        sha256=hashlib.sha256(data).hexdigest(),
        prompt_set=sets.pop() if len(sets) == 1 and "" not in sets else None,
        samples=len(rows),
        replies=dict(_replies(rows)),
        metrics=tuple(_metrics(_dict(content.get("results")))),
    )


def _replies(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Question and reply of each sample, the first epoch's last: it is the one that stays."""
    for row in sorted(rows, key=lambda row: -_epoch(row)):
        choices = _list(_dict(row.get("output")).get("choices"))
        asked = row.get("input")
        if isinstance(asked, str) and choices:
            said = _content(_dict(_dict(choices[0]).get("message")).get("content"))
            if said is not None:
                yield asked, said


def _epoch(row: Mapping[str, Any]) -> int:
    epoch = row.get("epoch", 1)
    return epoch if isinstance(epoch, int) else 1


def _content(content: Any) -> str | None:
    """Text of a message: plain, or the text parts of a list; reasoning is no part of a reply."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if _dict(part).get("type") == "text"]
    return "\n".join(part for part in parts if isinstance(part, str))


def _metrics(results: Mapping[str, Any]) -> Iterator[Metric]:
    for score in map(_dict, _list(results.get("scores"))):
        found = {
            _text(name): value
            for name, metric in _dict(score.get("metrics")).items()
            if (value := _number(_dict(metric).get("value"))) is not None
        }
        se = found.pop("stderr", None)
        for name, value in found.items():
            yield Metric(scorer=_text(score.get("name")), name=name, value=value, se=se)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # JSON has integers that no float can hold.
    with suppress(OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    return clean_text(text)[:_SHORT]
