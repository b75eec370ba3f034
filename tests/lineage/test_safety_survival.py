"""Retention by groups and doses, with intervals over lines and tests of the form of decline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.safety.survival import (
    Survivor,
    decline,
    dose_groups,
    isotonic,
    lines_of,
    survival_by,
)


def made(at: int, value: float, *, dose: float | None = None, line: str = "x") -> Survivor:
    return Survivor(
        model=f"m{at}",
        line=line,
        relation="quantized",
        retained=value,
        value=value,
        n=100,
        dose=dose,
    )


def test_intervals_come_from_lines_and_not_from_models() -> None:
    many = [made(at, 0.2, line="one") for at in range(50)]
    few = [made(99, 0.9, line="two")]
    one, both = survival_by(many, lambda _: "g")[0], survival_by([*many, *few], lambda _: "g")[0]
    assert one.interval is None
    assert (both.models, both.lines) == (51, 2)
    assert both.interval is not None
    assert both.interval.high - both.interval.low > 0.5


DOSES = np.linspace(0.01, 0.5, 12)


@pytest.mark.parametrize(
    ("values", "turns", "step"),
    [
        ([1.0] * 6 + [0.05] * 6, False, True),
        (list(np.linspace(0.95, 0.1, 12)), False, False),
        ([0.9, 0.1] * 6, True, False),
        ([0.95] * 12, False, False),
    ],
    ids=["step", "line", "zigzag", "flat"],
)
def test_the_form_of_a_decline_is_told(values: list[float], turns: bool, step: bool) -> None:
    found = decline(
        made(at, value, dose=float(dose))
        for at, (value, dose) in enumerate(zip(values, DOSES, strict=True))
    )
    assert found is not None
    assert (found.monotone_p < 0.05) is turns
    if not turns:
        assert (found.threshold_p < 0.05) is step
    if step:
        assert DOSES[5] < found.step < DOSES[6]


def test_three_doses_tell_nothing() -> None:
    assert decline(made(at, 0.5, dose=0.1 * (at % 3)) for at in range(20)) is None
    assert decline([made(1, 0.5)]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9)), min_size=1, max_size=30))
def test_the_isotonic_fit_never_rises_and_keeps_the_mean(rows: list[tuple[float, float]]) -> None:
    values, weights = (np.array(column) for column in zip(*rows, strict=True))
    fitted = isotonic(values, weights)
    assert np.all(np.diff(fitted) <= 1e-12)
    assert np.average(fitted, weights=weights) == pytest.approx(np.average(values, weights=weights))
    assert isotonic(fitted, weights) == pytest.approx(fitted)


def test_doses_and_lines_have_names() -> None:
    key = dose_groups([0.01, 0.1])
    assert [key(made(1, 1, dose=d)) for d in (0.001, 0.05, 3.0, None)] == [
        "0 to 0.01",
        "0.01 to 0.1",
        "above 0.1",
        None,
    ]
    parents = {"b": ["a"], "c": ["b"], "loop": ["pool"], "pool": ["loop"]}
    assert lines_of("a", ["b", "c", "loop"], parents) == {"b": "b", "c": "b", "loop": "pool"}
