"""Which models are left alone for a while because they failed. State under a lock; the clock is passed in.

The first form of a circuit breaker: closed until `failure_threshold` failures in a row (or one that only a
person can heal), then open for `cooldown` seconds, then half-open: one request probes, the others still go
elsewhere until it is answered.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from router.errors import ModelError
from router.failures import judge

__all__ = ["Health", "RetryBudget"]


@dataclass(slots=True)
class _State:
    failures: int = 0
    open_until: float = 0.0
    told_until: float = 0.0
    probing_since: float | None = None
    last: ModelError | None = None


class Health:
    """The breakers of all models, by name.

    Args:
        failure_threshold: Failures in a row that open a breaker.
        cooldown: Seconds that it stays open; also how long an unanswered probe blocks the next one.
    """

    def __init__(self, failure_threshold: int, cooldown: float) -> None:
        self._threshold = failure_threshold
        self._cooldown = cooldown
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def shut(self, now: float) -> dict[str, str]:
        """Every model that must not be asked now, with the reason. Usually empty, and then free of cost."""
        if not self._states:
            return {}
        with self._lock:
            return {name: reason for name, state in self._states.items() if (reason := self._why(state, now))}

    def _why(self, state: _State, now: float) -> str | None:
        if not state.open_until:
            return None
        kind = type(state.last).__name__
        if now < state.open_until:
            return f"health: failing ({kind}), left alone for {state.open_until - now:.1f} s"
        if state.probing_since is not None and now < state.probing_since + self._cooldown:
            return f"health: failing ({kind}), one request probes it now"
        return None

    def starts(self, name: str, now: float) -> bool:
        """An attempt begins; if the model is half-open, it is the probe.

        Returns:
            Whether health has nothing against it. Several requests may have chosen a model before the first
            of them began: only that one is the probe, the others get False.
        """
        if not self._states:
            return True
        with self._lock:
            state = self._states.get(name)
            if state is None:
                return True
            if self._why(state, now) is not None:
                return False
            if state.failures and state.open_until:  # no failures: it answered since, and needs no probe
                state.probing_since = now
            return True

    def succeeded(self, name: str, now: float) -> None:
        """An attempt was answered: the model is well.

        A wait that the backend asked for holds on: the answer may be to a request sent before it asked.
        """
        if not self._states:
            return
        with self._lock:
            state = self._states.get(name)
            if state is None:
                return
            if state.told_until <= now:
                del self._states[name]
                return
            state.failures = 0
            state.open_until = state.told_until
            state.probing_since = None

    def failed(self, name: str, error: ModelError, now: float) -> None:
        """An attempt failed."""
        verdict = judge(error)
        if not verdict.blames_model:
            self.released(name)
            return
        with self._lock:
            state = self._states.setdefault(name, _State())
            if not state.failures and state.open_until <= now:
                state.open_until = state.told_until = 0.0
            was_half_open = 0.0 < state.open_until <= now
            state.failures += 1
            state.last = error
            state.probing_since = None
            if verdict.shut_for is not None:
                state.open_until = max(state.open_until, now + verdict.shut_for)
            if verdict.heals and verdict.shut_for is not None:
                state.told_until = max(state.told_until, now + verdict.shut_for)
            if was_half_open or state.failures >= self._threshold:
                state.open_until = max(state.open_until, now + self._cooldown)

    def released(self, name: str) -> None:
        """An attempt ended without telling anything of the model (cancelled): the next one may probe."""
        if not self._states:
            return
        with self._lock:
            state = self._states.get(name)
            if state is not None:
                state.probing_since = None

    def last_error(self, name: str) -> ModelError | None:
        """What a failing model failed with last."""
        with self._lock:
            state = self._states.get(name)
            return state.last if state is not None else None

    def forget(self, names: set[str]) -> None:
        """Drops what is known of models that were removed or declared anew."""
        with self._lock:
            for name in names:
                self._states.pop(name, None)

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()


class RetryBudget:
    """A token bucket: every request puts `share` in, every retry takes one out.

    After gRPC's retry throttling and Finagle's RetryBudget. The reserve lets a quiet app retry at all.
    """

    RESERVE = 10.0
    MOST = 100.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = self.RESERVE if share else 0.0
        self._lock = threading.Lock()

    def deposit(self) -> None:
        """A request arrived."""
        with self._lock:
            self._tokens = min(self._tokens + self._share, self.MOST)

    def withdraw(self) -> bool:
        """Takes one retry; False if there is none."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()
