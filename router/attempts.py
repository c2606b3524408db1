"""The attempt machine: which model to call when, for one request.

It does no I/O and has no clock: it is told what happened and when, and answers with what to do next. The
driver (`router.driver`) does it. So retries, fallbacks, hedges, deadlines and cancellation are tested with
plain calls and made-up times. All times are seconds on one monotonic clock.

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
from router.errors import ModelError, ModelTimeoutError
from router.failures import judge
from router.plan import Asked, Plan, Running

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
    _candidates: list[Asked] = field(init=False)
    _live: dict[int, Running] = field(default_factory=dict)
    _attempts: int = 0
    _calls: int = 0

    def __post_init__(self) -> None:
        self._candidates = [Asked() for _ in self.plan.names]

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

    def failed(self, attempt: int, error: ModelError, now: float) -> list[Action]:
        """An attempt failed."""
        live = self._live.pop(attempt, None)
        if live is None or self.done:
            return []
        self._note(live.candidate, error, now)
        return self._next(now)

    def refused(self, attempt: int, free_at: float, now: float) -> list[Action]:
        """A limit said no until `free_at`; a budget until infinity. Nothing was sent."""
        live = self._live.pop(attempt, None)
        if live is None or self.done:
            return []
        candidate = self._candidates[live.candidate]
        candidate.attempts -= 1
        candidate.paid = candidate.attempts > 0
        candidate.free_at = max(free_at, now)
        candidate.barred = candidate.free_at >= self._horizon(now)
        self._calls -= 1
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
        return len(self._live) == 1 and self._affordable(now) is not None

    def _let_go(self, attempt: int, live: Running) -> Cancel:
        del self._live[attempt]
        candidate = self._candidates[live.candidate]
        candidate.attempts -= 1
        candidate.barred = True
        self._calls -= 1
        return Cancel(attempt)

    def _give_up(self, attempt: int, live: Running, waited: float, now: float) -> Cancel:
        """Stops an attempt. One that only had to make room for another before the deadline did not fail."""
        del self._live[attempt]
        late = waited >= self._limit or now >= live.overdue_at
        if not late and not self.plan.to_blame(live.candidate, now - waited):
            self._candidates[live.candidate].barred = True
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
        place = self._fresh(now)
        if place is None:
            return False
        if not self.plan.silent(live.candidate, live.looked_at, last):
            if not (last and self.plan.outpaced(live.candidate) and self.plan.may_retry()):
                return False
            self._candidates[place].vouched = True
        return self._affordable(now) is not None

    @property
    def _limit(self) -> float:
        return self.plan.ttft_timeout if self.plan.stream else self.plan.attempt_timeout

    def _horizon(self, now: float) -> float:
        deadline = self.plan.deadline
        return deadline if deadline < math.inf else now + self.plan.patience

    def _note(self, place: int, error: ModelError, now: float) -> None:
        """Remembers a failure: whether and when its candidate may be asked again."""
        self.causes.append(error)
        candidate, verdict = self._candidates[place], judge(error)
        candidate.sheds = verdict.sheds
        if not verdict.heals:
            candidate.barred = True
            return
        free_at = candidate.free_at = now + self.plan.wait(candidate.attempts, error)
        candidate.barred = free_at >= self._horizon(now) or self.plan.shut(place, free_at)

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
            place = self._choose(now)
            if place is None and not self._open():
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
        self._calls += 1
        candidate = self._candidates[place]
        refund = 0
        if not hedge and (candidate.attempts > 0 or candidate.vouched):
            refund = 1 if candidate.sheds else 2
        candidate.attempts += 1
        candidate.paid = False
        live = self._live[attempt] = Running(place)
        if len(self._candidates) > 1 and self.plan.deadline < math.inf:
            live.last_call_at = now + self.plan.last_wait(place, self.plan.deadline - now)
        return Start(attempt, place, hedge, refund)

    def _open(self) -> list[int]:
        """Candidates that may still be asked, at some time."""
        if self._calls and self.plan.stop(self._calls):
            return []
        places = [place for place, candidate in enumerate(self._candidates) if not candidate.barred]
        fresh = [place for place in places if self._candidates[place].attempts == 0]
        if self._calls and fresh and self.plan.stop(self._calls + len(fresh)):
            return fresh  # the attempts that are left belong to those that were not asked yet
        return places

    def _fresh(self, now: float) -> int | None:
        """The best candidate that was not asked yet and that no limit holds back now."""
        for place in self._open():
            candidate = self._candidates[place]
            if candidate.attempts == 0 and candidate.free_at <= now:
                return place
        return None

    def _choose(self, now: float) -> int | None:
        """The candidate to ask now: one not asked yet, in order; else the one that is free first."""
        place = self._affordable(now)
        if place is not None:
            return place
        free = [place for place in self._open() if self._candidates[place].free_at <= now]
        paid = [place for place in free if self._candidates[place].paid]
        if free and not paid and not self.plan.may_retry():
            self._bar_repetitions()
            return None
        return min(paid or free, key=lambda place: (self._candidates[place].free_at, place), default=None)

    def _affordable(self, now: float) -> int | None:
        """As `_fresh`, of those that the retry budget allows."""
        place = self._fresh(now)
        while place is not None and not self._affords(place):
            self._candidates[place].barred = True
            place = self._fresh(now)
        return place

    def _affords(self, place: int) -> bool:
        """Whether a candidate may take over: in an outage, not every request can ask every model in vain."""
        candidate = self._candidates[place]
        if self._calls and not candidate.vouched and self.plan.doubtful(place):
            candidate.vouched = self.plan.may_retry()
            return candidate.vouched
        return True

    def _bar_repetitions(self) -> None:
        """The retry budget is empty: none is asked again, but those that a limit held back still may be."""
        for candidate in self._candidates:
            if candidate.attempts and not candidate.paid:
                candidate.barred = True

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
        place = self._fresh(now)
        if place is None or not self.plan.may_retry():
            return []
        hedge = self._start(place, now, hedge=True)
        self._live[hedge.attempt].hedged = True
        return [hedge]

    def _ending(self) -> Ending:
        if self.causes:
            return Ending.FAILED
        # Whoever was asked did not fail: it was left so that another could be in time, and that one may not.
        return Ending.DEADLINE if self._calls else Ending.REFUSED

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
            times += [self._candidates[place].free_at for place in self._open()]
        self.wake_at = max(min(times), now)
