"""Answers about names are kept for short names, and for so many of them."""

from __future__ import annotations

from modelkin.lineage.remembered import LONGEST_KEPT, NAMES_KEPT, remembered


def test_a_short_name_is_answered_once_and_a_long_one_anew() -> None:
    asked: list[str] = []

    @remembered
    def length(name: str) -> int:
        asked.append(name)
        return len(name)

    short, long = "a" * LONGEST_KEPT, "b" * (LONGEST_KEPT + 1)
    assert [length(name) for name in (short, short, long, long)] == [256, 256, 257, 257]
    assert asked == [short, long, long]


def test_the_oldest_answer_makes_room_for_a_new_one() -> None:
    asked: list[str] = []

    @remembered
    def same(name: str) -> str:
        asked.append(name)
        return name

    for at in range(NAMES_KEPT + 1):
        same(str(at))
    asked.clear()
    assert (same(str(NAMES_KEPT)), same("0")) == (str(NAMES_KEPT), "0")
    assert asked == ["0"]
