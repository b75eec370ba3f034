"""Models in a folder: `org/name` folders, single models, or a Hugging Face cache."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...lineage.errors import FileChanged, LimitExceeded, ModelNotFound, UnsafeRequest
from ...lineage.records import ModelFile, ModelInfo
from ..bytes import ByteSource, LocalBytes, Traffic
from .base import ListingFilter, ListingPage
from .names import check_file_path, check_model_id, is_model_id, is_sha

logger = logging.getLogger(__name__)

PAGE = 500
_MARKS = frozenset({"config.json", "adapter_config.json", "model_index.json"})
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_CACHED = "models--"
_OTHER_CACHED = ("datasets--", "spaces--")
_LONGEST_REF = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a model lies. Links of its files may lead anywhere in `within`, and nowhere else."""

    name: str
    source_id: str
    folder: Path
    within: Path
    commit: str | None = None


class FolderSource:
    """Models below one folder.

    Understood are: a folder that is one model; models one level deep; `org/name` two levels deep;
    and a Hugging Face cache (`models--org--name/snapshots/<sha>`, its `refs/main`). Folders whose
    name starts with a dot are left out. Times of files are no evidence and are not reported; nor
    are cards and configs parsed here.

    Notes
    -----
    `sha` is a cached model's commit, and elsewhere the SHA-256 over (path, size, SHA-256) of all
    files. A link that leads out of the root, and anything that is no regular file, is listed
    without size and digest and refused when it is opened. Digests are kept in memory by device,
    inode, size and change time, so that describing a listed model reads nothing again.
    """

    kind = "dir"

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._digests: dict[tuple[int, int, int, int], str] = {}
        self._known: dict[str, _Place] = {}

    def pages(
        self, *, cursor: str | None = None, narrow: ListingFilter, traffic: Traffic
    ) -> Iterator[ListingPage]:
        """The models by name, 500 a page; the cursor is the last name of a page.

        A folder has no tags: a listing narrowed to any is empty.

        Raises
        ------
        ModelNotFound : the root is no folder.
        """
        places = [place for place in self._places() if _wanted(place.name, narrow=narrow)]
        left = [place for place in places if cursor is None or place.name > cursor]
        return self._walk(left)

    def info(self, model: str, *, traffic: Traffic) -> ModelInfo:
        """One model with sizes and digests of its files, as they are now.

        Raises
        ------
        UnsafeRequest : not a model id.
        ModelNotFound : no such model.
        """
        return self._describe(self._find(model))

    async def open(self, info: ModelInfo, path: str, *, traffic: Traffic) -> ByteSource:
        """A ranged reader of one file.

        Raises
        ------
        UnsafeRequest : a crafted name, a link out of the root, or no regular file.
        ModelNotFound : the file is gone.
        FileChanged : it is longer or shorter than `info` says.
        """
        file = self.locate(info, path)
        source = LocalBytes(file, name=path, traffic=traffic)
        _check_size(info, path=path, size=source.size)
        return source

    async def read(self, info: ModelInfo, path: str, *, limit: int, traffic: Traffic) -> bytes:
        """A whole file; errors as `open`, and `LimitExceeded` above `limit` bytes."""
        source = await self.open(info, path, traffic=traffic)
        if source.size > limit:
            raise LimitExceeded("file is too large", path=path, limit=limit, actual=source.size)
        return await source.read(0, source.size)

    def locate(self, info: ModelInfo, path: str) -> Path:
        """Where a file lies on disk, links resolved; errors as `open`."""
        place = self._find(info.name)
        if place.commit is not None and is_sha(info.sha):
            # A cache keeps several commits of a model; a read stays with the one listed.
            place = replace(place, folder=place.folder.parent / info.sha)
        try:
            return _inside(place, path)
        except FileNotFoundError:
            raise ModelNotFound(f"{info.name}: {path} is gone", model=info.name) from None

    async def close(self) -> None:
        """Nothing is kept open."""

    def _walk(self, places: list[_Place]) -> Iterator[ListingPage]:
        for begin in range(0, max(len(places), 1), PAGE):
            page = places[begin : begin + PAGE]
            more = begin + PAGE < len(places)
            yield ListingPage(
                models=tuple(self._describe(place) for place in page),
                next_cursor=page[-1].name if more else None,
            )

    def _places(self) -> list[_Place]:
        if not self._root.is_dir():
            raise ModelNotFound(f"{self._root} is not a folder", model="")
        found: dict[str, _Place] = {}
        for place in self._candidates():
            if not is_model_id(place.name):
                logger.warning("left out, its name is no model id: %r", str(place.folder))
            elif not place.folder.resolve().is_relative_to(self._root):
                logger.warning("left out, a link out of the root: %r", str(place.folder))
            elif found.setdefault(place.name, place) is not place:
                logger.warning("left out, a second %r: %r", place.name, str(place.folder))
        self._known = found
        return sorted(found.values(), key=lambda place: place.name)

    def _candidates(self) -> Iterator[_Place]:
        if _is_model(self._root):
            yield self._place(self._root, name=self._root.name)
            return
        hub = self._root / "hub"
        cached = [hub] if hub.is_dir() and any(hub.glob(f"{_CACHED}*")) else []
        for child in itertools.chain(_folders(self._root), *map(_folders, cached)):
            if child.name.startswith(_CACHED):
                yield from self._cached(child)
            elif _is_model(child):
                yield self._place(child, name=child.name)
            elif child not in cached and not child.name.startswith(_OTHER_CACHED):
                for model in _folders(child):
                    yield self._place(model, name=f"{child.name}/{model.name}")

    def _place(self, folder: Path, *, name: str) -> _Place:
        relative = str(folder.relative_to(self._root)) if folder != self._root else folder.name
        return _Place(name=name, source_id=relative, folder=folder, within=self._root)

    def _cached(self, folder: Path) -> Iterator[_Place]:
        name = "/".join(folder.name.removeprefix(_CACHED).split("--"))
        commit = _main_commit(folder)
        if commit is None:
            logger.warning("left out, no snapshot in the cache: %r", str(folder))
            return
        yield _Place(
            name=name,
            source_id=name,
            folder=folder / "snapshots" / commit,
            within=self._root,
            commit=commit,
        )

    def _find(self, model: str) -> _Place:
        check_model_id(model)
        place = self._known.get(model)
        if place is None or not place.folder.is_dir():
            self._places()
            place = self._known.get(model)
        if place is not None:
            return place
        raise ModelNotFound(f"{model}: not in {self._root}", model=model)

    def _describe(self, place: _Place) -> ModelInfo:
        files = tuple(self._file(place, path) for path in _paths(place.folder))
        return ModelInfo(
            source=self.kind,
            source_id=place.source_id,
            name=place.name,
            sha=place.commit or _digest_of(files),
            files=files,
        )

    def _file(self, place: _Place, path: str) -> ModelFile:
        try:
            file = _inside(place, path)
            status = file.stat()
            digest = self._digest(file, status)
        except (UnsafeRequest, OSError) as error:
            logger.warning("%s: %r cannot be read: %s", place.name, path, error)
            return ModelFile(path=path)
        return ModelFile(path=path, size=status.st_size, sha256=digest)

    def _digest(self, file: Path, status: os.stat_result) -> str:
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with file.open("rb") as stream:
                self._digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digests[key]


def _wanted(name: str, *, narrow: ListingFilter) -> bool:
    if narrow.tags:
        return False
    if narrow.author is not None and name.split("/")[0] != narrow.author:
        return False
    return narrow.search is None or narrow.search.lower() in name.lower()


def _folders(folder: Path) -> list[Path]:
    return [
        child for child in _children(folder) if not child.name.startswith(".") and child.is_dir()
    ]


def _is_model(folder: Path) -> bool:
    return any(
        child.name in _MARKS or child.name.endswith(_WEIGHTS)
        for child in _children(folder)
        if not child.is_dir()
    )


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        logger.warning("left out, cannot be listed: %s", error)
        return []


def _main_commit(folder: Path) -> str | None:
    """The commit of `refs/main`, else the last snapshot by name; only one that is there."""
    snapshots = folder / "snapshots"
    kept = [child.name for child in _folders(snapshots)] if snapshots.is_dir() else []
    kept = [name for name in kept if is_sha(name)]
    ref = folder / "refs" / "main"
    if ref.is_file():
        with ref.open("rb") as file:
            named = file.read(_LONGEST_REF).decode("ascii", "replace").strip()
        if named in kept:
            return named
    return kept[-1] if kept else None


def _paths(folder: Path) -> list[str]:
    """Every name below `folder` that is no plain folder, relative, sorted, storable as text."""
    found: list[str] = []
    for base, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in [*links, *files]:
            path = os.path.relpath(os.path.join(base, name), folder)
            # A name that is not UTF-8 keeps its bytes as escapes; the backslash bars opening it.
            found.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
    return sorted(found)


def _inside(place: _Place, path: str) -> Path:
    """The real file behind `path`, a regular one below the root."""
    try:
        file = (place.folder / check_file_path(path)).resolve(strict=True)
    except RuntimeError as error:
        raise UnsafeRequest(f"{place.name}: {path!r} is a link that leads to itself") from error
    if not file.is_relative_to(place.within):
        raise UnsafeRequest(f"{place.name}: {path!r} is a link out of the folder")
    if not stat.S_ISREG(file.stat().st_mode):
        raise UnsafeRequest(f"{place.name}: {path!r} is not a regular file")
    return file


def _digest_of(files: tuple[ModelFile, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _check_size(info: ModelInfo, *, path: str, size: int) -> None:
    listed = next((file.size for file in info.files if file.path == path), None)
    if listed is not None and listed != size:
        raise FileChanged(f"{size} bytes long, listed with {listed}", path=path)
