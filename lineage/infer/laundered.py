"""A model whose weights resemble nobody's although its function is somebody's.

Hidden units and heads can be permuted, up and down (or value and output) rescaled against each
other, the residual channels permuted and flipped, or the residual space rotated with the norms'
gains folded into the matrices that read it. None of it changes what the model computes; all of it
hides the weights from a comparison in place. `unwash` undoes it for one candidate; here the source
is chosen.

What a sketch can tell. Permuted units whose writers are otherwise untouched leave the sorted rows
of the writers as they were, exactly, at any size. A change of the residual basis is undone through
a handful of embedding rows, at any size, as long as units stay in place. Units permuted in a basis
that changed as well, or rescaled, are found again where enough of them are sampled on both sides:
in models of some thousand units or fewer. Above that the answer is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..compute import Compute
from ..sketch.plan import is_writer
from .across_layers import upper_tail
from .delta import same_rows_permuted
from .specimen import Specimen
from .unwash import Fit, Space, fit, row_gram, space_of

MAX_CANDIDATES = 32
FALSE_RATE = 1e-3
SAME_ROWS = 0.99
MIN_AGREEMENT = 0.5
TIE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Laundering:
    """The source of a laundered model.

    `candidate` is its number among the candidates; `done` what was undone to find it; `agreement`
    the mean absolute cosine of units matched by other weights of theirs, over `units` of them, `z`
    the same against units matched at random and `p_value` its tail, times the number of candidates
    looked at; `residual` what is left of one minus the squared cosines once all is undone,
    `runner_up` and `runner_up_residual` the next candidate and its own. `exact` is the share of
    sampled writer rows that hold the source's values in another order.
    """

    candidate: int
    done: tuple[str, ...]
    agreement: float
    z: float
    p_value: float
    units: int
    residual: float
    exact: float
    runner_up: int | None = None
    runner_up_residual: float | None = None


def find_source(
    child: Specimen,
    candidates: Sequence[Specimen],
    *,
    compute: Compute,
    above: Mapping[int, int] | None = None,
) -> Laundering | None:
    """Look for the model that a laundered one was made from.

    Parameters
    ----------
    child : a model that resembles nobody directly.
    candidates : models of its shape. Later ones are passed over where both have dates; among
        equals the first is taken.
    above : parents of candidates among them. What a sketch compares does not tell a model from
        its laundered copies and edits of writers alone: where nothing parts a candidate from its
        parent, the parent is the source.

    Returns
    -------
    None when no candidate agrees beyond chance at a false rate of `FALSE_RATE` a child, or when the
    sketch holds too little to say.

    Notes
    -----
    All candidates are sorted by the Gram matrix of their embedding rows, which nothing here
    changes; the 32 nearest are tried. Each costs a singular value decomposition of as many rows
    as were sampled and a product of its hidden units with the child's.
    """
    mine = space_of(child)
    if mine is None:
        return None
    likely = _likely(child, mine, candidates, compute)
    fits = {at: fit(mine, theirs) for at, theirs in likely.items()}
    exact = {at: same_rows_permuted(child, candidates[at]) for at in likely}
    believed = [
        at
        for at, found in fits.items()
        if exact[at] >= SAME_ROWS or (found is not None and _beyond_chance(found, len(fits)))
    ]
    chosen = _chosen(believed, fits, exact, tried=len(fits), above=above or {})
    if chosen is None or chosen.exact < SAME_ROWS:
        return chosen
    return replace(chosen, done=_shuffled_writers(child, candidates[chosen.candidate]))


def _shuffled_writers(child: Specimen, source: Specimen) -> tuple[str, ...]:
    """What was permuted where nothing else was done: the writers whose columns moved."""
    moved = {
        block.key.role.rpartition(".")[2]
        for name, block in child.blocks.items()
        if name in source.blocks
        and is_writer(block.key)
        and not np.array_equal(block.values, source.blocks[name].values)
    }
    names = {"down": "mlp-permutation", "o": "head-permutation"}
    return tuple(name for writer, name in names.items() if writer in moved)


def _likely(
    child: Specimen, mine: Space, candidates: Sequence[Specimen], compute: Compute
) -> dict[int, Space]:
    """The earlier candidates whose embedding rows lie to each other as the child's do."""
    own = row_gram(mine.tokens, compute=compute)
    away: dict[int, tuple[float, Space]] = {}
    for at, candidate in enumerate(candidates):
        theirs = space_of(candidate)
        if candidate.node == child.node or not _earlier(candidate, child) or theirs is None:
            continue
        if theirs.tokens.shape != mine.tokens.shape:
            theirs = theirs.cut(len(mine.tokens))
        if theirs.tokens.shape[1] == mine.tokens.shape[1]:
            n = len(theirs.tokens)
            gram = row_gram(theirs.tokens, compute=compute)
            away[at] = float(((own[:n, :n] - gram) ** 2).mean()), theirs
    nearest = sorted(away, key=lambda at: away[at][0])[:MAX_CANDIDATES]
    return {at: away[at][1] for at in nearest}


def _earlier(candidate: Specimen, child: Specimen) -> bool:
    if candidate.created is None or child.created is None:
        return True
    return candidate.created < child.created


def _beyond_chance(found: Fit, tried: int) -> bool:
    """Whether the units are the same ones.

    Exchangeability alone is not enough: models of one recipe and one text learn some units alike,
    and reach a z of 9 with an agreement of 0.28 over a third of their units. What preserves the
    function keeps every unit and an agreement of 1; half of both is asked for.
    """
    alike = found.covered and found.agreement > MIN_AGREEMENT
    return alike and upper_tail(found.z) * tried < FALSE_RATE


def _chosen(
    believed: Sequence[int],
    fits: dict[int, Fit | None],
    exact: dict[int, float],
    *,
    tried: int,
    above: Mapping[int, int],
) -> Laundering | None:
    """The nearest of the believed once everything is undone, or what it is a twin of."""

    def order(at: int) -> tuple[bool, float, int]:
        found = fits[at]
        left = 1.0 if found is None else found.residual
        return exact[at] < SAME_ROWS, max(left, TIE), at

    ranked = sorted(believed, key=order)
    if not ranked:
        return None
    best = ranked[0]
    while _are_twins(best, above.get(best), ranked, fits, exact):
        best = above[best]
    found = fits[best]
    second = next((at for at in ranked if at != best), None)
    runner = None if second is None else fits[second]
    return Laundering(
        candidate=best,
        done=found.done if found is not None else ("mlp-permutation",),
        agreement=found.agreement if found is not None else 0.0,
        z=found.z if found is not None else 0.0,
        p_value=min(1.0, upper_tail(found.z) * tried) if found is not None else 1.0,
        units=found.units if found is not None else 0,
        residual=found.residual if found is not None else 0.0,
        exact=exact[best],
        runner_up=second,
        runner_up_residual=runner.residual if runner is not None else None,
    )


def _are_twins(
    one: int,
    parent: int | None,
    believed: Sequence[int],
    fits: dict[int, Fit | None],
    exact: dict[int, float],
) -> bool:
    """Whether a candidate's parent fits the child exactly as well as itself."""
    if parent is None or parent not in believed:
        return False
    if (exact[one] >= SAME_ROWS) != (exact[parent] >= SAME_ROWS):
        return False
    mine, theirs = fits[one], fits[parent]
    if mine is None or theirs is None:
        return False
    return theirs.residual <= max(mine.residual * (1 + TIE), TIE)
