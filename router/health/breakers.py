"""Which models are left alone for a while because they failed. State under a lock; the clock is passed in."""

from __future__ import annotations

import threading

from router.errors import ModelError
from router.failures import judge
from router.health.breaker import Breaker, Shut

__all__ = ["Health", "Shut"]


class Health:
    """The breakers of all models, by name.

    Args:
        failure_threshold: Failures in a row that open a breaker.
        cooldown: Seconds that it stays open at first; also how long an unanswered probe blocks the next one.
    """

    def __init__(self, failure_threshold: int, cooldown: float) -> None:
        self._threshold = failure_threshold
        self._cooldown = cooldown
        self._breakers: dict[str, Breaker] = {}
        #: Those that are not closed: hardly ever any, and all that a decision looks at.
        self._open: dict[str, Breaker] = {}
        self._lock = threading.Lock()

    def shut(self, now: float) -> dict[str, Shut]:
        """Every model that must not be asked now, with the reason. Usually empty, and then free of cost."""
        if not self._open:
            return {}
        with self._lock:
            return {name: shut for name, one in self._open.items() if (shut := one.shut(now)) is not None}

    def doubts(self, name: str) -> bool:
        """Whether a model failed time and again, or for good, and has not answered since."""
        breaker = self._open.get(name)
        return breaker is not None and breaker.doubted

    def is_shut(self, name: str, now: float) -> bool:
        """Whether a model must not be asked at a time, not even in place of others that failed."""
        if not self._open:
            return False
        with self._lock:
            breaker = self._open.get(name)
            shut = breaker.shut(now) if breaker is not None else None
            return shut is not None and not shut.soft and not shut.ripe

    def opened_since(self, name: str, then: float) -> bool:
        """Whether a model's breaker opened after a time, and is not closed again."""
        breaker = self._open.get(name)
        return breaker is not None and not breaker.closed and breaker.opened_at > then

    def starts(self, name: str, now: float, *, despite: bool = False) -> bool:
        """An attempt begins; if the model is half-open, it is the probe.

        Args:
            name: The model.
            now: Seconds.
            despite: Whether it was chosen although the model is shut, since hardly any other is left.

        Returns:
            Whether health has nothing against it. Several requests may have chosen a model before the first
            of them began: only that one is the probe, the others get False.
        """
        if not self._open:
            return True
        with self._lock:
            breaker = self._open.get(name)
            return breaker is None or breaker.starts(now, despite=despite)

    def succeeded(
        self, name: str, now: float, *, factor: float | None = None, began: float | None = None
    ) -> None:
        """An attempt was answered.

        Args:
            name: The model.
            now: Seconds.
            factor: In how many times what the model's profile says for such an answer; None: nobody knows.
            began: When the attempt began; None: nobody knows.
        """
        with self._lock:
            breaker = self._breaker(name)
            breaker.succeeded(factor, now, began)
            self._note(name, breaker, now)

    def failed(self, name: str, error: ModelError, now: float, *, began: float | None = None) -> None:
        """An attempt failed.

        Args:
            name: The model.
            error: With what.
            now: Seconds.
            began: When the attempt began; None: nobody knows.
        """
        verdict = judge(error)
        if not verdict.blames_model:
            self.released(name, began=began)
            return
        with self._lock:
            breaker = self._breaker(name)
            breaker.failed(error, verdict, now, began)
            self._note(name, breaker, now)

    def released(self, name: str, *, began: float | None = None) -> None:
        """An attempt ended without telling anything of the model (cancelled): the next one may probe.

        Args:
            name: The model.
            began: When the attempt began: one from before the probe does not end it. None: nobody knows.
        """
        if not self._open:
            return
        with self._lock:
            breaker = self._open.get(name)
            if breaker is not None:
                breaker.released(began)

    def _breaker(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = Breaker(self._threshold, self._cooldown)
        return breaker

    def _note(self, name: str, breaker: Breaker, now: float) -> None:
        if not breaker.idle(now):
            self._open[name] = breaker
        elif self._open:
            self._open.pop(name, None)

    def last_error(self, name: str) -> ModelError | None:
        """What a model failed with last."""
        with self._lock:
            breaker = self._breakers.get(name)
            return breaker.last if breaker is not None else None

    def forget(self, names: set[str]) -> None:
        """Drops what is known of models that were removed or declared anew."""
        with self._lock:
            for name in names:
                self._breakers.pop(name, None)
                self._open.pop(name, None)

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()
