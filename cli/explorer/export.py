"""The explorer as files: pages and twins that any file host can serve, at any path."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ...lineage.errors import ModelkinError
from .answers import as_csv, as_json
from .drawing import map_body
from .library import Library, Shelf
from .questions import QUESTIONS
from .rendering import Pages
from .static import STATIC
from .values import MAX_TEXT, read_values

MOST_MAPS = 50
ROWS = 1000
LISTS = ("home", "models", "findings", "coverage", "scans")
ABOUT_ONE = ("model", "tree", "edge", "map", "plots")

_README = """\
---
title: modelkin explorer
sdk: static
app_file: index.html
pinned: false
---
Lineage of open-weight models, written by `modelkin serve --export`. Upload the folder as it is to
any file host, or as a static Space.
"""


class FileLinks:
    """Addresses of files in one folder, relative so that the folder can lie anywhere.

    Parameters
    ----------
    models : models that have pages.
    maps : models that have a map.
    """

    def __init__(self, *, models: Collection[str], maps: Collection[str]) -> None:
        self._models = frozenset(models)
        self._maps = frozenset(maps)

    def page(self, name: str, **values: Any) -> str | None:
        """The file of a page; None for what the export leaves out, a filtered page for one."""
        stem = self._stem(name, values)
        return None if stem is None else f"{stem}.html"

    def twin(self, name: str, suffix: str, **values: Any) -> str | None:
        """The file of a twin, or of a form of the map."""
        stem = self._stem(name.partition("/")[0], values)
        form = name.partition("/")[2]
        if stem is None or name.startswith("plots/"):
            return None
        return f"{stem}{'.' + form if form else ''}{suffix}"

    def static(self, name: str) -> str:
        """The file of a style or script."""
        return f"static/{name}"

    def _stem(self, name: str, values: dict[str, Any]) -> str | None:
        if name in LISTS:
            return "index" if name == "home" else name
        model = values.get("child") if name == "edge" else values.get("model")
        known = self._maps if name == "map" else self._models
        if name not in ABOUT_ONE or model not in known or values.get("relation"):
            return None
        kind = "ancestors" if name == "tree" and values.get("up") else name
        return f"{kind}-{hashlib.sha256(str(model).encode()).hexdigest()[:20]}"


def export_site(library: Library, target: Path, *, models: int) -> int:
    """Write the newest state as files and return their number.

    Parameters
    ----------
    target : a folder that does not exist yet, or is empty.
    models : models that get pages, those with most descendants first; the fifty largest get a map.

    Raises
    ------
    ModelkinError : the folder holds something already.
    RegistryError : the store cannot be read.
    """
    if target.exists() and any(target.iterdir()):
        raise ModelkinError(f"{target} is not empty: name a new folder for the export")
    (target / "static").mkdir(parents=True, exist_ok=True)
    for name, path in STATIC.items():
        shutil.copyfile(path, target / "static" / name)
    (target / "README.md").write_text(_README, encoding="utf-8")
    with library.shelf() as shelf:
        count = sum(1 for _ in _write_pages(shelf, target, models=models))
    return count + len(STATIC) + 1


def _write_pages(shelf: Shelf, target: Path, *, models: int) -> Iterator[Path]:
    rows = list(shelf.reader.search(None, limit=models).rows)
    rows = [row for row in rows if len(row["model"]) <= MAX_TEXT]
    names = [row["model"] for row in rows]
    maps = [row["model"] for row in rows[:MOST_MAPS] if row["total"]]
    links = FileLinks(models=names, maps=maps)
    pages = Pages(snapshots=lambda: (), served=False)
    for name in LISTS:
        limit = {"limit": [str(min(models, ROWS))]} if name != "home" and name != "scans" else {}
        yield from _write(pages, links, shelf, target, name, limit)
    for model in names:
        for name in ABOUT_ONE:
            if name != "map" or model in maps:
                key = "child" if name == "edge" else "model"
                yield from _write(pages, links, shelf, target, name, {key: [model]})
        yield from _write(pages, links, shelf, target, "tree", {"model": [model], "up": ["1"]})
    for model in maps:
        yield from _write_map(links, shelf, target, model)


def _write(
    pages: Pages,
    links: FileLinks,
    shelf: Shelf,
    target: Path,
    name: str,
    given: dict[str, list[str]],
) -> Iterator[Path]:
    question = QUESTIONS[name]
    values = read_values(question.parameters, given)
    answer = question.ask(shelf.reader, values)
    page = pages.render(question, answer, values=values, as_of=shelf.as_of, links=links)
    about = {key: value for key, value in answer.about.items() if key != "root"}
    forms = {
        ".html": page.encode("utf-8", "replace"),
        ".json": as_json(answer, about=about, as_of=shelf.as_of),
        ".csv": as_csv(answer),
    }
    for suffix, content in forms.items():
        path = target / (links.twin(name, suffix, **values) or "")
        path.write_bytes(content)
        yield path


def _write_map(links: FileLinks, shelf: Shelf, target: Path, model: str) -> Iterator[Path]:
    for form, suffix in (("layout", ""), ("names", ""), ("picture", ".svg")):
        path = target / (links.twin(f"map/{form}", suffix, model=model) or "")
        path.write_bytes(map_body(shelf.reader, model, form=f"{form}{suffix}").content)
        yield path
