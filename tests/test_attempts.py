"""Which model is called when, for one request: by example, and for any world that can be made up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.attempts import AttemptMachine, Cancel, Ending, Fail, Plan, Promote, Start, Succeed
from router.errors import (
    ContextWindowExceededError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
    ModelTimeoutError,
)
from router.failures import judge
from tests.simulation import Answer, Behaviour, Checker, Failure, Refusal, Silence, run


def http(status: int, *, retry_after: float | None = None, code: str | None = None) -> ModelHTTPError:
    return ModelHTTPError(f"HTTP {status}", model="m", status_code=status, retry_after=retry_after, code=code)


HOPELESS: tuple[ModelError, ...] = (
    *(http(status) for status in (400, 401, 402, 403, 404, 413, 422, 501, 505)),
    http(429, code="insufficient_quota", retry_after=1.0),
    http(400, code="content_filter"),
    ContextWindowExceededError("too long", model="m"),
    ModelLoadError("no such file", model="m"),
)
HEALING: tuple[ModelError, ...] = (
    *(http(status) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
    ModelConnectionError("reset", model="m"),
    ModelTimeoutError("late", model="m"),
    ModelProtocolError("HTML", model="m"),
)


def name_of(error: ModelError) -> str:
    return f"{type(error).__name__} {error}"


def plan(candidates: int = 2, *, most: int | None = None, **fields: object) -> Plan:
    """A plan in which a wait is as long as the backend asks for, else one second per attempt made."""
    fields.setdefault("stop", (lambda attempts: attempts >= most) if most is not None else lambda _n: False)
    fields.setdefault("wait", lambda attempts, error: judge(error).retry_after or float(attempts))
    fields.setdefault("stream", False)
    return Plan(names=[f"m{place}" for place in range(candidates)], **fields)  # type: ignore[arg-type]


def starts(check: Checker) -> list[tuple[int, float]]:
    return [(one.candidate, one.at) for one in check.begun]


def ending(check: Checker) -> Ending:
    (outcome,) = check.outcomes
    assert isinstance(outcome, Fail)
    return outcome.ending


class Purse:
    """A retry budget that counts what is taken from it."""

    def __init__(self, coins: int = 1000) -> None:
        self.coins = coins
        self.paid = 0

    def __call__(self) -> bool:
        if self.paid >= self.coins:
            return False
        self.paid += 1
        return True


class TestFallback:
    def test_the_best_is_asked_and_its_answer_taken(self) -> None:
        check = run(plan(3), [[Answer()], [Answer()], [Answer()]])
        assert starts(check) == [(0, 0.0)]
        assert check.outcomes == [Succeed(0)]

    def test_a_stream_is_handed_on_at_its_first_token(self) -> None:
        assert run(plan(stream=True), [[Answer()]] * 2).outcomes == [Promote(0)]

    def test_a_failure_moves_on_to_the_next_at_once(self) -> None:
        check = run(plan(3), [[Failure(http(500), 0.5)], [Failure(http(401), 0.25)], [Answer()]])
        assert starts(check) == [(0, 0.0), (1, 0.5), (2, 0.75)]
        assert check.outcomes == [Succeed(2)]
        assert [type(cause) for cause in check.machine.causes] == [ModelHTTPError] * 2

    @pytest.mark.parametrize("error", HOPELESS, ids=name_of)
    def test_what_cannot_heal_is_not_asked_again(self, error: ModelError) -> None:
        check = run(plan(2), [[Failure(error)], [Failure(error)]])
        assert len(check.begun) == 2
        assert ending(check) is Ending.FAILED
        assert check.machine.causes == [error, error]

    @pytest.mark.parametrize("error", HEALING, ids=name_of)
    def test_what_may_heal_is_asked_again_after_all_others(self, error: ModelError) -> None:
        check = run(plan(2), [[Failure(error, 0.0), Answer()], [Failure(http(401), 0.0)]])
        assert starts(check) == [(0, 0.0), (1, 0.0), (0, 1.0)]
        assert check.outcomes == [Succeed(2)]

    def test_attempts_run_out(self) -> None:
        check = run(plan(3, most=4), [[Failure(http(500))]] * 3, most=4)
        assert len(check.begun) == 4
        assert ending(check) is Ending.FAILED
        assert len(check.machine.causes) == 4

    def test_waits_grow_with_the_attempts_on_a_model(self) -> None:
        check = run(plan(1, most=4), [[Failure(http(500), 0.0)]], most=4)
        assert [at for _, at in starts(check)] == [0.0, 1.0, 3.0, 6.0]

    def test_an_empty_retry_budget_still_tries_every_model_once(self) -> None:
        check = run(
            plan(3, may_retry=lambda: False), [[Failure(http(500))], [Failure(http(500))], [Answer()]]
        )
        assert check.outcomes == [Succeed(2)]
        check = run(plan(3, may_retry=lambda: False), [[Failure(http(500))]] * 3)
        assert len(check.begun) == 3
        assert ending(check) is Ending.FAILED

    def test_only_a_repetition_is_paid_from_the_retry_budget(self) -> None:
        purse = Purse()
        world: list[list[Behaviour]] = [[Failure(http(500)), Answer()], [Refusal(1.0), Failure(http(500))]]
        check = run(plan(2, may_retry=purse), world)
        assert check.outcomes
        assert purse.paid == 1


class TestRetryAfter:
    def test_it_is_obeyed(self) -> None:
        check = run(plan(1), [[Failure(http(429, retry_after=7.0), 0.0), Answer()]])
        assert starts(check) == [(0, 0.0), (0, 7.0)]

    @pytest.mark.parametrize("asked", [10.0, 10.5, math.inf])
    def test_a_wait_beyond_the_deadline_is_not_begun(self, asked: float) -> None:
        check = run(plan(1, deadline=10.0), [[Failure(http(429, retry_after=asked), 0.0), Answer()]])
        assert check.now == 0.0, "it fails at once"
        assert ending(check) is Ending.FAILED

    def test_a_long_wait_is_begun_if_the_deadline_leaves_the_time(self) -> None:
        check = run(
            plan(1, deadline=1000.0, patience=5.0), [[Failure(http(429, retry_after=600), 0.0), Answer()]]
        )
        assert starts(check) == [(0, 0.0), (0, 600.0)]

    def test_without_a_deadline_patience_is_bounded(self) -> None:
        check = run(plan(1, patience=5.0), [[Failure(http(503, retry_after=6.0), 0.0), Answer()]])
        assert check.now == 0.0
        assert ending(check) is Ending.FAILED


class TestRefusals:
    def test_another_model_is_asked_at_once(self) -> None:
        assert starts(run(plan(2), [[Refusal(30.0)], [Answer()]])) == [(0, 0.0), (1, 0.0)]

    def test_it_is_waited_for_and_is_no_attempt(self) -> None:
        check = run(plan(1, most=1), [[Refusal(3.0), Refusal(2.0), Refusal(1.0), Answer()]], most=1)
        assert starts(check) == [(0, 0.0), (0, 3.0), (0, 5.0), (0, 6.0)]
        assert check.outcomes == [Succeed(3)]

    @pytest.mark.parametrize("wait", [math.inf, 10.0, 11.0])
    def test_nothing_but_refusals_is_told_apart_from_failures(self, wait: float) -> None:
        check = run(plan(2, deadline=10.0), [[Refusal(wait)], [Refusal(math.inf)]])
        assert check.now == 0.0
        assert ending(check) is Ending.REFUSED

    def test_a_failure_beside_refusals_is_a_failure(self) -> None:
        check = run(plan(2), [[Refusal(math.inf)], [Failure(http(401))]])
        assert ending(check) is Ending.FAILED

    def test_a_model_held_back_is_not_given_up_for_an_empty_retry_budget(self) -> None:
        world: list[list[Behaviour]] = [[Refusal(20.0), Answer()], [Failure(http(500))]]
        check = run(plan(2, may_retry=lambda: False), world)
        assert starts(check) == [(0, 0.0), (1, 0.0), (0, 20.0)]
        assert check.outcomes == [Succeed(2)]

    def test_repetitions_leave_an_attempt_for_a_model_held_back(self) -> None:
        world: list[list[Behaviour]] = [[Refusal(60.0), Answer()], [Failure(http(500), 0.0)]]
        check = run(plan(2, most=3), world, most=3)
        assert starts(check) == [(0, 0.0), (1, 0.0), (1, 1.0), (0, 60.0)]
        assert check.outcomes == [Succeed(3)]

    def test_waits_do_not_grow_with_refusals(self) -> None:
        waited: list[int] = []

        def wait(attempts: int, _error: ModelError) -> float:
            waited.append(attempts)
            return 1.0

        world: list[Behaviour] = [Refusal(1.0), Refusal(1.0), Failure(http(500)), Answer()]
        run(plan(1, wait=wait), [world])
        assert waited == [1]

    def test_a_repetition_that_is_refused_is_paid_for_once(self) -> None:
        purse = Purse()
        world: list[Behaviour] = [Failure(http(500)), Refusal(1.0), Refusal(1.0), Answer()]
        check = run(plan(1, may_retry=purse), [world])
        assert isinstance(check.outcomes[0], Succeed)
        assert purse.paid == 1


class TestTimeouts:
    @pytest.mark.parametrize(("stream", "limit"), [(True, 3.0), (False, 9.0)])
    def test_an_attempt_is_given_its_time_from_when_the_backend_begins(
        self, stream: bool, limit: float
    ) -> None:
        slow = plan(2, stream=stream, ttft_timeout=3.0, attempt_timeout=9.0)
        check = run(slow, [[Silence(load=100.0)], [Answer()]])
        assert starts(check) == [(0, 0.0), (1, 100.0 + limit)]
        (cause,) = check.machine.causes
        assert isinstance(cause, ModelTimeoutError)
        assert (cause.model, cause.timeout) == ("m0", limit)

    def test_a_second_started_does_not_give_more_time(self) -> None:
        machine = AttemptMachine(plan(1, attempt_timeout=5.0))
        machine.begin(0.0)
        machine.started(0, 1.0)
        machine.started(0, 4.0)
        assert machine.wake_at == 6.0

    def test_an_answer_that_comes_before_the_timer_counts(self) -> None:
        machine = AttemptMachine(plan(1, attempt_timeout=5.0))
        machine.begin(0.0)
        machine.started(0, 0.0)
        assert machine.finished(0, 5.1) == [Succeed(0)]


class TestOverdue:
    """Given up before its time-out: late, without a sign of life, and with somebody else to ask."""

    late = staticmethod(lambda *_: 2.0)

    def test_a_silent_model_is_given_up_for_another(self) -> None:
        check = run(plan(2, overdue=self.late, silent=lambda *_: True), [[Silence(load=5.0)], [Answer()]])
        assert starts(check) == [(0, 0.0), (1, 7.0)]
        (cause,) = check.machine.causes
        assert isinstance(cause, ModelTimeoutError)
        assert cause.timeout == 2.0

    def test_one_that_answers_others_is_only_long(self) -> None:
        check = run(plan(2, overdue=self.late, silent=lambda *_: False), [[Answer(after=60.0)], [Answer()]])
        assert starts(check) == [(0, 0.0)]
        assert check.outcomes == [Succeed(0)]

    def test_with_nobody_else_to_ask_it_is_waited_for(self) -> None:
        silent: dict[str, object] = {"overdue": self.late, "silent": lambda *_: True}
        assert run(plan(1, most=None, **silent), [[Answer(after=60.0)]]).outcomes == [Succeed(0)]
        check = run(plan(2, most=None, **silent), [[Failure(http(401))], [Answer(after=60.0)]])
        assert check.outcomes == [Succeed(1)]

    def test_it_is_looked_at_again_and_only_what_came_since_counts(self) -> None:
        asked: list[float] = []

        def silent(_candidate: int, since: float, _last: bool) -> bool:
            asked.append(since)
            return since >= 2.0

        check = run(plan(2, overdue=self.late, silent=silent), [[Silence()], [Answer()]])
        assert asked == [0.0, 2.0]
        assert starts(check) == [(0, 0.0), (1, 4.0)]


class TestLastCall:
    """The last moment at which another model can answer before the deadline."""

    half: Final[Mapping[str, Any]] = {"deadline": 4.0, "last_call": lambda _place, left: left / 2}

    def test_a_model_that_is_silent_is_left_for_nothing(self) -> None:
        purse = Purse(0)
        check = run(plan(2, may_retry=purse, silent=lambda *_: True, **self.half), [[Silence()], [Answer()]])
        assert starts(check) == [(0, 0.0), (1, 2.0)]
        assert check.outcomes == [Succeed(1)]

    def test_one_that_answers_others_is_left_only_if_the_next_is_known_and_paid_for(self) -> None:
        for outpaced, coins, answered in ((True, 1, True), (True, 0, False), (False, 1, False)):
            fields: dict[str, Any] = {"outpaced": lambda _place, it=outpaced: it, **self.half}
            check = run(plan(2, may_retry=Purse(coins), **fields), [[Silence()], [Answer()]])
            assert (check.outcomes == [Succeed(1)]) is answered

    def test_who_only_had_to_make_room_did_not_fail(self) -> None:
        check = run(plan(2, silent=lambda *_: True, **self.half), [[Silence()], [Answer()]])
        assert check.machine.causes == []
        blamed: dict[str, Any] = {"to_blame": lambda *_: True, **self.half}
        check = run(plan(2, silent=lambda *_: True, **blamed), [[Silence()], [Answer()]])
        assert [type(cause) for cause in check.machine.causes] == [ModelTimeoutError]

    def test_nobody_is_left_for_a_doubtful_model_that_cannot_be_paid_for(self) -> None:
        fields: dict[str, Any] = {"doubtful": lambda place: place == 1, "silent": lambda *_: True}
        check = run(plan(2, may_retry=Purse(0), **fields, **self.half), [[Answer(after=3.0)], [Answer()]])
        assert check.outcomes == [Succeed(0)]

    def test_a_deadline_tells_of_a_model_that_is_to_blame_and_of_no_other(self) -> None:
        for blamed in (True, False):
            check = run(plan(1, deadline=3.0, to_blame=lambda *_, it=blamed: it), [[Silence()]])
            assert ending(check) is Ending.DEADLINE
            assert len(check.machine.causes) == blamed
        check = run(plan(1, deadline=3.0, to_blame=lambda *_: True), [[Silence(load=math.inf)]])
        assert check.machine.causes == [], "loading is not slowness"


class TestRefunds:
    """What is paid back if an attempt is answered."""

    @staticmethod
    def refunds(machine: AttemptMachine, errors: Sequence[ModelError]) -> list[int]:
        given = [action.refund for action in machine.begin(0.0) if isinstance(action, Start)]
        for number, error in enumerate(errors):
            machine.started(number, float(number))
            actions = machine.failed(number, error, float(number))
            given += [action.refund for action in actions if isinstance(action, Start)]
        return given

    def test_what_was_not_paid_for_is_not_paid_back(self) -> None:
        machine = AttemptMachine(plan(2, wait=lambda *_: 0.0))
        assert self.refunds(machine, [http(500), http(500), http(503)]) == [0, 0, 2, 2]

    def test_a_model_with_too_much_to_do_gets_no_more_than_its_due(self) -> None:
        machine = AttemptMachine(plan(1, wait=lambda *_: 0.0))
        assert self.refunds(machine, [http(503), http(500)]) == [0, 1, 2]

    def test_a_doubtful_one_that_takes_over_was_paid_for(self) -> None:
        machine = AttemptMachine(plan(2, doubtful=lambda _place: True))
        assert self.refunds(machine, [http(500)]) == [0, 2]

    def test_a_hedge_is_never_paid_back(self) -> None:
        machine = AttemptMachine(plan(2, hedge_after=(1.0, 1.0)))
        machine.begin(0.0)
        machine.started(0, 0.0)
        (hedge,) = machine.timer(1.0)
        assert isinstance(hedge, Start)
        assert (hedge.hedge, hedge.refund) == (True, 0)


class TestOutage:
    def test_taking_over_by_a_doubtful_model_is_paid_for(self) -> None:
        world: list[list[Behaviour]] = [[Failure(http(401))], [Failure(http(401))], [Answer()]]
        purse = Purse(0)
        check = run(plan(3, doubtful=lambda place: place == 1, may_retry=purse), world)
        assert [one.candidate for one in check.begun] == [0, 2]
        purse = Purse(1)
        check = run(plan(3, doubtful=lambda place: place == 1, may_retry=purse), world)
        assert [one.candidate for one in check.begun] == [0, 1, 2]
        assert purse.paid == 1

    def test_the_first_that_is_asked_may_be_doubtful(self) -> None:
        check = run(plan(1, doubtful=lambda _: True, may_retry=Purse(0)), [[Answer()]])
        assert check.outcomes == [Succeed(0)]

    def test_a_doubtful_model_that_a_limit_refuses_is_paid_for_once(self) -> None:
        purse = Purse()
        world: list[list[Behaviour]] = [[Failure(http(401))], [Refusal(1.0), Refusal(1.0), Answer()]]
        check = run(plan(2, doubtful=lambda _: True, may_retry=purse), world)
        assert isinstance(check.outcomes[0], Succeed)
        assert purse.paid == 1

    def test_nobody_waits_for_a_model_that_will_not_be_let_in(self) -> None:
        check = run(plan(1, shut=lambda *_: True), [[Failure(http(500), 0.0), Answer()]])
        assert (check.now, ending(check)) == (0.0, Ending.FAILED)


class TestDeadline:
    def test_it_ends_even_what_never_began(self) -> None:
        check = run(plan(2, deadline=4.0), [[Silence(load=math.inf)], [Answer()]])
        assert (check.now, ending(check)) == (4.0, Ending.DEADLINE)

    def test_nothing_begins_at_it(self) -> None:
        check = run(plan(2, deadline=4.0), [[Failure(http(500), 4.0)], [Answer()]])
        assert len(check.begun) == 1
        assert ending(check) is Ending.DEADLINE
        assert ending(run(plan(2, deadline=0.0), [[Answer()]] * 2)) is Ending.DEADLINE

    def test_a_stream_that_begins_too_late_is_not_handed_on(self) -> None:
        machine = AttemptMachine(plan(1, stream=True, deadline=4.0))
        machine.begin(0.0)
        assert machine.visible(0, 4.0) == [Fail(Ending.DEADLINE)]

    def test_a_whole_answer_is_handed_on_however_late(self) -> None:
        machine = AttemptMachine(plan(1, deadline=4.0))
        machine.begin(0.0)
        assert machine.finished(0, 4.1) == [Succeed(0)]


class TestHedging:
    hedged = staticmethod(lambda **fields: plan(3, stream=True, hedge_after=[2.0, 5.0, 5.0], **fields))

    def test_a_late_model_gets_company_and_the_loser_is_stopped(self) -> None:
        machine = AttemptMachine(self.hedged())
        machine.begin(0.0)
        machine.started(0, 10.0)
        assert machine.wake_at == 12.0
        assert machine.timer(11.9) == []
        assert machine.timer(12.0) == [Start(1, 1, hedge=True)]
        assert machine.visible(1, 13.0) == [Promote(1), Cancel(0)]
        assert machine.visible(0, 13.1) == []

    def test_there_is_never_a_third(self) -> None:
        check = run(self.hedged(deadline=25.0), [[Silence()]] * 3)
        assert [(one.candidate, one.hedge) for one in check.begun] == [(0, False), (1, True)]

    def test_a_model_that_only_loads_gets_none(self) -> None:
        check = run(self.hedged(), [[Answer(after=1.0, load=60.0)], [Answer()], [Answer()]])
        assert len(check.begun) == 1

    def test_an_empty_retry_budget_allows_none(self) -> None:
        check = run(self.hedged(may_retry=lambda: False), [[Answer(after=20.0)], [Answer()], [Answer()]])
        assert len(check.begun) == 1

    def test_a_hedge_that_fails_leaves_the_first_alone(self) -> None:
        check = run(self.hedged(), [[Answer(after=20.0)], [Failure(http(500))], [Answer()]])
        assert check.outcomes == [Promote(0)]
        assert len(check.begun) == 2

    def test_a_first_that_fails_leaves_the_hedge_alone(self) -> None:
        check = run(self.hedged(), [[Failure(http(500), 3.0)], [Answer(after=4.0)], [Answer()]])
        assert check.outcomes == [Promote(1)]
        assert len(check.begun) == 2

    def test_a_hedge_that_is_late_in_its_turn_gets_no_company(self) -> None:
        check = run(self.hedged(), [[Failure(http(500), 3.0)], [Answer(after=20.0)], [Answer()]])
        assert check.outcomes == [Promote(1)]
        assert len(check.begun) == 2

    def test_a_model_asked_before_is_no_company(self) -> None:
        two = plan(2, stream=True, hedge_after=[2.0, 2.0])
        check = run(two, [[Failure(http(500), 0.0), Answer()], [Answer(after=9.0)]])
        assert check.outcomes == [Promote(1)]
        assert len(check.begun) == 2


class TestCancelling:
    def test_everything_that_runs_is_stopped(self) -> None:
        machine = AttemptMachine(plan(2, hedge_after=[1.0, 1.0]))
        machine.begin(0.0)
        machine.started(0, 0.0)
        machine.timer(1.0)
        assert machine.cancelled(1.5) == [Cancel(0), Cancel(1), Fail(Ending.CANCELLED)]

    def test_nothing_happens_after_the_end(self) -> None:
        machine = AttemptMachine(plan(2))
        machine.begin(0.0)
        machine.finished(0, 1.0)
        late = [
            machine.finished(0, 2.0),
            machine.visible(0, 2.0),
            machine.failed(0, http(500), 2.0),
            machine.refused(0, 3.0, 2.0),
            machine.started(0, 2.0),
            machine.timer(2.0),
            machine.cancelled(2.0),
        ]
        assert late == [[]] * 7
        assert machine.wake_at == math.inf
        assert machine.causes == []


ERRORS = st.sampled_from([*HOPELESS, *HEALING, http(429, retry_after=3.0), http(503, retry_after=1e9)])
SECONDS = st.sampled_from([0.0, 0.1, 1.0, 2.0, 5.0, 20.0, 60.0])
BEHAVIOURS: st.SearchStrategy[Behaviour] = st.one_of(
    st.builds(Answer, SECONDS, SECONDS),
    st.builds(Failure, ERRORS, SECONDS, SECONDS),
    st.builds(Silence, SECONDS),
    st.builds(Refusal, st.sampled_from([0.01, 1.0, 4.0, math.inf])),
)
#: What a candidate does for ever after; refusals without end would be a request without end.
LASTS = BEHAVIOURS.filter(lambda one: not isinstance(one, Refusal) or one.wait == math.inf)
WORLD = st.builds(lambda script, last: [*script, last], st.lists(BEHAVIOURS, max_size=3), LASTS)
PLANS = st.fixed_dictionaries(
    {
        "stream": st.booleans(),
        "deadline": st.sampled_from([math.inf, 0.0, 3.0, 10.0, 300.0]),
        "patience": st.sampled_from([2.0, 120.0]),
        "attempt_timeout": st.sampled_from([0.5, 4.0, 30.0]),
        "ttft_timeout": st.sampled_from([0.5, 4.0, 30.0]),
        "hedge_after": st.sampled_from([(), (1.0,) * 4, (0.0, 3.0, 3.0, 0.5)]),
        "overdue": st.sampled_from([lambda *_: math.inf, lambda *_: 2.0]),
        "last_call": st.sampled_from([lambda *_: math.inf, lambda _place, left: left / 2, lambda *_: 1.0]),
        "last_wait": st.sampled_from([lambda *_: math.inf, lambda _place, left: left / 2]),
        "silent": st.sampled_from([lambda *_: True, lambda *_: False, lambda _place, _since, last: last]),
        "outpaced": st.sampled_from([lambda *_: True, lambda *_: False]),
        "to_blame": st.sampled_from([lambda *_: True, lambda *_: False]),
        "wait": st.sampled_from(
            [
                lambda _attempts, error: judge(error).retry_after or 0.0,
                lambda attempts, error: max(0.25 * 2.0**attempts, judge(error).retry_after or 0.0),
            ]
        ),
    }
)


class TestAnyWorld:
    @settings(max_examples=400, deadline=None)
    @given(
        worlds=st.lists(WORLD, min_size=1, max_size=4),
        fields=PLANS,
        most=st.integers(1, 6),
        coins=st.integers(0, 4),
    )
    def test_every_request_ends_and_keeps_every_promise(
        self, worlds: list[list[Behaviour]], fields: dict[str, object], most: int, coins: int
    ) -> None:
        check = run(plan(len(worlds), most=most, may_retry=Purse(coins), **fields), worlds, most=most)
        assert len(check.outcomes) == 1
        repeated = check.calls - len({one.candidate for one in check.begun if not one.refused})
        assert repeated + sum(one.hedge and not one.refused for one in check.begun) <= coins

    @settings(max_examples=300, deadline=None)
    @given(
        worlds=st.lists(WORLD, min_size=0, max_size=3),
        refusals=st.lists(st.builds(Refusal, st.sampled_from([0.01, 1.0, 1.9])), max_size=4),
        place=st.integers(0, 3),
        fields=PLANS,
        spare=st.integers(0, 2),
        coins=st.integers(0, 4),
    )
    def test_while_one_model_works_the_caller_gets_an_answer(
        self,
        *,
        worlds: list[list[Behaviour]],
        refusals: list[Refusal],
        place: int,
        fields: dict[str, object],
        spare: int,
        coins: int,
    ) -> None:
        worlds.insert(place, [*refusals, Answer(after=0.4, load=20.0)])
        fields["deadline"] = math.inf
        most = len(worlds) + spare
        check = run(plan(len(worlds), most=most, may_retry=Purse(coins), **fields), worlds, most=most)
        assert isinstance(check.outcomes[0], Promote | Succeed)


EVERY_PLAN: tuple[dict[str, object], ...] = (
    {"stream": True, "hedge_after": (1.0, 1.0), "deadline": 6.0},
    {"stream": False, "deadline": 4.0, "last_call": lambda _p, left: left / 2, "silent": lambda *_: True},
    {"stream": False, "overdue": lambda *_: 2.0, "silent": lambda *_: True, "attempt_timeout": 5.0},
    {"stream": True, "deadline": 5.0, "doubtful": lambda *_: True, "last_wait": lambda *_: 1.0},
    {"stream": False, "shut": lambda *_: True, "to_blame": lambda *_: True, "hedge_after": (0.5, 0.5)},
)
DEPTH = 5


class TestEverySequenceOfEvents:
    """Small worlds, exhaustively: two candidates, and whatever can happen, in any order."""

    @pytest.mark.parametrize("fields", EVERY_PLAN, ids=range(len(EVERY_PLAN)))
    @pytest.mark.parametrize("coins", [0, 2])
    def test_keeps_every_promise(self, fields: dict[str, object], coins: int) -> None:
        paths: list[tuple[tuple[str, int], ...]] = [()]
        seen = 0
        while paths:
            path = paths.pop()
            check = Checker(AttemptMachine(plan(2, most=4, may_retry=Purse(coins), **fields)), 4)
            check.took(check.machine.begin(0.0))
            for kind, attempt in path:
                happens(check, kind, attempt)
            seen += 1
            if len(path) < DEPTH and not check.machine.done:
                paths += [(*path, step) for step in possible(check)]
        assert seen > 100


def possible(check: Checker) -> list[tuple[str, int]]:
    """What may happen next: to an attempt that runs, late to the first, by the clock, or by the caller."""
    steps = [("the timer", 0), ("the caller", 0)]
    for attempt in check.live:
        steps += [(kind, attempt) for kind in ("answers", "fails", "breaks", "is refused")]
        if check.begun[attempt].begun_at is None:
            steps.append(("starts", attempt))
    if 0 not in check.live:
        steps.append(("answers", 0))
    return steps


def happens(check: Checker, kind: str, attempt: int) -> None:
    machine, now = check.machine, check.now
    if kind == "the timer":
        check.now = max(now, machine.wake_at) if machine.wake_at < math.inf else now + 1.0
        check.took(machine.timer(check.now))
    elif kind == "the caller":
        check.took(machine.cancelled(now))
    elif kind == "starts":
        check.begun[attempt].begun_at = now
        check.took(machine.started(attempt, now))
    elif kind == "answers":
        check.took(machine.visible(attempt, now) if check.plan.stream else machine.finished(attempt, now))
    elif kind == "is refused":
        check.refused(attempt, now + 1.0)
        check.took(machine.refused(attempt, now + 1.0, now))
    else:
        error = http(500) if kind == "fails" else http(401)
        check.failed(attempt, error)
        check.took(machine.failed(attempt, error, now))


class AnyEvents(RuleBasedStateMachine):
    """Events in any order, also late, early, twice and of attempts that never were."""

    @initialize(candidates=st.integers(1, 3), fields=PLANS, most=st.integers(1, 5), coins=st.integers(0, 3))
    def begins(self, candidates: int, fields: dict[str, object], most: int, coins: int) -> None:
        made = plan(candidates, most=most, may_retry=Purse(coins), **fields)
        self.check = Checker(AttemptMachine(made), most)
        self.check.took(self.check.machine.begin(0.0))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.check.now = min(self.check.now + seconds, max(self.check.machine.wake_at, self.check.now))

    @rule()
    def the_timer_rings(self) -> None:
        self.check.took(self.check.machine.timer(self.check.now))

    @rule(attempt=st.integers(-1, 6))
    def it_starts(self, attempt: int) -> None:
        check = self.check
        if attempt in check.live and check.begun[attempt].begun_at is None:
            check.begun[attempt].begun_at = check.now
        check.took(check.machine.started(attempt, check.now))

    @rule(attempt=st.integers(-1, 6))
    def it_answers(self, attempt: int) -> None:
        check = self.check
        if check.plan.stream:
            if check.now >= check.plan.deadline:
                check.live.discard(attempt)
            check.took(check.machine.visible(attempt, check.now))
        else:
            check.took(check.machine.finished(attempt, check.now))

    @rule(attempt=st.integers(-1, 6), error=ERRORS)
    def it_fails(self, attempt: int, error: ModelError) -> None:
        check = self.check
        if attempt in check.live:
            check.failed(attempt, error)
        check.took(check.machine.failed(attempt, error, check.now))

    @rule(attempt=st.integers(-1, 6), wait=st.sampled_from([-1.0, 0.0, 1.0, 4.0, math.inf]))
    def a_limit_refuses(self, attempt: int, wait: float) -> None:
        check = self.check
        if attempt in check.live:
            check.refused(attempt, check.now + wait)
        check.took(check.machine.refused(attempt, check.now + wait, check.now))

    @rule(often=st.integers(0, 9))
    def the_caller_leaves(self, often: int) -> None:
        if often == 0:
            self.check.took(self.check.machine.cancelled(self.check.now))

    @invariant()
    def what_is_done_stays_done(self) -> None:
        if hasattr(self, "check") and self.check.machine.done:
            assert self.check.machine.timer(self.check.now + 1e6) == []


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
