"""Trees of models as lines of text: what `tree` and `map` print."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..store.facts import TreeRow
from ..store.registry import Registry
from .output import clean, console, emit, emit_ids, say
from .severity import LIVE

DEFAULT_DEPTH = 3
MAX_LINES = 200
SURE = 0.9
FEW = 20
"""Models whose way from an ancestor is cheaper found one by one than from its whole tree."""
LOST = "✗ lost safety training"
COLUMNS = (
    "model",
    "under",
    "depth",
    "relation",
    "detail",
    "confidence",
    "share",
    "declared",
    "inferred",
    "claims",
    "hidden",
    "stripped",
    "direct",
    "total",
)

Words = tuple[str, str]
"""A text and the style it is shown in; the style never carries meaning alone."""


def show_tree(
    registry: Registry,
    model: str,
    *,
    output_format: str = "table",
    depth: int | None = None,
    up: bool = False,
    quiet: bool = False,
) -> None:
    """Write the tree of a model to stdout, and to stderr what was left out of it.

    Parameters
    ----------
    depth : generations; 0 for all; None for three, in at most 200 lines of a table.

    Raises
    ------
    NotInRegistry : the store does not hold the model.
    """
    generations = DEFAULT_DEPTH if depth is None else depth or None
    rows = registry.tree(model, depth=generations, up=up)
    shown = len(rows)
    if quiet:
        emit_ids([row.model for row in rows])
    elif output_format == "table":
        limit = MAX_LINES if depth is None else None
        tree = Tree(rows, claims=find_claims(registry, rows[0].model), up=up)
        shown = show_lines(tree.lines(width=console().width, limit=limit, depth=generations))
    else:
        claims = find_claims(registry, rows[0].model)
        flat = [{**asdict(row), "claims": claims.get(row.model)} for row in rows]
        emit(flat, output_format=output_format, columns=COLUMNS)
    kin = "ancestors" if up else "descendants"
    if shown - 1 < rows[0].total:
        say(f"{shown - 1:,} of {rows[0].total:,} {kin} shown; --depth 0 shows all")


def find_claims(registry: Registry, model: str) -> dict[str, list[str]]:
    """What cards below a model claim in place of the parent that the weights name.

    Returns
    -------
    By model, the parents claimed; empty where the card names none. Models whose claim is borne
    out, or claims a further ancestor, are not in it.
    """
    found: dict[str, list[str]] = {}
    for kind in ("undeclared_parent", "misdeclared_parent"):
        for finding in registry.findings(kind=kind, ancestor=model):
            if finding.status in LIVE:
                claimed = finding.detail.get("claimed")
                found[finding.model] = [str(one) for one in claimed or ()]
    return found


def relation_words(relation: str | None, detail: Mapping[str, Any], share: float | None) -> str:
    """A relation with its short detail: `finetune lora r4`, `quantized 4-bit`, `merge 0.60`."""
    if relation is None:
        return "unknown relation"
    unsure = "direction unsure" if detail.get("direction") == "unsure" else ""
    return " ".join(part for part in (relation, _detail(relation, detail, share), unsure) if part)


def one_line(text: object, *, limit: int | None = None) -> str:
    """Text of a repository, safe on a terminal and on one line."""
    plain = clean(str(text)).replace("\n", "\ufffd").replace("\t", "\ufffd")
    return plain if limit is None or len(plain) <= limit else f"{plain[: limit - 1]}…"


def steps_from(
    registry: Registry, ancestor: str, models: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """How models were made from an ancestor, step by step downwards.

    Models that do not come from it are left out. Where several ways lead to one it is the surest
    of the shortest.
    """
    found: dict[str, tuple[str, ...]] = {}
    if len(models) > FEW:
        rows = {row.model: row for row in registry.tree(ancestor)}
        for model in models:
            found[model] = tuple(reversed(_climb(rows, model)))
    else:
        for model in models:
            rows = {row.model: row for row in registry.tree(model, up=True)}
            found[model] = tuple(_climb(rows, ancestor))
    return {model: steps for model, steps in found.items() if steps}


def _climb(rows: Mapping[str, TreeRow], model: str) -> list[str]:
    """The edges from a row of a tree to its root."""
    steps: list[str] = []
    at = rows.get(model)
    while at is not None and at.under is not None and len(steps) < len(rows):
        steps.append(one_line(relation_words(at.relation, at.detail, at.share), limit=60))
        at = rows.get(at.under)
    return steps


def show_words(*words: Words) -> None:
    """Print one line of styled words."""
    show_lines(iter([(False, list(words))]))


def show_flow(lead: str, *words: Words) -> None:
    """Print styled words after a lead, on as many lines as the width of the terminal asks for."""
    show_lines(_flow(lead, lead, words, width=console().width))


def show_lines(lines: Iterator[tuple[bool, list[Words]]]) -> int:
    """Print lines of styled words; the count of those that show a model."""
    from rich.text import Text

    out = console()
    models = 0
    for is_model, words in lines:
        out.print(Text.assemble(*words, no_wrap=True, overflow="ignore"))
        models += is_model
    return models


@dataclass(slots=True)
class _Branch:
    row: TreeRow
    below: list[_Branch] = field(default_factory=list)
    stripped: int = 0


class Tree:
    """Rows of a tree, ready to be laid out.

    Parameters
    ----------
    rows : as `Registry.tree` gives them, the root first.
    claims : as `find_claims` gives them.
    up : the rows are ancestors.
    """

    def __init__(
        self, rows: Sequence[TreeRow], *, claims: Mapping[str, Sequence[str]], up: bool = False
    ) -> None:
        self._root = _grow(rows)
        self._claims = claims
        self._up = up

    def lines(
        self, *, width: int, limit: int | None = None, depth: int | None = None
    ) -> Iterator[tuple[bool, list[Words]]]:
        """Lines of styled words, each with whether a model begins on it.

        Parameters
        ----------
        width : columns of the terminal; what does not fit goes to a second line.
        limit : about the most lines; branches beyond it become one line with their count.
        depth : the generation at which the rows were cut, None when they were not.
        """
        cap = _most(self._root)
        if limit is not None and _height(self._root, cap) > limit:
            cap = _widest_fit(lambda most: _height(self._root, most), limit, cap)
        yield from self._branch(self._root, "", "", cap=cap, width=width, depth=depth)

    def _branch(
        self, branch: _Branch, lead: str, guide: str, *, cap: int, width: int, depth: int | None
    ) -> Iterator[tuple[bool, list[Words]]]:
        kept, left = _keep(branch.below, cap)
        words = self._words(branch.row, cut=depth is not None and branch.row.depth >= depth)
        yield from _flow(lead, guide + ("│  " if kept else "   "), words, width=width)
        for at, child in enumerate(kept):
            last = at == len(kept) - 1 and not left
            arm = ("└" if last else "├") + ("┄ " if child.row.hidden else "─ ")
            inner = guide + ("   " if last else "│  ")
            yield from self._branch(child, guide + arm, inner, cap=cap, width=width, depth=depth)
        if left:
            yield False, [(f"{guide}└─ ", "dim"), (_more(left), "dim")]

    def _words(self, row: TreeRow, *, cut: bool) -> list[Words]:
        name = one_line(row.model)
        if row.hidden:
            found = [(f"(unpublished) {name}", "italic dim")]
        else:
            style = "bold red" if row.stripped else "bold" if row.under is None else ""
            found = [(name, style)]
        if row.depth:
            found.append((self._edge(row), "cyan"))
        if row.stripped:
            found.append((LOST, "bold red"))
        found += self._doubts(row)
        if row.direct:
            more = " …" if cut else ""
            found.append((f"({row.direct:,} direct, {row.total:,} in all){more}", "dim"))
        return found

    def _edge(self, row: TreeRow) -> str:
        text = one_line(relation_words(row.relation, row.detail, row.share), limit=60)
        if row.relation == "merge" and not self._up:
            rest = " + ".join(one_line(other) for other in row.others)
            text += f" + {rest}" if rest else " + …" if (row.share or 0) < 0.995 else ""
        return f"→ {text}" if self._up else text

    def _doubts(self, row: TreeRow) -> Iterator[Words]:
        if row.depth and not row.inferred:
            yield "claimed only", "yellow"
            return
        if row.confidence is not None and row.confidence < SURE:
            yield f"confidence {row.confidence:.2f}", "yellow"
        child = row.under if self._up else row.model
        claimed = self._claims.get(child or "")
        if claimed:
            yield f"claims {', '.join(one_line(one) for one in claimed)}", "yellow"
        elif row.depth and (claimed is not None or self._is_unclaimed(row)):
            yield "undeclared", "yellow"

    def _is_unclaimed(self, row: TreeRow) -> bool:
        # Findings about claims are made of sure edges only; below that the edge itself tells.
        unsure = row.confidence is not None and row.confidence < SURE
        unpublished = row.hidden or str(row.under).startswith("hidden:")
        return unsure and not row.declared and not unpublished


def _grow(rows: Sequence[TreeRow]) -> _Branch:
    root = _Branch(rows[0])
    path = [root]
    for row in rows[1:]:
        branch = _Branch(row)
        while len(path) > 1 and path[-1].row.model != row.under:
            path.pop()
        path[-1].below.append(branch)
        path.append(branch)
    _count_stripped(root)
    return root


def _count_stripped(branch: _Branch) -> int:
    branch.stripped = int(branch.row.stripped) + sum(_count_stripped(b) for b in branch.below)
    return branch.stripped


def _most(branch: _Branch) -> int:
    return max([len(branch.below), *(_most(b) for b in branch.below)])


def _height(branch: _Branch, cap: int) -> int:
    kept, left = _keep(branch.below, cap)
    return 1 + bool(left) + sum(_height(b, cap) for b in kept)


def _widest_fit(height: Callable[[int], int], limit: int, widest: int) -> int:
    """The most children a node may show for the whole to stay within the limit."""
    low, high = 1, widest
    while low < high:
        middle = (low + high + 1) // 2
        if height(middle) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _keep(below: Sequence[_Branch], cap: int) -> tuple[list[_Branch], list[_Branch]]:
    """The children shown and those left out; branches with a stripped model are kept first."""
    if len(below) <= cap:
        return list(below), []
    first = sorted(range(len(below)), key=lambda at: below[at].stripped == 0)
    chosen = set(first[:cap])
    kept = [b for at, b in enumerate(below) if at in chosen]
    return kept, [b for at, b in enumerate(below) if at not in chosen]


def _more(left: Sequence[_Branch]) -> str:
    stripped = sum(branch.stripped for branch in left)
    lost = f"; among them and below, {stripped:,} {LOST}" if stripped else ""
    return f"… {len(left):,} more{lost}"


def _flow(
    lead: str, guide: str, words: Sequence[Words], *, width: int
) -> Iterator[tuple[bool, list[Words]]]:
    """One line, or as many as the width asks for; words are never cut."""
    line: list[Words] = [(lead, "dim"), words[0]]
    used = _cells(lead) + _cells(words[0][0])
    first = True
    for word in words[1:]:
        size = _cells(word[0])
        if used + 2 + size > width:
            yield first, line
            first, line, used = False, [(f"{guide}  ", "dim"), word], _cells(guide) + 2 + size
        else:
            line += [("  ", ""), word]
            used += 2 + size
    yield first, line


def _cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _detail(relation: str, detail: Mapping[str, Any], share: float | None) -> str:
    match relation:
        case "merge":
            return "" if share is None else f"{share:.2f}"
        case "quantized":
            return _quantized(detail)
        case "finetune" | "adapter":
            rank = detail.get("rank")
            method = detail.get("method")
            known = [] if method in (None, "full") else [str(method)]
            return " ".join([*known, *([f"r{rank}"] if rank is not None else [])])
        case "edit":
            return str(detail.get("signature", ""))
        case "prune":
            fraction = detail.get("fraction")
            return f"{fraction:.0%}" if isinstance(fraction, int | float) else ""
        case "copy":
            return str(detail.get("cast") or detail.get("method") or "")
    return ""


def _quantized(detail: Mapping[str, Any]) -> str:
    named = detail.get("format")
    known = [] if named in (None, "dequantized") else [str(named)]
    if detail.get("type") is not None:
        return " ".join([*known, str(detail["type"])])
    bits = detail.get("bits")
    return " ".join([*known, *([f"{bits}-bit"] if bits is not None else [])])
