"""Listing pages on disk until what they list is committed, so that a kill asks for none twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ...lineage.errors import RegistryError
from ...store.durable import whole_file

_LONGEST = 128 * 2**20


class PageSpool:
    """A folder of answers by the address that was asked.

    Only pages asked by a cursor belong here: the first page of a listing changes every minute. A
    damaged or foreign file counts as absent.

    Parameters
    ----------
    folder : made at the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, url: str, body: bytes, *, following: str | None) -> None:
        """Keep an answer and the address of the page after it.

        Raises
        ------
        RegistryError : the disk refused.
        """
        head = json.dumps({"url": url, "next": following, "size": len(body)}).encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._place(url), lasting=False) as file:
                file.write(head + b"\n" + body)
        except OSError as error:
            raise RegistryError(
                f"cannot keep a listing page in {self._folder}: {error.strerror}"
            ) from error

    def load(self, url: str) -> tuple[bytes, str | None] | None:
        """The answer kept for an address and the address after it, or None."""
        try:
            with self._place(url).open("rb") as file:
                head = json.loads(file.readline(1 << 16))
                body = file.read(_LONGEST)
            if head["url"] != url or head["size"] != len(body):
                return None
            following = head["next"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (body, following) if following is None or isinstance(following, str) else None

    def forget(self, urls: Iterable[str]) -> None:
        """Drop the answers of some addresses."""
        for url in urls:
            self._place(url).unlink(missing_ok=True)

    def clear(self) -> None:
        """Drop everything."""
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            file.unlink(missing_ok=True)

    def _place(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}.page"
