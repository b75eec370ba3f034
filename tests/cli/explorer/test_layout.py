"""The map: every model inside the circle, beside its kin, for any tree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkin.cli.explorer.layout import HIDDEN, LOST, lay_out
from modelkin.store.explorer import MapNodes

from .conftest import Served


def nodes_of(parents: list[int], *, refusal: list[float] | None = None) -> MapNodes:
    """A tree of which node i+1 hangs under parents[i] <= i, its nodes in the order of rings."""
    under = np.array([0, *parents], dtype=np.int64)
    distance = np.zeros(len(under), dtype=np.int32)
    for node in range(1, len(under)):
        distance[node] = distance[under[node]] + 1
    order = np.argsort(distance, kind="stable")
    place = np.argsort(order)
    n = len(under)
    return MapNodes(
        names=tuple(f"m{i}" for i in order),
        under=place[under[order]],
        distance=distance[order],
        hidden=np.zeros(n, dtype=np.bool_),
        lost=np.zeros(n, dtype=np.bool_),
        refusal=np.array(refusal if refusal is not None else [math.nan] * n),
        total=np.zeros(n, dtype=np.int64),
    )


trees = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.integers(0, i) for i in range(n - 1))).map(list)
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_every_model_has_a_place_of_its_own(parents: list[int]) -> None:
    drawing = lay_out(nodes_of(parents))
    assert np.isfinite(drawing.position).all()
    assert (np.linalg.norm(drawing.position, axis=1) <= 1 + 1e-6).all()
    assert len({(round(float(x), 5), round(float(y), 5)) for x, y in drawing.position}) == len(
        drawing.position
    )


@settings(max_examples=40, deadline=None)
@given(trees)
def test_branches_do_not_cross(parents: list[int]) -> None:
    nodes = nodes_of(parents)
    position = lay_out(nodes).position.astype(np.float64)
    angle = np.arctan2(position[:, 1], position[:, 0]) % (2 * np.pi)
    for ring in range(1, int(nodes.distance.max()) + 1):
        here = np.flatnonzero(nodes.distance == ring)
        in_order = nodes.under[here[np.argsort(angle[here])]].tolist()
        runs = [one for at, one in enumerate(in_order) if at == 0 or in_order[at - 1] != one]
        # Angles wrap, so the first family of a ring may be cut in two; no other may.
        assert len(runs) - len(set(runs)) <= 1


def test_a_hundred_thousand_children_fill_a_disc() -> None:
    drawing = lay_out(nodes_of([0] * 100_000))
    radius = np.linalg.norm(drawing.position, axis=1)[1:]
    assert np.ptp(radius) > 0.3


def test_colours_follow_retention() -> None:
    nodes = nodes_of([0, 0, 0, 0], refusal=[0.9, 0.9, 0.0, math.nan, 0.5])
    assert lay_out(nodes).mark.tolist() == [5, 5, 1, 0, 3]
    without = nodes_of([0], refusal=[0.0, 0.5])
    assert lay_out(without).mark.tolist() == [0, 0]


def test_the_bytes_hold_the_map(served: Served) -> None:
    reply = served.ask("/map/layout", model="lab/base")
    n = int(np.frombuffer(reply.body[:4], "<u4")[0])
    assert n == 13
    assert len(reply.body) == 4 + n * 13
    names = served.ask("/map/names", model="lab/base").json()
    marks = dict(zip(names, reply.body[4 + n * 12 :], strict=True))
    assert marks["dave/freed"] & LOST
    assert marks["hidden:5eed"] & HIDDEN
    under = np.frombuffer(reply.body[4 + n * 8 : 4 + n * 12], "<u4")
    parents = {name: names[under[at]] for at, name in enumerate(names)}
    assert parents["erin/freed-8bit"] == "dave/freed"
    assert parents["carol/blend"] == "alice/chat"


@pytest.mark.parametrize("path", ["/map/layout", "/map/names", "/map/picture.svg"])
def test_a_map_of_nothing_is_told(served: Served, path: str) -> None:
    assert served.ask(path, model="nobody/nothing").status == 404
    assert served.ask(path, model="erin/freed-8bit").status == 200
