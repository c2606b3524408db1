"""Rate limits: sliding windows that never admit too much, and waits that are neither too short nor too long."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.limits import WINDOW, Limiter
from router.profile import Profile

SERVICE = 2.0
TIMES = st.floats(min_value=0.0, max_value=30.0)
TOKENS = st.floats(min_value=0.1, max_value=150.0)


def admitted(limiter: Limiter, now: float, tokens: float = 1.0) -> bool:
    return limiter.acquire(tokens, now, SERVICE) == 0.0


class TestRequestsPerMinute:
    def test_the_window_slides_by_the_second(self) -> None:
        limiter = Limiter(2, None, None)
        assert admitted(limiter, 0.0)
        assert admitted(limiter, 10.0)
        assert limiter.acquire(1, 30.0, SERVICE) == 30.0
        assert not admitted(limiter, 59.999)
        assert admitted(limiter, 60.0)
        assert limiter.acquire(1, 60.0, SERVICE) == 10.0
        assert admitted(limiter, 70.0)

    def test_rounding_lets_nobody_slip_through_at_the_windows_edge(self) -> None:
        limiter = Limiter(1, None, None)
        first = 28.34747652200631
        assert first > (first + WINDOW) - WINDOW, "a sum that does not come back: the case in question"
        assert admitted(limiter, first)
        assert admitted(limiter, first + WINDOW)
        assert not admitted(limiter, first + WINDOW)

    def test_a_look_takes_nothing(self) -> None:
        limiter = Limiter(1, None, None)
        for _ in range(5):
            assert limiter.wait(1, 0.0, SERVICE) == 0.0
        assert admitted(limiter, 0.0)
        assert limiter.wait(1, 15.0, SERVICE) == 45.0

    def test_a_refusal_takes_nothing(self) -> None:
        limiter = Limiter(1, None, None)
        assert admitted(limiter, 0.0)
        for second in range(1, 60):
            assert limiter.acquire(1, float(second), SERVICE) == 60.0 - second
        assert admitted(limiter, 60.0)

    @given(rpm=st.integers(1, 5), steps=st.lists(TIMES, max_size=60))
    def test_no_window_of_a_minute_holds_more_than_the_limit(self, rpm: int, steps: list[float]) -> None:
        limiter = Limiter(rpm, None, None)
        now, sent = 0.0, list[float]()
        for step in steps:
            now += step
            if admitted(limiter, now):
                sent.append(now)
        for first in sent:
            assert sum(first <= at < first + WINDOW for at in sent) <= rpm

    @given(rpm=st.integers(1, 5), steps=st.lists(TIMES, max_size=40))
    def test_a_wait_is_exactly_as_long_as_it_must_be(self, rpm: int, steps: list[float]) -> None:
        limiter = Limiter(rpm, None, None)
        now, sent = 0.0, list[float]()
        for step in steps:
            now += step
            wait = limiter.acquire(1, now, SERVICE)
            in_window = [at for at in sent if at + WINDOW > now]
            assert (wait == 0.0) == (len(in_window) < rpm), "refuses only when the window is full"
            if wait == 0.0:
                sent.append(now)
            else:
                assert wait == in_window[-rpm] + WINDOW - now


class TestTokensPerMinute:
    def test_tokens_leave_the_window_with_their_request(self) -> None:
        limiter = Limiter(None, 100, None)
        assert admitted(limiter, 0.0, 60)
        assert admitted(limiter, 5.0, 30)
        assert limiter.acquire(10, 6.0, SERVICE) == 0.0
        assert limiter.acquire(10, 20.0, SERVICE) == 40.0, "the first request alone makes room enough"
        assert limiter.acquire(95, 20.0, SERVICE) == 46.0, "the third must leave, too"
        assert admitted(limiter, 60.0, 60)

    def test_a_request_larger_than_the_limit_waits_for_an_empty_window_not_for_ever(self) -> None:
        limiter = Limiter(None, 100, None)
        assert admitted(limiter, 0.0, 500)
        assert limiter.acquire(1, 10.0, SERVICE) == 50.0
        assert admitted(limiter, 60.0, 1)
        assert limiter.acquire(500, 61.0, SERVICE) == 59.0
        assert admitted(limiter, 120.0, 500)

    def test_fractions_of_tokens_do_not_add_up_to_an_overdraft(self) -> None:
        limiter = Limiter(None, 10, None)
        for minute in range(200):
            now = minute * 61.0
            for _ in range(10):
                assert admitted(limiter, now, 0.7)
            assert not admitted(limiter, now, 0.7)
        assert limiter.acquire(10, now + 30.0, SERVICE) == pytest.approx(30.0), "a full window is not empty"

    @settings(max_examples=60)
    @given(tpm=st.integers(50, 200), calls=st.lists(st.tuples(TIMES, TOKENS), max_size=60))
    def test_no_window_holds_more_tokens_than_the_limit_but_for_one_huge_request(
        self, tpm: int, calls: list[tuple[float, float]]
    ) -> None:
        limiter = Limiter(None, tpm, None)
        now, sent = 0.0, list[tuple[float, float]]()
        for step, tokens in calls:
            now += step
            wait = limiter.acquire(tokens, now, SERVICE)
            assert 0.0 <= wait <= WINDOW + 1e-9
            if wait == 0.0:
                sent.append((now, tokens))
            else:
                left = sum(math.ceil(other) for at, other in sent if at + WINDOW > now + wait + 1e-9)
                assert left + min(math.ceil(tokens), tpm) <= tpm, "the wait is long enough"
                left = sum(math.ceil(other) for at, other in sent if at + WINDOW > now)
                assert left + min(math.ceil(tokens), tpm) > tpm, "there is a reason to wait"
        for first, _ in sent:
            held = [tokens for at, tokens in sent if first <= at < first + WINDOW]
            assert sum(held) <= tpm or len(held) == 1


class TestConcurrency:
    def test_a_place_is_free_again_when_a_request_is_over(self) -> None:
        limiter = Limiter(None, None, 2)
        assert admitted(limiter, 0.0)
        assert admitted(limiter, 0.0)
        assert limiter.acquire(1, 0.0, SERVICE) == SERVICE / 2
        limiter.release()
        assert admitted(limiter, 0.0)
        assert not admitted(limiter, 1e6), "time alone frees no place"

    def test_a_release_too_many_makes_no_extra_place(self) -> None:
        limiter = Limiter(None, None, 1)
        limiter.release()
        limiter.release()
        assert admitted(limiter, 0.0)
        assert not admitted(limiter, 0.0)

    def test_a_full_model_is_never_polled_without_a_pause(self) -> None:
        limiter = Limiter(None, None, 1)
        assert limiter.acquire(1, 0.0, service=0.0) == 0.0
        assert limiter.acquire(1, 0.0, service=0.0) > 0.0

    def test_a_refusal_by_one_limit_takes_nothing_from_another(self) -> None:
        limiter = Limiter(10, 100, 1)
        assert admitted(limiter, 0.0, 50)
        for _ in range(20):
            assert not admitted(limiter, 0.0, 50)
        limiter.release()
        assert admitted(limiter, 0.0, 50)

    def test_the_longest_of_the_waits_holds(self) -> None:
        limiter = Limiter(1, None, 1)
        assert admitted(limiter, 0.0)
        assert limiter.acquire(1, 10.0, SERVICE) == 50.0

    def test_a_forked_child_runs_nothing_but_keeps_the_window(self) -> None:
        limiter = Limiter(2, None, 1)
        assert admitted(limiter, 0.0)
        limiter.after_fork()
        assert admitted(limiter, 1.0)
        limiter.release()
        assert limiter.acquire(1, 2.0, SERVICE) == 58.0


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
