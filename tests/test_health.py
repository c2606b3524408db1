"""What a failure means, how long a model is left alone for it, and how much may be retried."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

DOWN = ModelConnectionError("reset", model="m")


def http(status: int, *, retry_after: float | None = None, code: str | None = None) -> ModelHTTPError:
    return ModelHTTPError(f"HTTP {status}", model="m", status_code=status, retry_after=retry_after, code=code)


def failing(at: float = 0.0, *, threshold: int = 3, cooldown: float = 10.0) -> Health:
    """A health whose model "m" failed so often at `at` that its breaker opened."""
    health = Health(threshold, cooldown)
    for _ in range(threshold):
        health.failed("m", DOWN, at)
    return health


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
        assert failing().shut(4.0) == {"m": "health: failing (ModelConnectionError), left alone for 6.0 s"}

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


class TestHalfOpen:
    def test_one_request_probes_and_the_others_go_elsewhere(self) -> None:
        health = failing()
        assert not is_shut(health, 10.0)
        assert health.starts("m", 10.0)
        assert "one request probes it now" in health.shut(10.0)["m"]

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

    def test_a_failed_probe_opens_it_again(self) -> None:
        health = failing()
        health.starts("m", 10.0)
        health.failed("m", DOWN, 12.0)
        assert is_shut(health, 21.9)
        assert not is_shut(health, 22.0)

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
