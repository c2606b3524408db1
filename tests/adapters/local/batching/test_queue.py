"""Who is next."""

from __future__ import annotations

from collections import Counter

from adapters.local.batching.queue import FairQueue

NOBODY: Counter[str | None] = Counter()


def order(queue: FairQueue[str], at_work: Counter[str | None] = NOBODY) -> list[str]:
    return [queue.pop(at_work) for _ in range(len(queue))]


def filled(**sessions: int) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for session, count in sessions.items():
        for number in range(count):
            queue.push(f"{session}{number}", session)
    return queue


def test_sessions_take_turns_and_each_is_served_in_order() -> None:
    assert order(filled(a=4, b=1, c=2)) == ["a0", "b0", "c0", "a1", "c1", "a2", "a3"]


def test_one_session_is_served_in_order() -> None:
    assert order(filled(a=3)) == ["a0", "a1", "a2"]


def test_a_session_that_is_at_work_waits_for_those_that_are_not() -> None:
    queue = filled(a=2, b=2)
    assert order(queue, Counter({"a": 3, "b": 1})) == ["b0", "b1", "a0", "a1"]


def test_who_had_to_make_room_is_the_first_of_its_session() -> None:
    queue = filled(a=2)
    queue.push("again", "a", first=True)
    assert order(queue) == ["again", "a0", "a1"]


def test_one_is_taken_out_wherever_it_is() -> None:
    queue = filled(a=2, b=1)
    assert queue.remove("a1")
    assert queue.remove("b0")
    assert not queue.remove("b0")
    assert (len(queue), order(queue)) == (1, ["a0"])


def test_looking_takes_nothing_out() -> None:
    queue = filled(a=1)
    assert queue.peek(NOBODY) == "a0"
    assert len(queue) == 1
    assert queue.clear() == ["a0"]
    assert queue.peek(NOBODY) is None
