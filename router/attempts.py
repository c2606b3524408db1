"""The attempt machine: which model to call when, for one request.

It does no I/O and has no clock: it is told what happened and when, and answers with what to do next. The
driver (`router.driver`) does it. So retries, fallbacks, hedges, deadlines and cancellation are tested with
plain calls and made-up times. All times are seconds on one monotonic clock. Whom to ask next is the affair of
`router.candidates`.

::

    begin ─► Start ─► started ─► visible ─► Promote          (a stream: the caller reads on by itself)
                │         │  └──► finished ─► Succeed         (an answer in one piece)
                │         └─────► failed ──► Start the next, or wait, or Fail
                └─ refused ─────► (a limit or a budget said no) as failed
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.actions import Action, Cancel, Ending, Fail, Promote, Start, Succeed
from router.candidates import Candidates
from router.errors import ModelError, ModelTimeoutError
from router.plan import Plan, Running

__all__ = ["Action", "AttemptMachine", "Cancel", "Ending", "Fail", "Plan", "Promote", "Start", "Succeed"]

#: Seconds until it is looked again at whether an overdue attempt's model is alive; at least.
LEAST_PATIENCE = 0.05


@dataclass(slots=True)
class AttemptMachine:
    """Decides the attempts of one request. Every event's method returns what to do, in order.

    Attributes:
        plan: What it may do.
        wake_at: When `timer` must be called at the latest; infinite if never.
        causes: The errors of the failed attempts, in order.
        done: Whether the outcome was given; later events change nothing.
    """

    plan: Plan
    wake_at: float = math.inf
    causes: list[ModelError] = field(default_factory=list)
    done: bool = False
    _candidates: Candidates = field(init=False)
    _live: dict[int, Running] = field(default_factory=dict)
    _attempts: int = 0

    def __post_init__(self) -> None:
        self._candidates = Candidates(self.plan)

    def begin(self, now: float) -> list[Action]:
        """The request begins."""
        return self._next(now)

    def started(self, attempt: int, now: float) -> list[Action]:
        """The backend began to work; its time counts from here."""
        live = self._live.get(attempt)
        if live is not None and live.begun_at is None:
            live.begun_at = now
            if len(self._candidates) > 1:
                live.looked_at = now
                live.overdue_at = now + self.plan.overdue(live.candidate)
                live.last_call_at = now + self.plan.last_call(live.candidate, self.plan.deadline - now)
            self._set_timer(now)
        return []

    def visible(self, attempt: int, now: float) -> list[Action]:
        """The first visible token of a stream is there. At the deadline it is too late: nothing may run on.

        Whoever reports it stops by itself then, as after every event of its own that brings no promotion.
        """
        if attempt in self._live and now >= self.plan.deadline:
            del self._live[attempt]
            return self._end(Ending.DEADLINE, now)
        return self._settle(attempt, Promote(attempt))

    def finished(self, attempt: int, now: float) -> list[Action]:
        """The whole answer is there."""
        del now
        return self._settle(attempt, Succeed(attempt))

    def failed(self, attempt: int, error: ModelError, now: float, *, noise: bool = False) -> list[Action]:
        """An attempt failed. `noise`: see `Candidates.failed`."""
        live = self._live.pop(attempt, None)
        if live is None or self.done:
            return []
        self._note(live.candidate, error, now, noise=noise)
        return self._next(now)

    def refused(self, attempt: int, free_at: float, now: float) -> list[Action]:
        """A limit said no until `free_at`; a budget until infinity. Nothing was sent."""
        live = self._live.pop(attempt, None)
        if live is None or self.done:
            return []
        self._candidates.refused(live.candidate, free_at, now)
        return self._next(now)

    def timer(self, now: float) -> list[Action]:
        """Time passed."""
        if self.done:
            return []
        if now >= self.plan.deadline:
            return self._end(Ending.DEADLINE, now)
        actions: list[Action] = []
        for attempt, live in list(self._live.items()):
            if self._waits_in_vain(live, now):
                actions.append(self._let_go(attempt, live))
                continue
            waited = self._given_up_after(live, now)
            if waited is not None:
                actions.append(self._give_up(attempt, live, waited, now))
        return actions + self._next(now)

    def cancelled(self, now: float) -> list[Action]:
        """The caller went away."""
        return [] if self.done else self._end(Ending.CANCELLED, now)

    def _late(self, live: Running, waited: float) -> ModelTimeoutError:
        return ModelTimeoutError(
            f"no {'first token' if self.plan.stream else 'answer'} within {waited:.3g} s",
            model=self.plan.names[live.candidate],
            timeout=waited,
        )

    def _waits_in_vain(self, live: Running, now: float) -> bool:
        """Whether its backend has not begun, and only another candidate can be in time.

        Nothing was computed for it, and nobody is to blame: a model that loads, or has a queue, is well.
        """
        if live.begun_at is not None or now < live.last_call_at:
            return False
        live.last_call_at = math.inf
        return len(self._live) == 1 and self._candidates.affordable(now) is not None

    def _let_go(self, attempt: int, live: Running) -> Cancel:
        del self._live[attempt]
        self._candidates.let_go(live.candidate)
        return Cancel(attempt)

    def _give_up(self, attempt: int, live: Running, waited: float, now: float) -> Cancel:
        """Stops an attempt. One that only had to make room for another before the deadline did not fail."""
        del self._live[attempt]
        late = waited >= self._limit or now >= live.overdue_at
        if not late and not self.plan.to_blame(live.candidate, now - waited):
            self._candidates.bar(live.candidate)
            return Cancel(attempt)
        error = self._late(live, waited)
        self._note(live.candidate, error, now)
        return Cancel(attempt, error)

    def _given_up_after(self, live: Running, now: float) -> float | None:
        """After how many seconds an attempt is given up now; None if it is not.

        One that is overdue goes on while its model answers others, or there is nobody else to ask: then it
        is only long. At the last moment at which another can answer before the deadline, that one is asked
        even so, if the retry budget allows it.
        """
        if live.begun_at is None:
            return None
        if now >= live.begun_at + self._limit:
            return self._limit
        last = now >= live.last_call_at
        if not last and now < live.overdue_at:
            return None
        if last:
            live.last_call_at = math.inf
        if self._may_take_over(live, now, last=last):
            return now - live.begun_at
        if now >= live.overdue_at:
            live.looked_at = now
            live.overdue_at = now + max(now - live.begun_at, LEAST_PATIENCE)
        return None

    def _may_take_over(self, live: Running, now: float, *, last: bool) -> bool:
        place = self._candidates.fresh(now)
        if place is None:
            return False
        if not self.plan.silent(live.candidate, live.looked_at, last):
            if not (last and self.plan.outpaced(live.candidate) and self.plan.may_retry()):
                return False
            self._candidates.vouch(place)
        return self._candidates.affordable(now) is not None

    @property
    def _limit(self) -> float:
        return self.plan.ttft_timeout if self.plan.stream else self.plan.attempt_timeout

    def _note(self, place: int, error: ModelError, now: float, *, noise: bool = False) -> None:
        self.causes.append(error)
        self._candidates.failed(place, error, now, noise=noise)

    def _settle(self, attempt: int, action: Promote | Succeed) -> list[Action]:
        if self.done or attempt not in self._live:
            return []
        self.done = True
        self.wake_at = math.inf
        losers: list[Action] = [Cancel(other) for other in self._live if other != attempt]
        self._live.clear()
        return [action, *losers]

    def _end(self, ending: Ending, now: float) -> list[Action]:
        self.done = True
        self.wake_at = math.inf
        stops: list[Action] = []
        for attempt, live in self._live.items():
            # A caller who goes away tells nothing of the model: a page that is closed is no black hole.
            error, began = None, live.begun_at if ending is not Ending.CANCELLED else None
            if began is not None and self.plan.to_blame(live.candidate, began):
                error = self._late(live, now - began)
                self.causes.append(error)
            stops.append(Cancel(attempt, error))
        self._live.clear()
        return [*stops, Fail(ending)]

    def _next(self, now: float) -> list[Action]:
        """Starts what should run now, or gives up, and sets the timer."""
        if now >= self.plan.deadline:
            return self._end(Ending.DEADLINE, now)
        actions: list[Action] = []
        if not self._live:
            place = self._candidates.choose(now)
            if place is None and not self._candidates.left():
                return self._end(self._ending(), now)
            if place is not None:
                actions.append(self._start(place, now))
        else:
            actions += self._hedges(now)
        self._set_timer(now)
        return actions

    def _start(self, place: int, now: float, *, hedge: bool = False) -> Start:
        attempt = self._attempts
        self._attempts += 1
        refund = self._candidates.ask(place, hedge=hedge)
        live = self._live[attempt] = Running(place)
        if len(self._candidates) > 1 and self.plan.deadline < math.inf:
            live.last_call_at = now + self.plan.last_wait(place, self.plan.deadline - now)
        return Start(attempt, place, hedge, refund)

    def _hedges(self, now: float) -> list[Action]:
        """Company for a single attempt that is late, if there is a candidate that was not asked yet."""
        if len(self._live) != 1 or not self.plan.hedge_after:
            return []
        live = next(iter(self._live.values()))
        if (
            live.begun_at is None
            or live.hedged
            or now < live.begun_at + self.plan.hedge_after[live.candidate]
        ):
            return []
        live.hedged = True
        place = self._candidates.fresh(now)
        if place is None or not self.plan.may_retry():
            return []
        hedge = self._start(place, now, hedge=True)
        self._live[hedge.attempt].hedged = True
        return [hedge]

    def _ending(self) -> Ending:
        if self.causes:
            return Ending.FAILED
        # Whoever was asked did not fail: it was left so that another could be in time, and that one may not.
        return Ending.DEADLINE if self._candidates.calls else Ending.REFUSED

    def _set_timer(self, now: float) -> None:
        times = [self.plan.deadline]
        for live in self._live.values():
            if live.begun_at is not None:
                times += (live.begun_at + self._limit, live.overdue_at, live.last_call_at)
                if self.plan.hedge_after and not live.hedged and len(self._live) == 1:
                    times.append(live.begun_at + self.plan.hedge_after[live.candidate])
            else:
                times.append(live.last_call_at)
        if not self._live:
            times += self._candidates.free_times()
        self.wake_at = max(min(times), now)
