"""Who leaves memory for another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.residency.value import HALF_LIFE, Held, Uses, leavers, occupied, value

HELD = st.builds(
    Held, own=st.integers(1, 100), weights=st.integers(0, 100), source=st.sampled_from(["a", "b", "c"])
).map(lambda one: Held(one.own, {"a": 10, "b": 50, "c": 0}[str(one.source)], one.source))
IDLE = st.lists(st.tuples(HELD, st.floats(0, 10)), max_size=6)


def test_weights_that_several_hold_count_once() -> None:
    assert occupied([Held(1, 10, "a"), Held(2, 10, "a"), Held(4, 50, "b")]) == 67


def test_a_use_counts_half_after_its_half_life() -> None:
    uses = Uses()
    uses.note(100.0)
    uses.note(100.0)
    assert uses.count(100.0) == 2
    assert uses.count(100.0 + HALF_LIFE) == pytest.approx(1.0)
    uses.note(100.0 + HALF_LIFE)
    assert uses.count(100.0 + HALF_LIFE) == pytest.approx(2.0)
    assert uses.count(1e9) == 0


@given(st.floats(0, 1e6), st.floats(0.001, 1e4), st.integers(1, 10**12))
def test_what_is_used_more_or_slower_to_load_or_smaller_is_worth_more(
    uses: float, seconds: float, size: int
) -> None:
    worth = value(uses, seconds, size)
    assert value(uses + 1, seconds, size) > worth
    assert value(uses, 2 * seconds, size) >= worth
    assert value(uses, seconds, 2 * size) <= worth


@given(st.lists(HELD, max_size=4), IDLE, st.integers(-10, 400))
def test_those_who_leave_free_enough_and_nobody_leaves_in_vain(
    staying: list[Held], idle: list[tuple[Held, float]], needed: int
) -> None:
    everybody = [one for one, _ in idle]

    def freed(gone: list[int]) -> int:
        left = [one for place, one in enumerate(everybody) if place not in gone]
        return occupied([*staying, *everybody]) - occupied([*staying, *left])

    chosen = leavers(staying, idle, needed)
    if chosen is None:
        assert freed(list(range(len(idle)))) < needed
        return
    assert freed(chosen) >= needed
    assert len(set(chosen)) == len(chosen)
    for place in chosen:
        assert freed([other for other in chosen if other != place]) < needed


def test_the_least_valuable_leaves_first() -> None:
    idle = [(Held(10, 0, "x"), 3.0), (Held(10, 0, "y"), 1.0), (Held(10, 0, "z"), 2.0)]
    assert leavers([], idle, 10) == [1]
    assert sorted(leavers([], idle, 15) or ()) == [1, 2]
    assert leavers([], idle, 31) is None
    assert leavers([], idle, 0) == []


def test_a_small_one_is_spared_if_a_more_valuable_large_one_has_to_leave_anyway() -> None:
    assert leavers([], [(Held(1, 0, "x"), 1.0), (Held(50, 0, "y"), 2.0)], 20) == [1]


def test_whoever_shares_weights_with_one_that_stays_frees_only_its_own() -> None:
    idle = [(Held(5, 100, "a"), 0.0), (Held(60, 1, "b"), 9.0)]
    assert leavers([Held(5, 100, "a")], idle, 50) == [1]
    assert leavers([], idle, 50) == [0]
