"""A driver of the attempt machine on made-up time, which checks what must hold after every event.

It calls `timer` at `wake_at` and at no other time, so a wake-up that the machine forgets is a run that hangs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from router.attempts import Action, AttemptMachine, Cancel, Ending, Fail, Plan, Promote, Start, Succeed
from router.errors import ModelError
from router.failures import judge


@dataclass(frozen=True)
class Answer:
    """The backend begins after `load` seconds and answers `after` seconds later."""

    after: float = 1.0
    load: float = 0.0


@dataclass(frozen=True)
class Failure:
    """The backend begins after `load` seconds and fails `after` seconds later."""

    error: ModelError
    after: float = 0.1
    load: float = 0.0


@dataclass(frozen=True)
class Silence:
    """The backend begins after `load` seconds (never, if infinite) and is not heard of again."""

    load: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """A limit says no, for `wait` seconds."""

    wait: float


Behaviour = Answer | Failure | Silence | Refusal


@dataclass
class Begun:
    """An attempt as the driver saw it."""

    candidate: int
    at: float
    hedge: bool
    begun_at: float | None = None
    refused: bool = False


@dataclass
class Checker:
    """Keeps what a machine did, and asserts what must hold whatever happened."""

    machine: AttemptMachine
    most: float = math.inf
    now: float = 0.0
    begun: list[Begun] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    outcomes: list[Promote | Succeed | Fail] = field(default_factory=list)
    errors: list[ModelError] = field(default_factory=list)
    hopeless: set[int] = field(default_factory=set)
    free_at: dict[int, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return self.machine.plan

    @property
    def calls(self) -> int:
        return sum(not one.refused for one in self.begun)

    def took(self, actions: Sequence[Action]) -> list[Start]:
        """Checks and notes the machine's answer to an event; returns what it starts."""
        for action in actions:
            assert not self.outcomes or isinstance(action, Cancel | Fail), "nothing begins after the outcome"
            match action:
                case Start():
                    self._starts(action)
                case Cancel():
                    self._cancels(action)
                case Promote() | Succeed() | Fail():
                    assert not self.outcomes, "one outcome, ever"
                    self.outcomes.append(action)
                    if not isinstance(action, Fail):
                        self.live.remove(action.attempt)
        self._holds()
        return [action for action in actions if isinstance(action, Start)]

    def _starts(self, action: Start) -> None:
        place, plan = action.candidate, self.plan
        assert self.now < plan.deadline
        assert action.attempt == len(self.begun), "attempts are numbered in order"
        assert self.calls < self.most, "no more attempts than allowed"
        assert place not in {self.begun[other].candidate for other in self.live}, "one call at a time each"
        assert place not in self.hopeless, "what cannot heal is not asked again"
        assert self.now >= self.free_at.get(place, -math.inf), "asked too early"
        if action.hedge:
            (other,) = (self.begun[live] for live in self.live)
            assert other.begun_at is not None, "loading is not slowness"
            assert self.now >= other.begun_at + plan.hedge_after[other.candidate]
        else:
            assert not self.live, "only a hedge runs beside another"
        if any(one.candidate == place and not one.refused for one in self.begun):
            assert not action.hedge, "a hedge goes to a fresh candidate"
            tried = {one.candidate for one in self.begun}
            assert tried == set(range(len(plan.names))), "all are tried before one is repeated"
        self.begun.append(Begun(place, self.now, action.hedge))
        self.live.add(action.attempt)

    def _cancels(self, action: Cancel) -> None:
        self.live.remove(action.attempt)
        one = self.begun[action.attempt]
        if action.error is None and one.begun_at is None:
            one.refused = True  # it waited for its backend, and nothing was sent
        if action.error is not None:
            limit = self.plan.ttft_timeout if self.plan.stream else self.plan.attempt_timeout
            assert one.begun_at is not None, "an attempt that did not begin cannot be late"
            least = min(limit, self.plan.overdue(one.candidate))
            if self.plan.deadline < math.inf:
                least = min(least, self.plan.last_call(one.candidate, self.plan.deadline - one.begun_at))
            blamed = self.plan.to_blame(one.candidate, one.begun_at)
            assert self.now >= one.begun_at + least or blamed
            self.failed(action.attempt, action.error)

    def failed(self, attempt: int, error: ModelError) -> None:
        """Notes an error that the machine is told, or that it found."""
        self.live.discard(attempt)
        self.errors.append(error)
        place, verdict = self.begun[attempt].candidate, judge(error)
        if not verdict.heals:
            self.hopeless.add(place)
        self.free_at[place] = self.now + (verdict.retry_after or 0.0)

    def refused(self, attempt: int, free_at: float) -> None:
        """Notes a refusal that the machine is told."""
        self.live.discard(attempt)
        self.begun[attempt].refused = True
        self.free_at[self.begun[attempt].candidate] = max(free_at, self.now)

    def _holds(self) -> None:
        machine = self.machine
        assert machine.done == bool(self.outcomes)
        assert machine.causes == self.errors, "every cause, in order"
        assert len(self.live) <= 2
        if machine.done:
            assert not self.live, "nothing runs on"
            assert machine.wake_at == math.inf
            self._ended_rightly()
            return
        assert self.now <= machine.wake_at <= max(machine.plan.deadline, self.now)
        if not self.live:
            assert machine.wake_at < math.inf, "somebody must wake a machine that waits"

    def _ended_rightly(self) -> None:
        outcome = self.outcomes[0]
        if not isinstance(outcome, Fail):
            return
        if outcome.ending is Ending.REFUSED:
            assert not self.errors
            assert self.calls == 0
        elif outcome.ending is Ending.FAILED:
            assert self.errors
        elif outcome.ending is Ending.DEADLINE and self.now < self.plan.deadline:
            assert self.calls, "some model was left so that another could be in time, and that one may not"
            assert not self.errors


def run(plan: Plan, worlds: Sequence[Sequence[Behaviour]], *, most: float = math.inf) -> Checker:
    """Runs a request to its end. A candidate behaves as its list says, and as its last entry ever after.

    Raises:
        AssertionError: if something does not hold, or the run never ends.
    """
    check = Checker(AttemptMachine(plan), most)
    events: list[tuple[float, int, int, str, Behaviour]] = []
    asked = [0] * len(worlds)
    order = iter(range(10**9))

    def went(actions: Sequence[Action]) -> None:
        for start in check.took(actions):
            script = worlds[start.candidate]
            behaviour = script[min(asked[start.candidate], len(script) - 1)]
            asked[start.candidate] += 1
            for at, kind in _events(behaviour, check.now):
                heapq.heappush(events, (at, next(order), start.attempt, kind, behaviour))

    went(check.machine.begin(check.now))
    for _ in range(1000):
        if check.machine.done:
            return check
        if not events or events[0][0] > check.machine.wake_at:
            assert check.machine.wake_at < math.inf, "nobody will ever wake the machine"
            check.now = max(check.now, check.machine.wake_at)
            went(check.machine.timer(check.now))
            continue
        check.now, _order, attempt, kind, behaviour = heapq.heappop(events)
        if attempt in check.live:
            went(_tell(check, attempt, kind, behaviour))
    raise AssertionError("the run does not end")


def _events(behaviour: Behaviour, now: float) -> list[tuple[float, str]]:
    if isinstance(behaviour, Refusal):
        return [(now, "refused")]
    events = [(now + behaviour.load, "started")] if behaviour.load < math.inf else []
    if not isinstance(behaviour, Silence):
        events.append((now + behaviour.load + behaviour.after, "over"))
    return events


def _tell(check: Checker, attempt: int, kind: str, behaviour: Behaviour) -> list[Action]:
    machine, now = check.machine, check.now
    if kind == "started":
        check.begun[attempt].begun_at = now
        return machine.started(attempt, now)
    if isinstance(behaviour, Refusal):
        check.refused(attempt, now + behaviour.wait)
        return machine.refused(attempt, now + behaviour.wait, now)
    if isinstance(behaviour, Failure):
        check.failed(attempt, behaviour.error)
        return machine.failed(attempt, behaviour.error, now)
    if check.plan.stream and now >= check.plan.deadline:
        check.live.discard(attempt)  # whoever brings a token too late stops by itself
    return machine.visible(attempt, now) if check.plan.stream else machine.finished(attempt, now)
