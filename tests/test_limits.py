"""Limits: windows that never hold too much, a queue in order, wake-ups that are never lost, honest forecasts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router import RateLimit
from router.limits import WINDOW, Ask, Limiter, Limits, Queues, Seat
from router.limits import line as line_module
from router.limits.belief import LEAST, PACED, RECOVERY, SUSPICION, Belief
from router.limits.learned import FORGET, STEP, Learned
from router.limits.window import GRAIN
from router.profile import Profile

WORK = 2.0
TIMES = st.floats(min_value=0.0, max_value=30.0)
TOKENS = st.floats(min_value=0.1, max_value=150.0)


def limiter_of(rpm: int | None = None, tpm: int | None = None, places: int | None = None) -> Limiter:
    return Limiter(Limits(rpm, tpm, places))


def admitted(limiter: Limiter, now: float, tokens: float = 1.0) -> bool:
    """Whether a request that does not wait may go; it is sent then."""
    return limiter.join(tokens, now, WORK, at_once=True).granted


class Rung:
    """Counts how often somebody was woken."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return True


def nobody() -> bool:
    """Wakes one who looks by himself."""
    return True


class TestRequestsPerMinute:
    def test_the_window_slides(self) -> None:
        limiter = limiter_of(rpm=2)
        assert admitted(limiter, 0.0)
        assert admitted(limiter, 10.0)
        assert limiter.wait(1, 30.0) == WINDOW - 30.0
        assert not admitted(limiter, 60.0), "what was sent at 0 may have arrived a little later"
        assert admitted(limiter, WINDOW)
        assert limiter.wait(1, WINDOW) == 10.0

    def test_a_look_takes_nothing(self) -> None:
        limiter = limiter_of(rpm=1)
        for _ in range(5):
            assert limiter.wait(1, 0.0) == 0.0
        assert admitted(limiter, 0.0)

    def test_who_is_turned_away_takes_nothing(self) -> None:
        limiter = limiter_of(rpm=1)
        assert admitted(limiter, 0.0)
        for second in range(1, 60):
            assert not admitted(limiter, float(second))
        assert admitted(limiter, WINDOW)

    @given(rpm=st.integers(1, 5), steps=st.lists(TIMES, max_size=60))
    def test_no_window_of_a_minute_holds_more_than_the_limit(self, rpm: int, steps: list[float]) -> None:
        limiter = limiter_of(rpm=rpm)
        now, sent = 0.0, list[float]()
        for step in steps:
            now += step
            if admitted(limiter, now):
                sent.append(now)
            else:
                recent = [at for at in sent if at + WINDOW + GRAIN > now]
                assert len(recent) >= rpm, "turned away although the window has room"
        for first in sent:
            assert sum(first <= at < first + WINDOW for at in sent) <= rpm

    @given(rpm=st.integers(1, 5), steps=st.lists(TIMES, max_size=40))
    def test_whoever_comes_back_after_the_wait_may_go(self, rpm: int, steps: list[float]) -> None:
        limiter, now = limiter_of(rpm=rpm), 0.0
        for step in steps:
            now += step
            wait = limiter.wait(1, now)
            assert 0.0 <= wait <= WINDOW + 1e-9
            while wait > 0.0:  # sums of fractions are rounded
                now += max(wait, 1e-9)
                wait = limiter.wait(1, now)
            assert admitted(limiter, now)


class TestTokensPerMinute:
    def test_tokens_leave_the_window_with_their_request(self) -> None:
        limiter = limiter_of(tpm=100)
        assert admitted(limiter, 0.0, 60)
        assert admitted(limiter, 5.0, 30)
        assert admitted(limiter, 6.0, 10)
        assert limiter.wait(10, 20.0) == WINDOW - 20.0, "the first request alone makes room enough"
        assert limiter.wait(95, 20.0) == WINDOW - 14.0, "the third must leave, too"

    def test_a_request_larger_than_the_limit_waits_for_an_empty_window_not_for_ever(self) -> None:
        limiter = limiter_of(tpm=100)
        assert admitted(limiter, 0.0, 500)
        assert not admitted(limiter, 10.0)
        assert admitted(limiter, WINDOW, 500)

    def test_fractions_of_tokens_do_not_add_up_to_an_overdraft(self) -> None:
        limiter = limiter_of(tpm=10)
        for minute in range(50):
            now = minute * 61.0
            for _ in range(10):
                assert admitted(limiter, now, 0.7)
            assert not admitted(limiter, now, 0.7)

    def test_tokens_that_were_not_needed_are_free_for_others_at_once(self) -> None:
        limiter = limiter_of(tpm=100)
        seat = limiter.join(100, 0.0, WORK)
        assert not admitted(limiter, 1.0, 40)
        limiter.settle(seat, 60, 2.0)
        limiter.leave(seat, 2.0, sent=True)
        assert admitted(limiter, 2.0, 40)
        assert not admitted(limiter, 2.0, 1)
        assert admitted(limiter, WINDOW + 1.0, 60), "what was given back is not given back twice"
        assert not admitted(limiter, WINDOW + 1.0, 1)

    def test_who_waits_is_let_go_by_an_answer_that_was_shorter_than_feared(self) -> None:
        limiter = limiter_of(tpm=100)
        long, waits = limiter.join(100, 0.0, WORK), limiter.join(50, 0.0, WORK)
        rung = Rung()
        limiter.claim(waits, 0.0, rung)
        limiter.settle(long, 30, 1.0)
        assert waits.granted
        assert rung.times == 1

    @settings(max_examples=60)
    @given(tpm=st.integers(50, 200), calls=st.lists(st.tuples(TIMES, TOKENS), max_size=60))
    def test_no_window_holds_more_tokens_than_the_limit_but_for_one_huge_request(
        self, tpm: int, calls: list[tuple[float, float]]
    ) -> None:
        limiter = limiter_of(tpm=tpm)
        now, sent = 0.0, list[tuple[float, float]]()
        for step, tokens in calls:
            now += step
            if admitted(limiter, now, tokens):
                sent.append((now, tokens))
        for first, _ in sent:
            held = [tokens for at, tokens in sent if first <= at < first + WINDOW]
            assert sum(math.ceil(tokens) for tokens in held) <= tpm or len(held) == 1


class TestPlaces:
    def test_a_place_is_free_again_when_a_request_is_over_and_not_by_time(self) -> None:
        limiter = limiter_of(places=2)
        first, _ = limiter.join(1, 0.0, WORK), limiter.join(1, 0.0, WORK)
        assert not admitted(limiter, 1e6)
        limiter.leave(first, 1e6, sent=True)
        assert admitted(limiter, 1e6)

    def test_a_request_that_ends_twice_makes_no_extra_place(self) -> None:
        limiter = limiter_of(places=1)
        seat = limiter.join(1, 0.0, WORK)
        limiter.leave(seat, 1.0, sent=True)
        limiter.leave(seat, 1.0, sent=True)
        assert admitted(limiter, 1.0)
        assert not admitted(limiter, 1.0)

    def test_a_request_that_was_not_sent_counts_in_no_minute(self) -> None:
        limiter = limiter_of(rpm=1, places=1)
        seat = limiter.join(1, 0.0, WORK)
        limiter.leave(seat, 0.0)
        assert admitted(limiter, 0.0)

    def test_a_forked_child_runs_nothing_but_keeps_the_window(self) -> None:
        limiter = limiter_of(rpm=2, places=1)
        limiter.join(1, 0.0, WORK)
        limiter.join(1, 0.0, WORK)
        limiter.after_fork()
        assert limiter.waiting == limiter.running == 0
        assert admitted(limiter, 1.0)
        limiter.after_fork()
        assert not admitted(limiter, 2.0)


class TestForecast:
    @staticmethod
    def comes_true(limiter: Limiter, tokens: int, now: float) -> bool:
        """Whether the last who came has its turn when that was told, to a second."""
        told = limiter.wait(tokens, now)
        last = limiter.join(tokens, now, WORK)
        began = now
        while not last.granted:
            limiter.claim(last, now, nobody)
            now += 0.25
        return now - began == pytest.approx(told, abs=1.0)

    def test_those_who_wait_are_part_of_it(self) -> None:
        limiter = limiter_of(places=2)
        for _ in range(10):
            limiter.join(1, 0.0, WORK)
        assert limiter.waiting == 8
        assert limiter.wait(1, 0.0) == pytest.approx(9 * WORK / 2)

    def test_it_counts_only_those_ahead(self) -> None:
        limiter = limiter_of(places=1)
        seats = [limiter.join(1, 0.0, WORK) for _ in range(5)]
        assert [limiter.left(seat, 0.0) for seat in seats] == [0.0, WORK, 2 * WORK, 3 * WORK, 4 * WORK]

    @given(rpm=st.integers(1, 6), before=st.integers(0, 6), waiting=st.integers(0, 20))
    def test_the_wait_for_a_rate_is_the_one_that_comes_true(
        self, rpm: int, before: int, waiting: int
    ) -> None:
        limiter, now = limiter_of(rpm=rpm), 100.0
        for place in range(min(before, rpm)):
            assert admitted(limiter, now - 50.0 + 5.0 * place)
        for _ in range(waiting):
            limiter.join(1, now, WORK)
        assert self.comes_true(limiter, 1, now)

    @given(fit=st.integers(1, 6), before=st.integers(0, 6), waiting=st.integers(0, 20))
    def test_the_wait_for_tokens_is_the_one_that_comes_true_where_requests_are_alike(
        self, fit: int, before: int, waiting: int
    ) -> None:
        limiter, now = limiter_of(tpm=10 * fit), 100.0
        for place in range(min(before, fit)):
            assert admitted(limiter, now - 50.0 + 5.0 * place, 10)
        for _ in range(waiting):
            limiter.join(10, now, WORK)
        assert self.comes_true(limiter, 10, now)


class TestQueue:
    def test_a_small_request_does_not_overtake_a_large_one(self) -> None:
        limiter = limiter_of(tpm=100)
        assert admitted(limiter, 0.0, 60)
        large, small = limiter.join(90, 1.0, WORK), limiter.join(1, 1.0, WORK)
        limiter.claim(small, 2.0, nobody)
        assert not small.granted
        limiter.claim(large, WINDOW, nobody)
        assert large.granted
        assert small.granted

    def test_one_too_many_is_turned_away_and_takes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(line_module, "MOST_WAITING", 2)
        limiter = limiter_of(places=1)
        seats = [limiter.join(1, 0.0, WORK) for _ in range(4)]
        assert [seat.over for seat in seats] == [False, False, False, True]
        limiter.leave(seats[0], 1.0, sent=True)
        assert not limiter.join(1, 1.0, WORK).over, "there is room again"

    def test_only_the_first_is_given_a_time_to_look_again(self) -> None:
        limiter = limiter_of(rpm=1)
        assert admitted(limiter, 0.0)
        first, second = limiter.join(1, 1.0, WORK), limiter.join(1, 1.0, WORK)
        assert limiter.claim(first, 1.0, nobody) == WINDOW
        assert limiter.claim(second, 1.0, nobody) == math.inf

    def test_who_becomes_first_is_woken_to_look_at_the_clock(self) -> None:
        limiter, rung = limiter_of(rpm=1), Rung()
        assert admitted(limiter, 0.0)
        first, second = limiter.join(1, 1.0, WORK), limiter.join(1, 1.0, WORK)
        limiter.claim(first, 1.0, nobody)
        limiter.claim(second, 1.0, rung)
        limiter.leave(first, 2.0)
        assert rung.times == 1
        assert limiter.claim(second, 2.0, nobody) == WINDOW

    def test_those_whom_nobody_can_wake_let_the_others_by(self) -> None:
        limiter = limiter_of(places=1)
        runs = limiter.join(1, 0.0, WORK)
        dead = [limiter.join(1, 0.0, WORK) for _ in range(3000)]
        for seat in dead:
            limiter.claim(seat, 0.0, lambda: False)
        living = limiter.join(1, 0.0, WORK)
        limiter.leave(runs, 1.0, sent=True)
        assert living.granted
        assert limiter.waiting == 0
        assert limiter.running == 1

    def test_a_refusal_of_the_backend_holds_everybody_back_as_long_as_it_asked(self) -> None:
        limiter = limiter_of(places=5)
        seat = limiter.join(1, 0.0, WORK)
        limiter.refused(seat, 7.0, 1.0)
        limiter.leave(seat, 1.0, sent=True)
        waits = limiter.join(1, 1.0, WORK)
        assert limiter.claim(waits, 1.0, nobody) == 8.0
        assert limiter.wait(1, 1.0) == 7.0
        limiter.claim(waits, 8.0, nobody)
        assert waits.granted


class TestBelief:
    def test_one_refusal_may_be_an_accident_and_lowers_nothing(self) -> None:
        belief = Belief()
        belief.refused(0.0, 2.0, 10.0)
        assert belief.of(100, 10.0) == 100
        assert belief.blocked_until == 12.0
        belief.refused(11.0 + SUSPICION, 1.0, 11.0 + SUSPICION)
        assert belief.of(100, 11.0 + SUSPICION) == 100, "the other one was long ago"

    def test_a_second_refusal_lowers_it_for_a_while(self) -> None:
        belief = Belief()
        belief.refused(0.0, 1.0, 5.0)
        belief.refused(8.0, 1.0, 10.0)
        assert belief.of(100, 10.0) == 70
        assert 70 < belief.of(100, 10.0 + RECOVERY / 10) < 90
        assert belief.of(100, 10.0 + RECOVERY) == 100

    def test_many_that_were_under_way_are_one_refusal(self) -> None:
        belief = Belief()
        belief.refused(-5.0, None, 0.0)
        for sent_at in range(10):
            belief.refused(float(sent_at), None, 10.0 + sent_at / 100)
        assert belief.of(100, 10.1) == 70

    def test_a_refusal_long_before_the_minute_is_full_tells_of_a_host_that_counts_by_the_second(self) -> None:
        belief = Belief()
        belief.refused(0.0, 1.0, 10.0, 0.1)
        assert belief.paced(10.0)
        assert belief.of(100, 10.0) == 100
        assert not belief.paced(10.0 + PACED + 1.0)

    def test_it_never_comes_to_nothing(self) -> None:
        belief = Belief()
        for now in range(100):
            belief.refused(float(now), None, float(now))
        assert belief.of(100, 99.0) == 100 * LEAST
        assert belief.of(1, 99.0) == 1

    def test_a_host_that_does_not_say_for_how_long_is_left_alone_for_longer_and_longer(self) -> None:
        belief, waits = Belief(), list[float]()
        for now in (0.0, 20.0, 40.0, 60.0, 80.0, 100.0):
            belief.refused(now, None, now)
            waits.append(belief.blocked_until - now)
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]

    def test_of_two_waits_the_later_end_holds(self) -> None:
        belief = Belief()
        belief.refused(0.0, 30.0, 1.0)
        belief.refused(0.5, 2.0, 2.0)
        assert belief.blocked_until == 31.0


class TestDeclaration:
    def test_a_model_without_limits_has_no_limiter(self) -> None:
        assert Limiter.of(Profile()) is None

    @pytest.mark.parametrize(
        "profile", [Profile(rpm=1), Profile(tpm=1), Profile(max_concurrency=1)], ids=["rpm", "tpm", "at once"]
    )
    def test_any_declared_limit_holds(self, profile: Profile) -> None:
        limiter = Limiter.of(profile)
        assert limiter is not None
        assert admitted(limiter, 0.0)
        assert not admitted(limiter, 0.0)


def queues_of(*limits: RateLimit, **profiles: Profile) -> Queues:
    return Queues(limits, profiles, None)


class TestSeveralLimits:
    def line(self, queues: Queues, name: str, task: str | None = None) -> Limiter:
        line = queues.get(name, task)
        assert line is not None
        return line

    def test_without_limits_of_the_router_only_models_that_declare_one_have_a_line(self) -> None:
        queues = queues_of(a=Profile(rpm=1), b=Profile())
        assert queues.get("a") is queues.get("a", "any task")
        assert queues.get("b") is None

    def test_a_limit_of_the_router_holds_for_all_models_and_tasks_together(self) -> None:
        queues = queues_of(RateLimit(rpm=2), a=Profile(), b=Profile())
        assert admitted(self.line(queues, "a"), 0.0)
        assert admitted(self.line(queues, "b", "task"), 0.0)
        assert not admitted(self.line(queues, "a", "other"), 1.0)
        assert admitted(self.line(queues, "a"), WINDOW)

    def test_a_limit_of_a_task_holds_for_no_other(self) -> None:
        queues = queues_of(RateLimit(max_concurrency=1, task="bulk"), a=Profile(), b=Profile())
        assert admitted(self.line(queues, "a", "bulk"), 0.0)
        assert not admitted(self.line(queues, "b", "bulk"), 0.0)
        assert admitted(self.line(queues, "a"), 0.0)
        assert admitted(self.line(queues, "b", "chat"), 0.0)

    def test_of_two_limits_of_one_scope_the_least_hold(self) -> None:
        queues = queues_of(RateLimit(rpm=5), RateLimit(rpm=1, tpm=100), a=Profile())
        assert admitted(self.line(queues, "a"), 0.0)
        assert not admitted(self.line(queues, "a"), 0.0)

    def test_who_waits_for_a_model_takes_nothing_of_the_routers_limit_from_others(self) -> None:
        queues = queues_of(RateLimit(rpm=3), full=Profile(max_concurrency=1), free=Profile())
        full = self.line(queues, "full")
        assert admitted(full, 0.0)
        waits = full.join(1, 0.0, WORK)
        assert not waits.granted
        assert admitted(self.line(queues, "free"), 0.0), "one place is kept for who waits, one is left"
        full.leave(waits, 1.0)
        assert admitted(self.line(queues, "free"), 1.0)

    def test_a_task_at_its_limit_does_not_hold_up_the_others(self) -> None:
        queues = queues_of(RateLimit(rpm=1, task="bulk"), a=Profile(max_concurrency=2))
        bulk, chat = self.line(queues, "a", "bulk"), self.line(queues, "a", "chat")
        assert admitted(bulk, 0.0)
        waiting = [bulk.join(1, 1.0, WORK) for _ in range(5)]
        assert admitted(chat, 1.0)
        assert not any(seat.granted for seat in waiting)

    def test_the_forecast_is_that_of_the_limit_that_holds_back_longest(self) -> None:
        queues = queues_of(RateLimit(rpm=1), a=Profile(max_concurrency=1), b=Profile())
        assert admitted(self.line(queues, "a"), 0.0)
        assert self.line(queues, "b").wait(1, 10.0) == WINDOW - 10.0

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_limits_hold_everybody_has_a_turn_and_the_oldest_is_not_passed_by_for_ever(
        self, data: st.DataObject
    ) -> None:
        router, task = RateLimit(max_concurrency=3), RateLimit(max_concurrency=2, task="t")
        queues = queues_of(router, task, a=Profile(max_concurrency=1), b=Profile(max_concurrency=2))
        lines = [self.line(queues, name, which) for name in "ab" for which in ("t", None)]
        waiting, running = list[Seat](), list[Seat]()
        for step in range(data.draw(st.integers(5, 60))):
            now = float(step)
            ends = data.draw(st.integers(0, 2 * len(running)))
            if ends < len(running):
                seat = running.pop(ends)
                seat.line.leave(seat, now, sent=True)
            else:
                seat = data.draw(st.sampled_from(lines)).join(1, now, WORK)
                waiting.append(seat)
            running += [seat for seat in waiting if seat.granted]
            waiting = [seat for seat in waiting if not seat.granted]
            assert len(running) <= 3
            for place, most in ((0, 1), (2, 2)):
                assert sum(seat.line in lines[place : place + 2] for seat in running) <= most
            assert sum(seat.line in lines[::2] for seat in running) <= 2
        while waiting:
            assert running, "somebody waits and nobody is ahead of him"
            seat = running.pop(0)
            seat.line.leave(seat, 100.0, sent=True)
            running += [seat for seat in waiting if seat.granted]
            waiting = [seat for seat in waiting if not seat.granted]


class TestLearned:
    def test_nothing_is_believed_before_a_refusal(self) -> None:
        learned = Learned()
        assert learned.is_nothing
        assert learned.most(0.0) is None

    def test_a_refusal_shows_the_limit_which_is_tried_again_ever_more_rarely(self) -> None:
        learned = Learned()
        learned.refused(8, 0.0, crowded=True)
        assert learned.most(STEP - 0.1) == 8
        assert learned.most(STEP) == 9
        learned.refused(8, STEP, crowded=True)
        assert learned.most(2.9 * STEP) == 8
        assert learned.most(3.0 * STEP) == 9

    def test_many_that_were_refused_together_show_one_limit(self) -> None:
        learned = Learned()
        for beside in range(50, 7, -1):
            learned.refused(beside, 0.0, crowded=True)
        assert learned.most(STEP) == 9

    def test_it_is_forgotten(self) -> None:
        learned = Learned()
        learned.refused(2, 0.0, crowded=True)
        assert learned.most(FORGET + 1.0) is None
        assert learned.is_nothing

    def test_after_a_refusal_for_another_reason_it_is_begun_with_slowly(self) -> None:
        learned = Learned()
        learned.refused(8, 0.0, crowded=False)
        assert learned.most(1.0) == 1
        learned.answered()
        assert learned.most(1.0) == 2
        for _ in range(100):
            learned.answered()
        assert learned.most(1.0) is None

    def test_one_that_refuses_again_after_its_pause_is_full_and_needs_no_longer_pause(self) -> None:
        limiter = limiter_of()
        first = [limiter.join(1, 0.0, WORK) for _ in range(5)]
        limiter.crowded(0.0, None, 0.1, crowded=False)
        assert limiter.wait(1, 0.1) > 0.0, "whoever refuses for no known reason is given a pause"
        for seat in first:
            limiter.answered()
            limiter.leave(seat, 1.0, sent=True)
        second = [limiter.join(1, 5.0, WORK) for _ in range(3)]
        limiter.crowded(5.0, None, 5.1, crowded=False)
        limiter.leave(second[0], 5.1, sent=True)
        assert not admitted(limiter, 5.2), "two at once are its limit"
        limiter.leave(second[1], 5.2, sent=True)
        assert admitted(limiter, 5.2)

    def test_what_was_sent_before_its_pause_tells_nothing_new(self) -> None:
        learned = Learned()
        learned.refused(8, 1.0, crowded=False)
        assert not learned.refuses_again(0.9)
        assert learned.refuses_again(1.1)


class Slow:
    """A store whose answers come when the test wants, and that others take from, too."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.asked: list[tuple[Ask, Callable[[int, float], None]]] = []

    def take(self, ask: Ask, done: Callable[[int, float], None]) -> None:
        self.asked.append((ask, done))

    def correct(self, model: str, tokens: int, *, age: float) -> None:
        """Counts no tokens."""

    def delayed(self, model: str, tokens: int, *, age: float) -> None:
        """Counts no minutes."""

    def give(self, model: str, *, unsent: int | None, age: float) -> None:
        self.free += 1

    def answer(self) -> None:
        ask, done = self.asked.pop(0)
        granted = max(min(self.free, len(ask.tokens)), 0)
        self.free -= granted
        done(granted, 0.0 if granted == len(ask.tokens) else 0.5)


class Crowd(RuleBasedStateMachine):
    """Requests that come, look, end, go away and are refused, in any order, with a store or without."""

    stored = False

    def __init__(self) -> None:
        super().__init__()
        self.store = Slow(3)
        self.limiter = Limiter(
            Limits(6, 400, 3 if not self.stored else 5), store=self.store if self.stored else None
        )
        self.now = 0.0
        self.seats: list[Seat] = []
        self.granted: list[Seat] = []
        self.sent: list[tuple[float, int]] = []
        self.looks_at: dict[Seat, float] = {}

    def note(self) -> None:
        """Keeps who was let go, and that nobody overtook."""
        for seat in list(self.seats):
            if seat.granted:
                assert seat is self.seats[0], "overtook"
                self.seats.remove(seat)
                self.granted.append(seat)
                self.looks_at.pop(seat, None)

    def look(self, seat: Seat) -> None:
        def wake() -> bool:
            self.looks_at[seat] = self.now
            return True

        at = self.limiter.claim(seat, self.now, wake)
        if seat in self.seats and not seat.granted:
            self.looks_at[seat] = min(self.looks_at.pop(seat, math.inf), at) if at > self.now else at
        self.note()

    @rule(tokens=st.integers(1, 150))
    def comes(self, tokens: int) -> None:
        seat = self.limiter.join(tokens, self.now, WORK)
        self.seats.append(seat)
        self.look(seat)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), sent=st.booleans(), share=st.floats(0.1, 1.0))
    def ends(self, data: st.DataObject, sent: bool, share: float) -> None:
        seat = self.granted.pop(data.draw(st.integers(0, len(self.granted) - 1)))
        if sent:
            self.limiter.settle(seat, seat.tokens * share, self.now)
            self.sent.append((seat.sent_at, seat.tokens))
        self.limiter.leave(seat, self.now, sent=sent)
        self.note()

    @precondition(lambda self: self.seats)
    @rule(data=st.data())
    def goes_away(self, data: st.DataObject) -> None:
        seat = self.seats.pop(data.draw(st.integers(0, len(self.seats) - 1)))
        self.looks_at.pop(seat, None)
        self.limiter.leave(seat, self.now)
        self.note()

    @precondition(lambda self: self.store.asked)
    @rule()
    def store_answers(self) -> None:
        self.store.answer()
        self.note()

    @precondition(lambda self: self.stored)
    @rule(more=st.sampled_from([-1, 1]))
    def others_change_what_is_free(self, more: int) -> None:
        self.store.free += more

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.looks_at:
            seat = min(self.looks_at, key=lambda one: self.looks_at[one])
            if self.looks_at[seat] > until:
                break
            self.now = max(self.now, self.looks_at.pop(seat)) + 0.001
            self.look(seat)
        self.now = max(self.now, until)

    @invariant()
    def no_window_holds_too_much(self) -> None:
        sent = self.sent + [(seat.sent_at, seat.tokens) for seat in self.granted]
        for first, _ in sent:
            inside = [tokens for at, tokens in sent if first <= at < first + WINDOW]
            assert len(inside) <= 6
        assert len(self.granted) <= (5 if self.stored else 3)
        assert self.limiter.running == len(self.granted)

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        if self.seats and not self.store.asked:
            assert self.limiter.waiting == len(self.seats)
            will_look = any(at < math.inf for at in self.looks_at.values())
            full = len(self.granted) >= (5 if self.stored else 3)
            assert will_look or full, "lost: nobody will ever let the first one go"

    def teardown(self) -> None:
        """Once all others are gone, everybody has their turn."""
        self.store.free = 100
        for _ in range(1000):
            if not self.seats:
                break
            while self.store.asked:
                self.store_answers()
            for seat in self.granted:
                self.limiter.leave(seat, self.now, sent=True)
            self.granted = []
            self.sent = []
            self.time_passes(30.0)
        assert not self.seats
        assert self.limiter.waiting == 0


class SharedCrowd(Crowd):
    """The same with a store."""

    stored = True


Crowd.TestCase.settings = SharedCrowd.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestCrowd = Crowd.TestCase
TestSharedCrowd = SharedCrowd.TestCase
