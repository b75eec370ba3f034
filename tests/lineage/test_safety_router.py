"""Which models are run, and what the random audit says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from modelkin.lineage.safety.router import Signals, miss_rate, route


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"claim": 1.0}, "claims to be without"),
        ({"tool": 1.0}, "left its trace"),
        ({"signature": "edit"}, "signature"),
        ({"conflict": True}, "disagree"),
        ({"kin": 0.9}, "kin of a stripped"),
    ],
)
def test_every_flag_is_followed(fields: dict[str, Any], why: str) -> None:
    found = route(Signals(model="a/b", **fields), audit=0.02, seed="1")
    assert found.runs
    assert not found.audit
    assert why in found.why


def test_the_audit_draws_its_share_and_other_models_each_time() -> None:
    def drawn(seed: str) -> set[int]:
        quiet = {"claim": -1.0, "tool": 0.0, "signature": "none", "kin": 0.1}
        return {
            at
            for at in range(4000)
            if route(Signals(model=f"m{at}", **quiet), audit=0.05, seed=seed).runs
        }

    first, second = drawn("1"), drawn("2")
    assert first == drawn("1")
    assert 140 <= len(first) <= 260
    assert len(first & second) < 40


def test_no_audit_is_no_option() -> None:
    with pytest.raises(ValueError, match="audit"):
        route(Signals(model="a"), audit=0.0, seed="1")


def test_the_miss_rate_has_its_denominator() -> None:
    assert miss_rate([]) is None
    found = miss_rate([False] * 59)
    assert found is not None
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0.05 < found.high < 0.07
