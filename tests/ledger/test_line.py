"""The line of those who wait for money: in order, without starving anybody, and nobody waits in vain."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import Budget
from router.ledger.line import Line
from router.ledger.money import Standing
from router.ledger.operations import Reserve, ignore

TASKS = ("", "a", "b")
BUDGETS = (Budget(usd=1), Budget(usd=1, task="a"), Budget(usd=1, task="b"), Budget(usd=1, model="m"))


def line_of(*asks: tuple[str, str, int], left: int = 10, free: int = 10, **others: int) -> Line:
    """A line before a budget over everything, one for each task and one for a model; amounts in units.

    `others`: what those of the tasks, or of the model, have left.
    """
    line = Line(BUDGETS)
    stand(line, left=left, free=free, **others)
    for key, task, units in asks:
        line.join(Reserve(key, "m" if task == "" else "x", task, units, ignore, waits=True))
    return line


def stand(line: Line, *, left: int, free: int, **others: int) -> None:
    lefts = [left, others.get("a", 1000), others.get("b", 1000), others.get("m", 1000)]
    frees = [free, others.get("free_a", 1000), others.get("free_b", 1000), others.get("free_m", 1000)]
    line.see([Standing(1, 2, now, max(now, then)) for now, then in zip(lefts, frees, strict=True)])


def ready(line: Line) -> list[str]:
    return [ask.key for ask in line.ready()]


def test_those_who_came_first_go_first_as_far_as_the_money_goes() -> None:
    line = line_of(("1", "", 4), ("2", "", 4), ("3", "", 4))
    assert ready(line) == ["1", "2"]
    assert len(line) == 3, "it is not certain yet that they get it"


def test_a_small_one_does_not_overtake_a_large_one_that_waits_for_the_same_money() -> None:
    assert ready(line_of(("large", "", 11), ("small", "", 1), free=20)) == []


def test_who_waits_for_one_task_holds_up_no_other_task() -> None:
    line = line_of(("a1", "a", 4), ("a2", "a", 4), ("b1", "b", 4), a=3, free_a=10)
    assert ready(line) == ["b1"]


def test_what_the_first_of_a_task_needs_of_the_whole_is_kept_for_it() -> None:
    line = line_of(("a1", "a", 4), ("b1", "b", 4), ("b2", "b", 4), a=3, free_a=10)
    assert ready(line) == ["b1"], "the second of the other task would leave too little for the first of this"


def test_only_the_first_of_those_who_wait_alike_has_money_kept_for_it() -> None:
    many = [(f"a{n}", "a", 4) for n in range(50)]
    assert ready(line_of(*many, ("b1", "b", 4), a=3, free_a=10)) == ["b1"]


def test_who_can_never_fit_leaves_wherever_it_stands() -> None:
    line = line_of(("1", "", 9), ("2", "", 12), ("3", "", 9), left=3, free=10)
    assert [ask.key for ask in line.hopeless()] == ["2"]
    stand(line, left=3, free=8)
    assert [ask.key for ask in line.hopeless()] == ["1", "3"]
    assert not line


def test_who_leaves_makes_way() -> None:
    line = line_of(("large", "", 11), ("small", "", 1), free=20)
    assert line.leave("large") is not None
    assert line.leave("large") is None
    assert ready(line) == ["small"]
    assert [ask.key for ask in line.hopeless()] == []


def test_the_refusal_names_the_budget_that_is_spent() -> None:
    line = line_of(left=5, free=10, a=2, free_a=2)
    refusal = line.refusal(Reserve("1", "x", "a", 6, ignore))
    assert refusal.final
    assert refusal.budget == BUDGETS[1]
    assert not line.refusal(Reserve("1", "x", "b", 6, ignore)).final


amounts = st.tuples(st.sampled_from(TASKS), st.integers(1, 12))


@settings(max_examples=200)
@given(st.lists(amounts, max_size=12), st.lists(st.integers(0, 12), min_size=4, max_size=4), st.data())
def test_whoever_is_ready_fits_beside_all_who_were_before_it(
    asks: list[tuple[str, int]], lefts: list[int], data: st.DataObject
) -> None:
    line = Line(BUDGETS)
    line.see([Standing(1, 2, left, 1000) for left in lefts])
    for key, (task, units) in enumerate(asks):
        line.join(Reserve(str(key), "m" if not task else "x", task, units, ignore, waits=True))
    for key in data.draw(st.sets(st.integers(0, 11))):
        line.leave(str(key))
    told = [int(ask.key) for ask in line.ready()]
    assert told == sorted(told)
    waiting = [key for key in range(len(asks)) if str(key) in line]
    left, stuck = list(lefts), set[tuple[int, ...]]()
    for key in waiting:  # the rule, in its simplest words
        task, units = asks[key]
        needs = tuple(
            n for n, b in enumerate(BUDGETS) if b.task in (None, task) and (not b.model or not task)
        )
        fits = needs not in stuck and all(left[n] >= units for n in needs)
        assert (key in told) == fits
        if needs not in stuck:
            for n in needs:
                left[n] -= units
        if not fits:
            stuck.add(needs)
    if waiting and all(limit >= 12 for limit in lefts):
        assert told[0] == waiting[0], "the first goes as soon as there is money for it"
