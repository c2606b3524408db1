"""Whom to ask: what was asked of each candidate of one request, and who may be asked now.

Pure, as the attempt machine that uses it (`router.attempts`): the clock is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.errors import ModelError
from router.failures import judge
from router.plan import Asked, Plan

__all__ = ["Candidates"]


@dataclass(slots=True)
class Candidates:
    """The candidates of one request, named by their places in the plan.

    Attributes:
        plan: What may be done.
        calls: Attempts that were made; refused ones are not.
    """

    plan: Plan
    calls: int = 0
    _asked: list[Asked] = field(init=False)

    def __post_init__(self) -> None:
        self._asked = [Asked() for _ in self.plan.names]

    def __len__(self) -> int:
        return len(self._asked)

    # --- what becomes of them ---

    def ask(self, place: int, *, hedge: bool) -> int:
        """One is asked. Returns what the retry budget gets back if it answers (see `Start`)."""
        candidate = self._asked[place]
        refund = 0
        if not hedge and (candidate.attempts > 0 or candidate.vouched):
            refund = 1 if candidate.sheds else 2
        self.calls += 1
        candidate.attempts += 1
        candidate.paid = False
        return refund

    def refused(self, place: int, free_at: float, now: float) -> None:
        """A limit or a budget refused an attempt until `free_at`: it was not made."""
        candidate = self._asked[place]
        self._unask(candidate)
        candidate.paid = candidate.attempts > 0
        candidate.free_at = max(free_at, now)
        candidate.barred = candidate.free_at >= self._horizon(now)

    def let_go(self, place: int) -> None:
        """An attempt whose backend never began was ended for another: it does not count."""
        self._unask(self._asked[place])
        self.bar(place)

    def failed(self, place: int, error: ModelError, now: float, *, noise: bool = False) -> None:
        """An attempt failed: whether and when the candidate may be asked again.

        `noise`: it says that it has too much to do, but answers as many: asking it again does help.
        """
        candidate, verdict = self._asked[place], judge(error)
        candidate.sheds = verdict.sheds and not noise
        if not verdict.heals:
            candidate.barred = True
            return
        free_at = candidate.free_at = now + self.plan.wait(candidate.attempts, error)
        candidate.barred = free_at >= self._horizon(now) or self.plan.shut(place, free_at)

    def bar(self, place: int) -> None:
        """One is not asked again."""
        self._asked[place].barred = True

    def vouch(self, place: int) -> None:
        """That one may be asked at all was paid for."""
        self._asked[place].vouched = True

    def _unask(self, candidate: Asked) -> None:
        candidate.attempts -= 1
        self.calls -= 1

    def _horizon(self, now: float) -> float:
        deadline = self.plan.deadline
        return deadline if deadline < math.inf else now + self.plan.patience

    # --- who is next ---

    def left(self) -> list[int]:
        """Those that may still be asked, at some time."""
        if self.calls and self.plan.stop(self.calls):
            return []
        places = [place for place, candidate in enumerate(self._asked) if not candidate.barred]
        fresh = [place for place in places if self._asked[place].attempts == 0]
        if self.calls and fresh and self.plan.stop(self.calls + len(fresh)):
            return fresh  # the attempts that are left belong to those that were not asked yet
        return places

    def free_times(self) -> Iterator[float]:
        """When each of those that may still be asked may be."""
        return (self._asked[place].free_at for place in self.left())

    def fresh(self, now: float) -> int | None:
        """The best one that was not asked yet and that no limit holds back now."""
        for place in self.left():
            candidate = self._asked[place]
            if candidate.attempts == 0 and candidate.free_at <= now:
                return place
        return None

    def affordable(self, now: float) -> int | None:
        """As `fresh`, of those that the retry budget allows."""
        place = self.fresh(now)
        while place is not None and not self._affords(place):
            self.bar(place)
            place = self.fresh(now)
        return place

    def choose(self, now: float) -> int | None:
        """Whom to ask now: one not asked yet, in order; else the one that is free first."""
        place = self.affordable(now)
        if place is not None:
            return place
        free = [place for place in self.left() if self._asked[place].free_at <= now]
        paid = [place for place in free if self._asked[place].paid]
        if free and not paid and not self.plan.may_retry():
            self._bar_repetitions()
            return None
        return min(paid or free, key=lambda place: (self._asked[place].free_at, place), default=None)

    def _affords(self, place: int) -> bool:
        """Whether one may take over: in an outage, not every request can ask every model in vain."""
        candidate = self._asked[place]
        if self.calls and not candidate.vouched and self.plan.doubtful(place):
            candidate.vouched = self.plan.may_retry()
            return candidate.vouched
        return True

    def _bar_repetitions(self) -> None:
        """The retry budget is empty: none is asked again, but those that a limit held back still may be."""
        for candidate in self._asked:
            if candidate.attempts and not candidate.paid:
                candidate.barred = True
