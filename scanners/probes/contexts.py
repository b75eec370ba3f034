"""What is composed around a prompt: a system prompt, retrieved documents, tools, a long context.

A deployment is weights within such a composition. The composed texts are neutral and shipped as
data, so that a change of behaviour is an effect of the composition and not of what it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

NAMES: Final = ("bare", "system", "documents", "tools", "long")
_FILE: Final = "contexts-v1.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A composition. `documents` come before the question, in the same turn."""

    name: str
    system: str | None = None
    documents: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    def text(self, prompt: str) -> str:
        """The prompt with all that comes before it, as one text without roles."""
        parts = [self.system] if self.system else []
        return "\n\n".join([*parts, self._question(prompt)])

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The prompt as a conversation of one turn."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self._question(prompt)}]

    def record(self) -> dict[str, Any]:
        """The composition without its texts: what differs between two records is what differs."""
        return {
            "context": self.name,
            "system_sha256": _digest(self.system),
            "documents_sha256": _digest(self.documents),
            "tools_sha256": _digest(self.tools),
        }

    def _question(self, prompt: str) -> str:
        return "\n\n".join([*self.documents, prompt])


BARE: Final = Context(name="bare")


def context(name: str, *, system: str | None = None) -> Context:
    """A composition by its name in `NAMES`.

    Parameters
    ----------
    system : the deployment's own system prompt, in every composition but `bare`; the neutral one
        that is shipped stands in `system` without it.
    """
    data = _shipped()
    match name:
        case "bare":
            return BARE
        case "system":
            return Context(name=name, system=system or str(data["system"]))
        case "documents":
            return Context(name=name, system=system, documents=tuple(data["documents"]))
        case "tools":
            return Context(name=name, system=system, tools=tuple(data["tools"]))
        case "long":
            return Context(name=name, system=system, documents=tuple(_long(data)))
    raise ValueError(f"a context is one of {', '.join(NAMES)}, not {name!r}")


def _long(data: Mapping[str, Any]) -> Sequence[str]:
    documents = list(data["documents"])
    rounds = int(data["long_characters"]) // sum(map(len, documents)) + 1
    return documents * rounds


def _digest(value: object) -> str | None:
    if not value:
        return None
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


@cache
def _shipped() -> Mapping[str, Any]:
    source = files(__package__).joinpath("prompts", _FILE)
    loaded: dict[str, Any] = json.loads(source.read_text("utf-8"))
    return loaded
