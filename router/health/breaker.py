"""The circuit breaker of one model: pure state, told what happened and when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.errors import ModelError, ModelTimeoutError
from router.failures import Failure
from router.health.window import Window, exceeds

__all__ = ["Breaker", "Shut"]

#: The share of failing and of slow calls that a model may have; more, and that certainly, opens its breaker.
TOLERATED_FAILURES, TOLERATED_SLOW = 0.1, 0.3
#: Calls that a window must hold before a share of them is looked at.
LEAST_CALLS = 10
#: A streak of failures that a model with this many failures beside it would have by chance more often than
#: this does not prove it dead.
CHANCE = 1e-6
#: The weight of one call in the share that fails in the long run, and how many failures in a row count.
LONG_RUN, MOST_COUNTED = 0.02, 5
#: A host that says that it has too much to do is alive: only a streak that lasts for this share of a cooldown
#: proves that it answers nobody.
SHEDDING = 0.125
#: While no other model is left, a failing one is probed after this share of a cooldown, twice as long after
#: each failed probe, up to a whole one; but for one that is silent, since whoever probes that waits in vain.
SOONER = 0.125
#: The cooldown doubles with each failed probe, up to so many times what it was at first ...
MOST_GROWTH = 32.0
#: ... and is halved again by so many answers without a breaker opening.
SHRINKS_AFTER = 50
#: An answer is slow if it took so many times as long as the model's answers usually take.
SLOW = 6.0
#: Answers after which it is known what is usual, the least weight of one, and the seconds in which what is
#: usual becomes something else: a model that stays slow is a slow model, and no failing one.
USUAL_AFTER, USUAL_WEIGHT, USUAL_LIFETIME = 10, 0.02, 900.0


@dataclass(frozen=True, slots=True)
class Shut:
    """Why a model must not be asked.

    Attributes:
        reason: Text that begins with the code `health:`.
        soft: Whether it answers often enough that it may be asked all the same when hardly any other is left.
        ripe: Whether it may be probed already if no other model is left.
    """

    reason: str
    soft: bool
    ripe: bool


@dataclass(slots=True)
class _Usual:
    """How long a model's answers usually take, as the logarithm of a factor on its profile."""

    level: float = 0.0
    count: int = 0
    at: float = -math.inf

    def is_slow(self, factor: float, now: float) -> bool:
        """Takes an answer in that took `factor` times what the profile says; whether it was a slow one."""
        if not 0.0 < factor < math.inf:
            return False
        told = math.log(factor)
        slow = self.count >= USUAL_AFTER and told > self.level + math.log(SLOW)
        # With the time that has passed alone: a spell of slow answers must not become what is usual within
        # seconds only because many come.
        weight = -math.expm1(-max(now - self.at, 0.0) / USUAL_LIFETIME)
        if not slow:
            weight = max(weight, 1.0 / (self.count + 1), USUAL_WEIGHT)
        self.level += weight * (told - self.level)
        self.count += 1
        self.at = max(now, self.at)
        return slow


@dataclass(slots=True)
class Breaker:
    """One model's breaker: closed, open until a time, or half-open, when one request probes.

    Attributes:
        threshold: Failures in a row that open it.
        cooldown: Seconds that it stays open at first; also how long an unanswered probe blocks the next.
        last: What the model failed with last.
        closed: Whether every request may go there, with nothing to be proved.
        soft: Whether it opened by a share of calls, or by a streak that may be chance.
        opened_at: When it opened last.
    """

    threshold: int
    cooldown: float
    last: ModelError | None = None
    closed: bool = True
    soft: bool = False
    opened_at: float = -math.inf
    _window: Window = field(default_factory=Window)
    _usual: _Usual = field(default_factory=_Usual)
    _streak: int = 0
    _failing: float = 0.0  # the share of calls that failed in the long run, the last streak left out
    _counted: int = 0
    _growth: float = 1.0
    _calm: int = SHRINKS_AFTER  # answers since it opened last
    _open_until: float = -math.inf  # by what was seen of the model
    _told_until: float = -math.inf  # by what its error said
    _spared_until: float = -math.inf  # the same, for those that have another model to ask
    _answered_at: float = -math.inf
    _ripe_at: float = -math.inf
    _why: str = ""
    _sheds: bool = False  # when it failed last
    _well: bool = False  # it answered since, and is closed once it has waited as long as it was told to
    _probing_since: float | None = None

    def shut(self, now: float) -> Shut | None:
        """Why the model must not be asked now; None if it may be."""
        if self.closed or (self._well and self._told_until <= now):
            if now < self._spared_until:
                why = f"health: it has too much to do, spared for {self._spared_until - now:.1f} s"
                return Shut(why, soft=True, ripe=False)
            return None
        until = max(self._open_until, self._told_until)
        probed = self._probing_since is not None and now < self._probing_since + self.cooldown
        if now < until:
            soft = self.soft and now >= self._told_until
            ripe = now >= max(self._ripe_at, self._told_until) and not probed
            return Shut(f"health: {self._why}, left alone for {until - now:.1f} s", soft, ripe)
        if probed:
            return Shut(f"health: {self._why}, one request probes it now", self.soft, ripe=False)
        return None

    def starts(self, now: float, *, despite: bool = False) -> bool:
        """An attempt begins, and probes the model if it is half-open; whether it may.

        Args:
            now: Seconds.
            despite: Whether it was chosen although the model is shut, since hardly any other is left.
        """
        shut = self.shut(now)
        if shut is not None and not (despite and (shut.soft or shut.ripe)):
            return False
        if not self.closed and not self._well and (shut is None or shut.ripe):
            self._probing_since = now
        return True

    def succeeded(self, factor: float | None, now: float, began: float | None) -> None:
        """An attempt was answered, in `factor` times what its profile says; None: nobody knows.

        A wait that the backend asked for holds on: the answer may be to a request sent before it asked. And
        one that began before the breaker opened is no news of a model of which too many fail: most do not.
        """
        late = not self.closed and began is not None and began < self.opened_at
        self._answered_at = now
        slow = factor is not None and self._usual.is_slow(factor, now)
        probed = self._probing_since is not None
        self.released(began)
        for _ in range(min(self._streak, MOST_COUNTED)):
            self._count(failed=True)
        self._count(failed=False)
        self._streak = 0
        if late and self.soft:
            self._window.add(now, slow=slow)
            return
        if slow and probed and not self.closed:
            self._shut_for(now, "its answers take very long", soft=True)
            return
        if not self.closed:
            self._close(now)
        self._window.add(now, slow=slow)
        if slow:
            self._check_shares(now)
            return
        self._calm += 1
        if self._calm % SHRINKS_AFTER == 0:
            self._growth = max(self._growth / 2.0, 1.0)

    def failed(self, error: ModelError, verdict: Failure, now: float, began: float | None) -> None:
        """An attempt failed by the model's fault.

        Args:
            error: With what.
            verdict: What that means.
            now: Seconds.
            began: When the attempt began: one from before the breaker opened is no probe. None: just now.
        """
        if self._well and self._told_until <= now:
            self._close(now)
        late = not self.closed and began is not None and began < self.opened_at
        probe = not self.closed and not late and (self._probing_since is not None or self._until <= now)
        before = self._open_until > -math.inf
        self.released(began)
        self._well = False
        self.last = error
        self._streak += 1
        self._window.add(now, failed=True)
        why = f"failing ({type(error).__name__})"
        if verdict.shut_for is not None:
            self._told_until = max(self._told_until, now + verdict.shut_for)
            self._why, self.closed = why, False
            self.opened_at = max(self.opened_at, now)
        if verdict.spare_for is not None:
            self._spared_until = max(self._spared_until, now + verdict.spare_for)
        self._sheds = verdict.sheds
        if probe:
            self._growth *= 2.0 if before else 1.0
            # One that answers some of its calls fails some of its probes.
            self._shut_for(now, why, soft=self.soft and self._may_live(now))
        elif late:  # it tells of what is known already, but a longer streak may prove it dead
            self.soft = self.soft and self._may_live(now)
        elif self._streak >= self.threshold:
            self._open(now, why, soft=self._may_live(now))
        else:
            self._check_shares(now)

    def _count(self, *, failed: bool) -> None:
        """One more call, in the long run."""
        self._counted += 1
        self._failing += max(LONG_RUN, 1.0 / (LEAST_CALLS + self._counted)) * (failed - self._failing)

    @property
    def doubted(self) -> bool:
        """Whether it failed time and again, or for good, and has not answered since."""
        if self.closed:
            return False
        return not self.soft or (self._sheds and self._streak >= self.threshold)

    def idle(self, now: float) -> bool:
        """Whether a decision need not look at it."""
        return self.closed and self._spared_until <= now

    @property
    def _until(self) -> float:
        return max(self._open_until, self._told_until)

    def released(self, began: float | None) -> None:
        """An attempt ended. If it was the probe, and told nothing of the model, the next one may probe it."""
        if began is None or self._probing_since is None or began >= self._probing_since:
            self._probing_since = None

    def _close(self, now: float) -> None:
        """It answered. What was counted before tells of what it was, and not of what it is."""
        self._open_until = self._ripe_at = -math.inf
        self._well = True
        if self._told_until <= now:
            self.closed = True
            self._well = False
            self._window.clear()
            self._streak = 0

    def _check_shares(self, now: float) -> None:
        window = self._window
        if window.calls < LEAST_CALLS:
            return
        if exceeds(window.failures, window.calls, TOLERATED_FAILURES):
            self._open(now, f"{window.failures} of {window.calls} calls failed", soft=True)
        elif exceeds(window.slow, window.calls, TOLERATED_SLOW):
            self._open(now, f"{window.slow} of {window.calls} answers took very long", soft=True)

    def _may_live(self, now: float) -> bool:
        """Whether a model with such a streak may answer some of its calls all the same."""
        if self._sheds and now < self._answered_at + SHEDDING * self.cooldown:
            return True
        return self._may_be_chance()

    def _may_be_chance(self) -> bool:
        """Whether a model that fails as often as this one did before has such streaks now and then."""
        before = self._window.calls - self._streak
        failures = self._window.failures - self._streak
        share = self._failing
        if before > max(failures, 0):  # else it has not answered lately
            share = max((failures + 0.1) / (before + 1), share)
        return share > 0.0 and self._streak * math.log(share) >= math.log(CHANCE)

    def _open(self, now: float, why: str, *, soft: bool) -> None:
        """Opens, or stays open: calls that were under way then prove at most that it is really dead."""
        if not self.closed and self._open_until > now:
            self.soft = self.soft and soft
            return
        if self._calm < SHRINKS_AFTER:  # it hardly was well
            self._growth *= 2.0
        self._shut_for(now, why, soft=soft)

    def _shut_for(self, now: float, why: str, *, soft: bool) -> None:
        self._growth = min(self._growth, MOST_GROWTH)
        self.closed = self._well = False
        self._why, self.soft, self._calm = why, soft, 0
        self.opened_at = now
        silent = isinstance(self.last, ModelTimeoutError)
        self._ripe_at = now + self.cooldown * (1.0 if silent else min(SOONER * self._growth, 1.0))
        self._open_until = max(self._open_until, now + self.cooldown * self._growth)
