"""What one step computes: nobody is left out, nobody waits for nothing, no step is too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.batching.scheduler import BLOCK, Lane, Limits, Pace, begins_with, plan_step


def lane(pending: int, computed: int = 0) -> Lane:
    return Lane([0] * (computed + pending), computed=computed)


def mixed(lanes: list[Lane], most: int, piece: int) -> list[tuple[Lane, int]]:
    """A step without blocks."""
    return plan_step(lanes, Limits(mixed=most, piece=piece))


lanes = st.lists(st.integers(1, 300).map(lane), max_size=20)
long_lanes = st.lists(st.builds(lane, st.integers(1, 1200), st.integers(0, 1100)), max_size=20)


@given(lanes, st.integers(20, 63), st.integers(1, 63))
def test_answers_always_go_on_and_a_step_is_never_longer_than_allowed(
    at_work: list[Lane], most: int, piece: int
) -> None:
    plan = mixed(at_work, most, piece)
    answers = [one for one in at_work if one.pending == 1]
    assert [one for one, _ in plan][: len(answers)] == answers
    assert sum(size for _, size in plan) <= most
    assert all(1 <= size <= one.pending for one, size in plan)
    assert len({id(one) for one, _ in plan}) == len(plan)
    if answers:
        assert sum(size for _, size in plan[len(answers) :]) <= piece
    if at_work:
        assert plan
    if len(answers) < min(len(at_work), most):
        oldest = next(one for one in at_work if one.pending > 1)
        room = min(most - len(answers), piece) if answers else most
        assert {id(one): size for one, size in plan}[id(oldest)] >= min(oldest.pending, (room + 1) // 2)
        assert sum(size for _, size in plan) == len(answers) + min(
            room, sum(one.pending for one in at_work if one.pending > 1)
        )


@given(lanes, st.integers(20, 63))
def test_every_chat_gets_done(at_work: list[Lane], most: int) -> None:
    total = sum(one.pending for one in at_work)
    for _ in range(total):
        for one, size in mixed(at_work, most, 8):
            one.computed += size
        at_work = [one for one in at_work if one.pending]
    assert not at_work


def test_a_short_prompt_passes_a_long_one_that_still_goes_on() -> None:
    long, short = lane(2000), lane(20)
    assert mixed([long, short], 63, 63) == [(long, 43), (short, 20)]


def test_many_short_prompts_do_not_stop_a_long_one() -> None:
    long = lane(2000)
    plan = mixed([long, *(lane(30) for _ in range(20))], 63, 63)
    assert plan[0] == (long, 32)


def test_a_chat_waits_for_who_computes_its_beginning_and_no_longer() -> None:
    first, second = lane(200), lane(220)
    begins_with(second, 0, [(first, 150)])
    assert second.waits
    assert mixed([first, second], 63, 63) == [(first, 63)]
    first.computed = 150
    assert not second.waits


def test_nobody_waits_for_what_is_held_or_is_hardly_anything() -> None:
    first, second = lane(200), lane(220)
    begins_with(second, 140, [(first, 150)])
    assert not second.waits
    begins_with(second, 0, [(first, 10)])
    assert not second.waits
    first.computed = 150
    begins_with(second, 0, [(first, 150)])
    assert not second.waits


def test_the_same_prompt_twice_waits_for_all_but_its_last_token() -> None:
    first, second = lane(100), lane(100)
    begins_with(second, 0, [(first, 100)])
    assert second.shared == 99


@given(long_lanes, st.integers(BLOCK, 448), st.integers(8, 448), st.integers(0, 9))
def test_a_long_prompt_goes_in_blocks_of_its_own_and_leaves_no_small_rest(
    at_work: list[Lane], block: int, piece: int, turn: int
) -> None:
    plan = plan_step(at_work, Limits(mixed=63, piece=piece, block=block), turn)
    assert all(1 <= size <= one.pending for one, size in plan)
    if not any(size >= BLOCK for _, size in plan):
        assert sum(size for _, size in plan) <= 63
        return
    ((one, size),) = plan
    rest = one.near - size
    assert rest == 0 or (rest >= BLOCK and size % BLOCK == 0)
    assert size < (piece if any(other.pending == 1 for other in at_work) else block) + BLOCK


@given(long_lanes, st.integers(8, 448))
def test_with_blocks_every_chat_gets_done_and_answers_wait_for_no_more_than_a_piece(
    at_work: list[Lane], piece: int
) -> None:
    total = sum(one.pending for one in at_work)
    waited = steps = 0
    for turn in range(2 * total):
        plan = plan_step(at_work, Limits(mixed=63, piece=piece, block=448), turn)
        answers = [one for one in at_work if one.pending == 1]
        if not answers or plan[0][0] in answers:
            waited = steps = 0
        else:
            waited, steps = waited + sum(size for _, size in plan), steps + 1
            assert steps == 1 or waited <= piece
        for one, size in plan:
            one.computed += size
        at_work = [one for one in at_work if one.pending]
    assert not at_work


@pytest.mark.parametrize(("piece", "alone"), [(40, 0), (100, 1), (200, 3)])
def test_many_short_prompts_begin_nearly_together(piece: int, alone: int) -> None:
    """As far as a piece goes, steps are theirs alone: else the first to begin would end long before the last."""
    at_work, limits = (
        [lane(1, 30), *(lane(23, 188) for _ in range(31))],
        Limits(mixed=63, piece=piece, block=448),
    )
    turns = range(4 * (alone + 1))
    steps = [plan_step(at_work, limits, turn) for turn in turns]
    assert [plan[0][0] is not at_work[0] for plan in steps] == [turn % (alone + 1) > 0 for turn in turns]
    assert all(sum(size for _, size in plan) <= 63 for plan in steps)


def test_few_short_prompts_go_with_the_answers() -> None:
    at_work = [lane(1, 30), lane(23, 188), lane(23, 188)]
    for turn in range(4):
        assert plan_step(at_work, Limits(mixed=63, piece=200, block=448), turn)[0][0] is at_work[0]


def test_a_prompt_is_cut_where_llama_cuts_it() -> None:
    limits = Limits(mixed=63, piece=512, block=512)
    one, cut = lane(512 + 512 + 20), []
    while one.pending:
        ((_, size),) = plan_step([one], limits)
        cut.append(size)
        one.computed += size
    assert cut == [512, 512, 20]
    one, cut = lane(500, computed=448), []
    while one.pending:
        ((_, size),) = plan_step([one], limits)
        cut.append(size)
        one.computed += size
    assert cut == [64, 436]


def test_blocks_are_by_turns_the_oldest_prompts_and_the_shortest_ones() -> None:
    long, short = lane(2000), lane(300)
    limits = Limits(mixed=63, piece=448, block=128)
    assert [plan_step([long, short], limits, turn) for turn in (1, 3, 5)] == [
        [(short, 128)],
        [(long, 128)],
        [(short, 128)],
    ]


def test_pieces_follow_the_machine_between_their_bounds() -> None:
    pace = Pace(least=8, most=448, first=64)
    assert pace.within(0.25) == 64
    pace.took(64, 64e-6)
    assert pace.within(0.25) == 448
    for _ in range(50):
        pace.took(20, 20 * 0.01)
    assert pace.within(0.25) in {24, 25}
    assert pace.within(1.0) in {99, 100}
    for _ in range(50):
        pace.took(20, 20.0)
    assert pace.within(0.25) == 8
    pace.took(1, 0.0001)  # too few tokens to tell
    assert pace.within(0.25) == 8
