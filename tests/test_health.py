"""What a failure means, how long a model is left alone for it, and how much may be retried."""

from __future__ import annotations

import ast
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import router
from router.backoff import FIRST_WAIT, LONGEST_WAIT, Backoff
from router.errors import (
    ContextWindowExceededError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
    ModelTimeoutError,
)
from router.failures import BAD_TEMPLATE, CRASHED, LONG_COOLDOWN, MOST_COOLDOWN, judge
from router.health import Health, RetryBudget
from router.health.breaker import SHRINKS_AFTER, SLOW, USUAL_AFTER
from router.health.window import WINDOW, Window, exceeds

DOWN = ModelConnectionError("reset", model="m")
LATE = ModelTimeoutError("late", model="m")


def http(status: int, *, retry_after: float | None = None, code: str | None = None) -> ModelHTTPError:
    return ModelHTTPError(f"HTTP {status}", model="m", status_code=status, retry_after=retry_after, code=code)


def failing(at: float = 0.0, *, threshold: int = 3, cooldown: float = 10.0) -> Health:
    """A health whose model "m" failed so often at `at` that its breaker opened."""
    health = Health(threshold, cooldown)
    for _ in range(threshold):
        health.failed("m", DOWN, at)
    return health


def time_shut(health: Health, now: float) -> float:
    """Seconds for which "m" is left alone from now on, to a tenth."""
    return next(tenth / 10 for tenth in range(100_000) if not is_shut(health, now + tenth / 10))


def is_shut(health: Health, now: float, name: str = "m") -> bool:
    return name in health.shut(now)


class TestJudging:
    @pytest.mark.parametrize("status", [401, 402, 403, 404])
    def test_what_only_a_person_can_heal_shuts_for_long(self, status: int) -> None:
        verdict = judge(http(status, retry_after=1.0))
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (False, True, LONG_COOLDOWN)

    @pytest.mark.parametrize("status", [429, 403, 400, 500])
    def test_an_empty_account_is_no_rate_limit(self, status: int) -> None:
        verdict = judge(http(status, code="insufficient_quota", retry_after=1.0))
        assert (verdict.heals, verdict.shut_for) == (False, LONG_COOLDOWN)

    @pytest.mark.parametrize(
        "error",
        [
            *(http(status) for status in (400, 413, 415, 422, 501)),
            http(400, code="content_filter"),
            ContextWindowExceededError("too long", model="m"),
        ],
        ids=str,
    )
    def test_the_requests_own_fault_is_not_the_models(self, error: ModelError) -> None:
        verdict = judge(error)
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (False, False, None)

    @pytest.mark.parametrize(
        "error",
        [
            *(http(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 520, 529)),
            DOWN,
            ModelTimeoutError("late", model="m"),
            ModelProtocolError("HTML", model="m"),
            ModelError("something new", model="m"),
        ],
        ids=str,
    )
    def test_the_rest_may_heal_and_counts_against_the_model(self, error: ModelError) -> None:
        verdict = judge(error)
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (True, True, None)

    def test_a_file_that_cannot_be_loaded_does_not_heal(self) -> None:
        verdict = judge(ModelLoadError("corrupt", model="m"))
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (False, True, LONG_COOLDOWN)

    @pytest.mark.parametrize("kind", [ModelConnectionError, ModelLoadError])
    def test_a_crash_of_an_engines_process_heals_and_is_not_counted(self, kind: type[ModelError]) -> None:
        verdict = judge(kind("killed", model="m", code=CRASHED))
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (True, False, None)

    def test_a_template_that_breaks_does_not_heal(self) -> None:
        verdict = judge(ModelProtocolError("broke", model="m", code=BAD_TEMPLATE))
        assert (verdict.heals, verdict.blames_model, verdict.shut_for) == (False, True, None)
        assert not judge(http(400, code=BAD_TEMPLATE)).blames_model  # it refused these messages

    def test_a_wait_that_holds_for_everybody_shuts_for_as_long(self) -> None:
        assert judge(http(429, retry_after=7.0)).shut_for == 7.0
        assert judge(http(500, retry_after=7.0)).shut_for is None

    @pytest.mark.parametrize("status", [503, 529])
    def test_a_host_that_is_only_full_is_spared_while_others_can_take_over(self, status: int) -> None:
        verdict = judge(http(status, retry_after=7.0))
        assert (verdict.shut_for, verdict.spare_for, verdict.retry_after) == (None, 7.0, 7.0)
        assert judge(http(status)).spare_for is None
        assert judge(http(429, retry_after=7.0)).spare_for is None

    @pytest.mark.parametrize("nonsense", [None, 0.0, -5.0, math.nan, -math.inf])
    def test_no_wait_or_a_senseless_one_asks_for_nothing(self, nonsense: float | None) -> None:
        verdict = judge(http(429, retry_after=nonsense))
        assert (verdict.retry_after, verdict.shut_for) == (None, None)

    @pytest.mark.parametrize("endless", [1e9, math.inf])
    def test_an_absurd_wait_is_kept_within_a_request_but_shuts_no_model_for_ever(
        self, endless: float
    ) -> None:
        verdict = judge(http(429, retry_after=endless))
        assert (verdict.retry_after, verdict.shut_for) == (endless, MOST_COOLDOWN)


class TestBreaker:
    def test_a_model_never_seen_is_well(self) -> None:
        assert Health(3, 10.0).shut(0.0) == {}
        assert Health(3, 10.0).last_error("m") is None

    def test_it_opens_after_so_many_failures_in_a_row_and_for_so_long(self) -> None:
        health = Health(3, 10.0)
        for second in (0.0, 1.0):
            health.failed("m", DOWN, second)
            assert not is_shut(health, second)
        health.failed("m", DOWN, 2.0)
        assert is_shut(health, 2.0)
        assert is_shut(health, 11.9)
        assert not is_shut(health, 12.0)
        assert not is_shut(health, 2.0, "another")
        assert health.last_error("m") is DOWN

    def test_it_says_why_and_for_how_long(self) -> None:
        assert failing().shut(4.0)["m"].reason == (
            "health: failing (ModelConnectionError), left alone for 6.0 s"
        )

    def test_a_success_in_between_begins_the_count_anew(self) -> None:
        health = Health(3, 10.0)
        for _ in range(5):
            health.failed("m", DOWN, 0.0)
            health.failed("m", DOWN, 0.0)
            health.succeeded("m", 0.0)
        assert health.shut(0.0) == {}

    def test_the_requests_own_faults_open_nothing(self) -> None:
        health = Health(1, 10.0)
        for error in (http(400), http(422), ContextWindowExceededError("too long", model="m")):
            health.failed("m", error, 0.0)
        assert health.shut(0.0) == {}

    def test_the_requests_own_fault_does_not_heal_either(self) -> None:
        health = Health(2, 10.0)
        health.failed("m", DOWN, 0.0)
        health.failed("m", http(400), 0.0)
        health.failed("m", DOWN, 0.0)
        assert is_shut(health, 0.0)

    def test_a_wrong_key_shuts_at_once_and_for_long(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(401), 0.0)
        assert is_shut(health, LONG_COOLDOWN - 1)
        assert not is_shut(health, LONG_COOLDOWN)

    def test_a_later_lesser_failure_does_not_shorten_the_wait(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(401), 0.0)
        for _ in range(5):
            health.failed("m", DOWN, 1.0)
        health.failed("m", http(429, retry_after=2.0), 1.0)
        assert is_shut(health, LONG_COOLDOWN - 1)

    def test_what_was_removed_is_forgotten(self) -> None:
        health = failing()
        health.forget({"m", "never seen"})
        assert health.shut(0.0) == {}

    def test_a_forked_child_keeps_what_is_known(self) -> None:
        health = failing()
        health.after_fork()
        assert is_shut(health, 1.0)


class TestRetryAfter:
    def test_it_shuts_a_model_for_just_so_long(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(429, retry_after=4.0), 1.0)
        assert is_shut(health, 4.9)
        assert not is_shut(health, 5.0)

    def test_at_once_shuts_nothing(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(429, retry_after=0.0), 1.0)
        assert health.shut(1.0) == {}
        assert health.starts("m", 1.0)
        assert health.starts("m", 1.0), "nor does it let through only one"

    def test_an_answer_to_an_earlier_request_does_not_end_it(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(429, retry_after=4.0), 0.0)
        health.succeeded("m", 0.5)
        assert is_shut(health, 3.9)
        assert not is_shut(health, 4.0)
        assert health.starts("m", 4.0)
        assert not is_shut(health, 4.0), "it was well then: no probe is needed"

    def test_after_it_a_failure_counts_from_one_again(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(429, retry_after=4.0), 0.0)
        health.succeeded("m", 0.5)
        health.failed("m", DOWN, 5.0)
        assert health.shut(5.0) == {}
        assert health.starts("m", 5.0)
        assert not is_shut(health, 5.0)


class TestTooMuchToDo:
    """A host that says so is alive, and others it may answer."""

    def test_it_is_asked_after_others_for_as_long_as_it_says(self) -> None:
        health = Health(3, 10.0)
        health.succeeded("m", 0.0)
        health.failed("m", http(503, retry_after=4.0), 1.0)
        assert health.shut(4.9)["m"].soft
        assert not health.doubts("m")
        assert health.shut(5.0) == {}
        assert [health.starts("m", 5.0) for _ in range(3)] == [True] * 3, "no probe is needed"

    def test_the_later_wait_is_kept(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", http(503, retry_after=9.0), 0.0)
        health.failed("m", http(503, retry_after=1.0), 1.0)
        assert health.shut(8.9)["m"].soft
        assert health.shut(9.0) == {}

    def test_a_streak_of_its_refusals_shuts_it_only_if_it_lasts(self) -> None:
        health = Health(3, 10.0)
        for _ in range(50):
            health.succeeded("m", 0.0)
        for _ in range(5):
            health.failed("m", http(503), 1.0)
        assert health.shut(1.0)["m"].soft, "it is asked all the same while no other is left ..."
        assert health.doubts("m"), "... but no other request is moved there for nothing"
        health.succeeded("m", 1.1)
        assert not health.doubts("m")
        for tenth in range(11, 30):
            health.failed("m", http(503), tenth / 10)
        assert not health.shut(3.0)["m"].soft


class TestHalfOpen:
    def test_one_request_probes_and_the_others_go_elsewhere(self) -> None:
        health = failing()
        assert not is_shut(health, 10.0)
        assert health.starts("m", 10.0)
        assert "one request probes it now" in health.shut(10.0)["m"].reason

    def test_of_many_that_chose_it_at_the_same_moment_one_is_the_probe(self) -> None:
        health = failing()
        assert [health.starts("m", 10.0) for _ in range(5)] == [True, False, False, False, False]

    def test_a_success_closes_it(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        health.succeeded("m", 11.0)
        assert health.shut(11.0) == {}
        health.failed("m", DOWN, 11.0)
        assert health.shut(11.0) == {}, "and the count begins anew"

    def test_a_failed_probe_opens_it_again_for_twice_as_long(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        health.failed("m", DOWN, 12.0)
        assert is_shut(health, 31.9)
        assert not is_shut(health, 32.0)

    def test_a_cooldown_grows_up_to_a_bound_and_shrinks_with_answers(self) -> None:
        health, now = failing(), 0.0
        waits = []
        for _ in range(8):
            wait = time_shut(health, now)
            waits.append(wait)
            now += wait
            health.starts("m", now)
            health.failed("m", DOWN, now)
        assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 320.0, 320.0]
        now += 320.0
        for _ in range(6 * SHRINKS_AFTER):
            health.succeeded("m", now)
        for _ in range(3):
            health.failed("m", DOWN, now)
        assert time_shut(health, now) == 10.0

    def test_one_that_was_hardly_well_is_left_alone_for_longer(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        for _ in range(5):
            health.succeeded("m", 10.0)
        for _ in range(3):
            health.failed("m", DOWN, 11.0)
        assert time_shut(health, 11.0) == 20.0

    def test_while_nobody_else_is_left_it_may_be_probed_sooner(self) -> None:
        health = failing()
        assert not health.shut(1.2)["m"].ripe
        assert health.shut(1.25)["m"].ripe, "whoever probes it is told at once that it still fails"
        for now, sooner in ((1.25, 2.5), (4.0, 5.0), (10.0, 10.0), (40.0, 10.0)):
            health.starts("m", now, despite=True)
            health.failed("m", DOWN, now, began=now)
            assert not health.shut(now + sooner - 0.01)["m"].ripe
            assert health.shut(now + sooner)["m"].ripe

    def test_while_nobody_else_is_left_a_silent_one_may_be_probed_after_the_first_cooldown(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        health.failed("m", LATE, 10.0)
        assert not health.shut(19.9)["m"].ripe
        assert health.shut(20.0)["m"].ripe
        assert not health.starts("m", 20.0), "whoever has a choice takes another"
        assert [health.starts("m", 20.0, despite=True) for _ in range(3)] == [True, False, False]
        health.failed("m", LATE, 21.0, began=20.0)
        assert not health.shut(30.9)["m"].ripe

    def test_what_began_before_it_opened_is_no_probe(self) -> None:
        health = failing(5.0)
        health.starts("m", 15.0)
        health.failed("m", DOWN, 15.5, began=4.0)
        health.released("m", began=4.0)
        assert "probes it now" in health.shut(16.0)["m"].reason
        assert not health.starts("m", 16.0)
        health.succeeded("m", 17.0)
        assert health.shut(17.0) == {}

    @pytest.mark.parametrize("first", [http(401), http(429, retry_after=5.0)], ids=str)
    def test_a_failed_probe_opens_it_again_even_below_the_threshold(self, first: ModelError) -> None:
        health = Health(3, 10.0)
        health.failed("m", first, 0.0)
        health.starts("m", 1000.0)
        health.failed("m", DOWN, 1000.0)
        assert is_shut(health, 1009.9)
        assert not is_shut(health, 1010.0)

    @pytest.mark.parametrize("cancelled", [True, False])
    def test_a_probe_that_tells_nothing_lets_the_next_one_go(self, cancelled: bool) -> None:
        health = failing()
        health.starts("m", 10.0)
        if cancelled:
            health.released("m")
        else:
            health.failed("m", http(400), 10.5)
        assert not is_shut(health, 10.5)
        assert health.starts("m", 10.5)
        assert is_shut(health, 10.5)

    def test_a_probe_that_is_never_answered_does_not_shut_a_model_for_ever(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        assert is_shut(health, 19.9)
        assert not is_shut(health, 20.0)
        assert health.starts("m", 20.0)

    def test_a_well_model_has_no_probes(self) -> None:
        health = Health(3, 10.0)
        health.failed("m", DOWN, 0.0)
        assert all(health.starts("m", 0.0) for _ in range(5))
        assert health.shut(0.0) == {}
        assert health.starts("never seen", 0.0)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["fail", "quota", "limit", "fault", "start", "success", "release"]),
                st.floats(0, 20),
            ),
            max_size=60,
        )
    )
    def test_whatever_happens_it_heals_by_a_probe_in_time(self, events: list[tuple[str, float]]) -> None:
        health, now = Health(3, 10.0), 0.0
        errors = {"fail": DOWN, "quota": http(402), "limit": http(429, retry_after=30.0), "fault": http(400)}
        for kind, step in events:
            now += step
            was_shut = is_shut(health, now)
            if kind == "start":
                assert health.starts("m", now) != was_shut
            elif kind == "success":
                health.succeeded("m", now)
            elif kind == "release":
                health.released("m")
            else:
                health.failed("m", errors[kind], now)
        later = now + LONG_COOLDOWN + 1
        assert not is_shut(health, later)
        assert health.starts("m", later)
        health.succeeded("m", later)
        assert health.shut(later) == {}


class TestShares:
    def test_a_model_that_fails_too_often_is_shut_though_never_in_a_row(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for call in range(60):
            now += 0.1
            if call % 3:
                health.succeeded("m", now)
            else:
                health.failed("m", DOWN, now)
            if is_shut(health, now):
                break
        shut = health.shut(now)["m"]
        assert "calls failed" in shut.reason
        assert shut.soft
        assert call < 45

    def test_what_is_long_past_does_not_count(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for call in range(60):
            now += WINDOW / 8
            if call % 3:
                health.succeeded("m", now)
            else:
                health.failed("m", DOWN, now)
        assert health.shut(now) == {}

    def test_answers_that_take_very_long_shut_a_model(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for _ in range(40):
            now += 0.1
            health.succeeded("m", now, factor=2.0)
        assert health.shut(now) == {}
        for _ in range(100):
            now += 0.1
            health.succeeded("m", now, factor=2.0 * SLOW * 1.5)
            if is_shut(health, now):
                break
        assert "took very long" in health.shut(now)["m"].reason
        assert health.shut(now)["m"].soft

    def test_a_slow_probe_is_a_failed_one(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for _ in range(USUAL_AFTER):
            health.succeeded("m", now, factor=1.0)
        for _ in range(3):
            health.failed("m", DOWN, now)
        assert health.starts("m", 10.0)
        health.succeeded("m", 15.0, factor=SLOW * 2)
        assert is_shut(health, 24.9)

    def test_a_model_whose_profile_is_wrong_is_not_slow(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for _ in range(200):
            now += 0.1
            health.succeeded("m", now, factor=50.0)
        assert health.shut(now) == {}

    def test_a_model_that_stays_slow_becomes_a_slow_model(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for _ in range(50):
            now += 0.1
            health.succeeded("m", now, factor=1.0)
        shut = 0
        for _ in range(3600):
            now += 1.0
            if is_shut(health, now):
                shut += 1
            elif health.starts("m", now):
                health.succeeded("m", now, factor=20.0)
        assert 0 < shut < 3600
        assert not is_shut(health, now)

    @pytest.mark.parametrize("factor", [math.nan, math.inf, 0.0, -1.0])
    def test_senseless_times_are_no_times(self, factor: float) -> None:
        health = Health(3, 10.0)
        for _ in range(100):
            health.succeeded("m", 0.0, factor=factor)
        assert health.shut(0.0) == {}

    def test_a_streak_of_a_model_that_fails_often_is_no_proof_that_it_is_dead(self) -> None:
        health, now = Health(3, 10.0), 0.0
        for call in range(9):
            (health.failed if call % 3 == 0 else lambda *_: None)("m", DOWN, now)
            if call % 3:
                health.succeeded("m", now)
        for _ in range(3):
            health.failed("m", DOWN, now)
        assert health.shut(now)["m"].soft
        for _ in range(12):
            health.failed("m", DOWN, now)
        assert not health.shut(now)["m"].soft

    def test_a_failed_probe_of_one_that_fails_often_is_no_proof_that_it_is_dead(self) -> None:
        health = Health(3, 10.0)
        now = 0.0
        while not is_shut(health, now):
            now += 0.1
            health.failed("m", DOWN, now)
            now += 0.1
            if not is_shut(health, now):
                health.succeeded("m", now)
        assert health.shut(now)["m"].soft
        assert health.starts("m", now + 10.0)
        health.failed("m", DOWN, now + 10.0, began=now + 10.0)
        assert health.shut(now + 10.0)["m"].soft

    def test_a_streak_of_a_model_that_never_fails_is_one(self) -> None:
        health = Health(3, 10.0)
        for _ in range(30):
            health.succeeded("m", 0.0)
        for _ in range(3):
            health.failed("m", DOWN, 0.0)
        assert not health.shut(0.0)["m"].soft

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6))
    def test_noise_of_two_in_a_hundred_shuts_nobody(self, seed: int) -> None:
        chance, health, now = random.Random(seed), Health(3, 10.0), 0.0
        for _ in range(2000):
            now += 1 / 60
            if chance.random() < 0.02:
                health.failed("m", DOWN, now)
            else:
                health.succeeded("m", now, factor=chance.lognormvariate(0.0, 0.5))
            shut = health.shut(now).get("m")
            # Three in a row happen by chance once in 125,000 calls; they count as chance, too.
            assert shut is None or "calls failed" not in shut.reason


class TestWindow:
    @given(
        st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.booleans()), max_size=80), st.floats(0, 100)
    )
    def test_it_counts_what_is_young_and_nothing_that_is_old(
        self, calls: list[tuple[float, bool, bool]], rest: float
    ) -> None:
        window, now, seen = Window(), 0.0, []
        for step, failed, slow in calls:
            now += step
            window.add(now, failed=failed, slow=slow)
            seen.append((now, failed, slow))
        now += rest
        window.forget(now)
        surely = [one for one in seen if one[0] > now - WINDOW * 5 / 6]
        maybe = [one for one in seen if one[0] > now - WINDOW - 1e-6]
        assert len(surely) <= window.calls <= len(maybe)
        assert sum(one[1] for one in surely) <= window.failures <= sum(one[1] for one in maybe)
        assert sum(one[2] for one in surely) <= window.slow <= sum(one[2] for one in maybe)

    @given(st.integers(1, 500), st.integers(0, 500), st.floats(0.01, 0.9))
    def test_a_share_must_be_above_what_is_tolerated_and_more_of_them_prove_more(
        self, calls: int, bad: int, tolerated: float
    ) -> None:
        bad = min(bad, calls)
        if exceeds(bad, calls, tolerated):
            assert bad / calls > tolerated
            assert exceeds(10 * bad, 10 * calls, tolerated)
        assert not exceeds(0, calls, tolerated)


class AnyHealth(RuleBasedStateMachine):
    """Attempts of one model in any order: what a breaker promises, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.health, self.now = Health(3, 10.0), 0.0
        self.running: list[float] = []
        self.probe: float | None = None
        self.told_until = -math.inf

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 9.0, 11.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.probe is not None and self.now >= self.probe + 10.0:
            self.probe = None  # it may be lost: another may go

    @rule(despite=st.booleans())
    def one_starts(self, despite: bool) -> None:
        shut = self.health.shut(self.now).get("m")
        may = self.health.starts("m", self.now, despite=despite)
        assert may == (shut is None or (despite and (shut.soft or shut.ripe)))
        if not may:
            return
        self.running.append(self.now)
        after = self.health.shut(self.now).get("m")
        if after is not None and not after.soft:
            assert self.probe is None, "two probes at once"
            self.probe = self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_is_answered(self, data: st.DataObject) -> None:
        self._over(data)
        self.health.succeeded("m", self.now)
        self.probe = None
        assert (self.health.shut(self.now) == {}) == (self.now >= self.told_until)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), error=st.sampled_from([DOWN, http(401), http(429, retry_after=7.0)]))
    def one_fails(self, data: st.DataObject, error: ModelError) -> None:
        began = self._over(data)
        self.health.failed("m", error, self.now, began=began)
        asked = judge(error).shut_for
        if asked is not None:
            self.told_until = max(self.told_until, self.now + asked)
            assert is_shut(self.health, self.told_until - 0.01), "the later time is kept"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_is_cancelled(self, data: st.DataObject) -> None:
        self.health.released("m", began=self._over(data))

    def _over(self, data: st.DataObject) -> float:
        began = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if began == self.probe:
            self.probe = None
        return began

    @invariant()
    def what_it_was_told_holds(self) -> None:
        if self.now < self.told_until:
            shut = self.health.shut(self.now)["m"]
            assert not shut.soft
            assert not shut.ripe

    @invariant()
    def it_is_never_shut_for_ever(self) -> None:
        assert not is_shut(self.health, max(self.now + 320.0, self.told_until) + 10.1)


TestAnyHealth = AnyHealth.TestCase
TestAnyHealth.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestRetryBudget:
    def test_a_quiet_app_has_a_reserve(self) -> None:
        budget = RetryBudget(0.1)
        assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]

    def test_retries_are_a_share_of_requests(self) -> None:
        budget = RetryBudget(0.25)
        while budget.withdraw():
            pass
        allowed = 0
        for _ in range(400):
            budget.deposit()
            allowed += budget.withdraw()
        assert allowed == 100

    def test_a_retry_that_is_answered_pays_for_one_in_vain(self) -> None:
        budget = RetryBudget(0.0001)
        for _ in range(500):
            assert budget.withdraw()
            budget.deposit(refund=2)
            assert budget.withdraw()
        answered = 0
        while budget.withdraw():
            answered += 1
        assert answered <= RetryBudget.MOST

    def test_no_share_means_no_retry(self) -> None:
        budget = RetryBudget(0.0)
        for _ in range(100):
            budget.deposit()
        assert not budget.withdraw()

    def test_a_long_calm_saves_no_storm(self) -> None:
        budget = RetryBudget(1.0)
        for _ in range(10_000):
            budget.deposit()
        assert sum(budget.withdraw() for _ in range(10_000)) == RetryBudget.MOST

    def test_an_outage_empties_it_once_however_long_it_lasts(self) -> None:
        budget = RetryBudget(0.1)
        for _ in range(10_000):
            budget.deposit()
        retries = sum(budget.withdraw() for _ in range(1000))
        assert retries <= 100, "at most 1.1 attempts for each of a thousand requests"
        assert not budget.withdraw(), "what is not answered fills nothing"
        answers = 0
        while not budget.withdraw():
            budget.deposit()
            answers += 1
        assert answers <= 11, "after it, retries come back with the answers"

    @given(share=st.floats(0, 1), events=st.lists(st.booleans(), max_size=300))
    def test_it_never_gives_more_than_was_put_in(self, share: float, events: list[bool]) -> None:
        budget = RetryBudget(share)
        requests = retries = 0
        for is_request in events:
            if is_request:
                budget.deposit()
                requests += 1
            else:
                retries += budget.withdraw()
        assert retries <= RetryBudget.RESERVE + share * requests + 1e-6


class TestBackoff:
    @pytest.mark.parametrize(
        ("attempts", "bound"), [(1, 0.25), (2, 0.5), (3, 1.0), (6, 8.0), (7, 8.0), (5000, 8.0)]
    )
    def test_the_wait_is_random_below_a_bound_that_doubles(self, attempts: int, bound: float) -> None:
        backoff = Backoff(3)
        waits = [backoff.wait(attempts, DOWN) for _ in range(300)]
        assert 0.0 <= min(waits) < bound * 0.2, "full jitter reaches down to nothing"
        assert bound * 0.8 < max(waits) <= bound
        assert (FIRST_WAIT, LONGEST_WAIT) == (0.25, 8.0)

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    def test_it_is_never_shorter_than_the_backend_asks_for(self, status: int) -> None:
        backoff = Backoff(3)
        assert all(backoff.wait(1, http(status, retry_after=7.5)) == 7.5 for _ in range(50))
        long = [backoff.wait(9, http(status, retry_after=2.0)) for _ in range(300)]
        assert min(long) == 2.0, "jitter on top of it only where the jitter is longer"
        assert max(long) <= LONGEST_WAIT

    @pytest.mark.parametrize("nonsense", [math.nan, -3.0, 0.0])
    def test_a_senseless_wait_is_not_obeyed(self, nonsense: float) -> None:
        assert 0.0 <= Backoff(3).wait(1, http(429, retry_after=nonsense)) <= FIRST_WAIT

    def test_attempts_are_spent_when_they_are_all_made(self) -> None:
        assert [Backoff(3).spent(made) for made in range(5)] == [False, False, False, True, True]
        assert not Backoff(1).spent(0)

    def test_tenacity_is_imported_in_one_place(self) -> None:
        importers = []
        for file in sorted(Path(router.__file__).parent.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.partition(".")[0] == "tenacity" for name in names):
                    importers.append(file.name)
        assert set(importers) == {"backoff.py"}
