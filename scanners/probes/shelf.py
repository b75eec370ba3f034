"""The prompt sets at hand: those that ship, and those that were put into a store.

A set of others is added by file, or by an address together with the sha256 that its bytes must
have; its licence is stated by whoever adds it. The text stays in the store's folder and enters no
dump.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from ...lineage.errors import LimitExceeded, MalformedFile, NotInRegistry, TransientError
from .prompt_sets import MAX_BYTES, PromptSet, digest_of_set, load_prompt_set, parse_prompt_set

SHIPPED: Final = ("refusal-v2", "refusal-v1")
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedSet:
    """A prompt set and where it comes from (`shipped` or `store`)."""

    prompts: PromptSet
    origin: str


class PromptShelf:
    """The prompt sets of one store.

    Parameters
    ----------
    folder : where the store keeps sets; made at the first `add`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sets(self) -> Iterator[ShelvedSet]:
        """Every set, the shipped ones first.

        Raises
        ------
        MalformedFile : a set in the store was damaged.
        """
        for name in SHIPPED:
            yield ShelvedSet(prompts=shipped(name), origin="shipped")
        for path in sorted(self._folder.glob("*.json")):
            yield ShelvedSet(prompts=load_prompt_set(path), origin="store")

    def find(self, name: str) -> PromptSet:
        """A set by its name or by the beginning of its digest (8 digits at least).

        Raises
        ------
        NotInRegistry : there is none, or the name fits several.
        """
        known = [one.prompts for one in self.sets()]
        found = [one for one in known if one.name == name]
        if not found and re.fullmatch(r"[0-9a-f]{8,64}", name):
            found = [one for one in known if one.digest.startswith(name)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(sorted({one.name for one in known}))
        why = "several prompt sets are" if found else "no prompt set is"
        raise NotInRegistry(f"{why} called {name!r}; there are {names}", name=name)

    def add(self, data: bytes, *, path: str, license: str | None = None) -> PromptSet:
        """Keep a set.

        Parameters
        ----------
        data : the file's bytes.
        license : over the one that the file states; one of the two is needed.

        Raises
        ------
        MalformedFile, LimitExceeded : not a prompt set; or nobody states a licence.
        """
        found = parse_prompt_set(data, path=path, default_name=Path(path).stem)
        found = replace(found, license=license or found.license)
        if found.license is None:
            raise MalformedFile("no licence is stated: name it with --license", path=path)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_set(self._folder / f"{found.digest}.json", found)
        return found


def shipped(name: str) -> PromptSet:
    """A set that ships with modelkin, by its name in `SHIPPED`."""
    source = files(__package__).joinpath("prompts", f"{name}.json")
    return parse_prompt_set(source.read_bytes(), path=f"{name}.json", default_name=name)


def write_set(path: Path, prompts: PromptSet) -> None:
    """Write a set as the file that it is read from, whole or not at all."""
    content = {
        "name": prompts.name,
        "license": prompts.license,
        "categories": list(prompts.categories),
        "harmful": list(prompts.harmful),
        "harmless": list(prompts.harmless),
        "refusal_markers": list(prompts.refusal_markers),
        "capability": [{"prompt": one.prompt, "answer": one.answer} for one in prompts.capability],
    }
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".prompts-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
    os.replace(name, path)


def split(prompts: PromptSet, *, key: bytes, period: str) -> tuple[PromptSet, PromptSet]:
    """Half of the pairs, drawn by a secret key for one period, and the other half.

    Returns
    -------
    (private, public). Publish the digest of the private half when it is drawn and its key when
    the period ends: then everybody can see that it was not chosen afterwards. A new period draws
    another half, so that nobody can train against it for long.

    Raises
    ------
    MalformedFile : harmful and harmless prompts are not pairs.
    """
    if len(prompts.harmful) != len(prompts.harmless):
        raise MalformedFile("harmful and harmless prompts are not pairs", path=prompts.name)

    def draw(at: int) -> bytes:
        text = f"{period}\0{prompts.harmful[at]}\0{prompts.harmless[at]}"
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    order = sorted(range(len(prompts.harmful)), key=draw)
    half = len(order) // 2
    halves = (("private", sorted(order[:half])), ("public", sorted(order[half:])))
    private, public = (
        _part(prompts, chosen, name=f"{prompts.name}-{kind}-{period}") for kind, chosen in halves
    )
    return private, public


def _part(prompts: PromptSet, chosen: list[int], *, name: str) -> PromptSet:
    part = replace(
        prompts,
        name=name,
        harmful=tuple(prompts.harmful[at] for at in chosen),
        harmless=tuple(prompts.harmless[at] for at in chosen),
        categories=tuple(prompts.categories[at] for at in chosen) if prompts.categories else (),
    )
    return replace(part, digest=digest_of_set(part))


async def fetch_set(url: str, *, sha256: str) -> bytes:
    """The bytes behind an address, if they are the ones expected.

    Raises
    ------
    MalformedFile : an address that is not https, an answer that is no file, or other bytes.
    LimitExceeded : more than a prompt set may have.
    TransientError : the server did not answer.
    """
    place = URL(url)
    if place.scheme != "https" and place.host not in ("127.0.0.1", "localhost"):
        raise MalformedFile("a prompt set is fetched over https alone", path=url)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    data = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(place, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise MalformedFile(f"HTTP {answer.status}; redirects are not followed", path=url)
            async for part in answer.content.iter_chunked(65_536):
                data += part
                if len(data) > MAX_BYTES:
                    raise LimitExceeded(
                        "prompt set too large", path=url, limit=MAX_BYTES, actual=len(data)
                    )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{url}: {type(error).__name__}") from error
    check_bytes(data, sha256=sha256, path=url)
    return bytes(data)


def check_bytes(data: bytes | bytearray, *, sha256: str, path: str) -> None:
    """Refuse bytes other than those expected.

    Raises
    ------
    MalformedFile : their sha256 is another.
    """
    found = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(found, sha256.lower()):
        raise MalformedFile(f"its sha256 is {found}, not the one expected", path=path)
