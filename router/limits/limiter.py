"""What one model may take: its line, how long the wait in it is, and what the backend says of its limits.

State under a lock, the clock passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.limits.counts import Counts
from router.limits.hall import Hall
from router.limits.line import MOST_WAITING, Line
from router.limits.seats import Seat, State
from router.limits.store import NO_LIMITS, Limits, LimitStore
from router.limits.window import GRAIN
from router.profile import Profile

__all__ = ["MOST_WAITING", "Limiter"]


class Limiter(Line):
    """What one model may take in a minute and at once, and a queue in order of arrival."""

    def __init__(
        self,
        limits: Limits,
        *,
        model: str = "",
        store: LimitStore | None = None,
        hall: Hall | None = None,
        gates: Sequence[Counts] = (),
    ) -> None:
        """Nothing was sent yet.

        Args:
            limits: What the model declares.
            model: Its name, for the store.
            store: Where other processes' requests to it are counted, too; None: this process is alone.
            hall: Where other lines are that share some of the limits; None: there are none.
            gates: The model's own limits, counted together with other lines, and all others that hold; empty:
                the model's alone.
        """
        self._counts = gates[0] if gates else Counts(limits, model)
        self._strangers = 0
        super().__init__(gates or (self._counts,), store, Hall() if hall is None else hall)

    @classmethod
    def of(cls, profile: Profile, model: str = "", store: LimitStore | None = None) -> Limiter | None:
        """A limiter for a model; None if it declares no limit."""
        limits = Limits(profile.rpm, profile.tpm, profile.max_concurrency)
        return None if limits == NO_LIMITS else cls(limits, model=model, store=store)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is declared, and nothing that was learned holds: it is of no use then."""
        return not self._shared and not self._queue and self._counts.learned.is_nothing

    @property
    def running(self) -> int:
        """How many requests have their turn and are not over."""
        return self._counts.running - self._asked

    def count_strangers(self, requests: int) -> None:
        """So many requests are under way that never asked for a turn: each is to leave by `stranger_left`."""
        with self._hall.lock:
            self._strangers = requests
            self._counts.running += requests

    def stranger_left(self, now: float) -> None:
        """One of them is over."""
        with self._hall.lock:
            if not self._strangers:
                return
            self._strangers -= 1
            self._counts.running = max(self._counts.running - 1, 0)
            woken, asks = self._hall.pump(now)
        self._tell(woken, asks, None, now)

    def begun(self, seat: Seat, now: float) -> None:
        """A request is sent only now, perhaps later than it was let go: its minute begins now."""
        late = now - seat.sent_at
        if late <= GRAIN:
            return
        with self._hall.lock:
            if seat.state is not State.GRANTED:
                return
            for gate in self.gates:
                gate.begun(seat, now)
            seat.sent_at = now
        if self._store is not None:
            for gate in self._shared:
                self._store.delayed(gate.name, seat.tokens, age=late)

    def answered(self) -> None:
        """The backend answered a request."""
        self._counts.learned.answered()

    def wait(self, tokens: float, now: float, *, told: bool = True) -> float:
        """Seconds that one more request of so many tokens would wait, behind all who wait now.

        `told`: whether answers tell how long places are kept; else only the minute's limits count.
        """
        with self._hall.lock:
            tokens = max(math.ceil(tokens), 1)
            service = self._service() if told else 0.0
            return max(
                gate.forecast(gate.queued, gate.queued_tokens, tokens, service, now) for gate in self.gates
            )

    def left(self, seat: Seat, now: float) -> float:
        """Seconds that a request in the queue will still wait, about."""
        with self._hall.lock:
            if seat.state is not State.WAITING:
                return 0.0
            # Of those who were before it some may have left: it is no later than that.
            before = seat.number - self.head.number
            return max(self._left_at(gate, seat, before, now) for gate in self.gates)

    def _left_at(self, gate: Counts, seat: Seat, before: int, now: float) -> float:
        """Seconds until one of the limits lets a request go, before which so many came that wait, at most."""
        ahead = min(before, gate.queued - 1)
        mean = gate.queued_tokens // gate.queued
        return gate.forecast(ahead, ahead * mean, seat.tokens, self._service(), now)

    def refused(self, seat: Seat, wait: float | None, now: float, *, doubt: bool = True) -> None:
        """The backend refused a request, and asked to wait for so many seconds; None: it did not say.

        `doubt`: because of a limit, so that less of what is declared may be believed for a while.
        """
        with self._hall.lock:
            if doubt:
                self._counts.belief.refused(seat.sent_at, wait, now, self._counts.used())
            elif wait is not None:
                self._counts.belief.block(now + wait)

    def crowded(self, sent_at: float, wait: float | None, now: float, *, crowded: bool) -> None:
        """A backend that declares no limit refused a request.

        Args:
            sent_at: When that was sent.
            wait: Seconds that it asked to wait; None: it did not say.
            now: Seconds.
            crowded: Whether it had not lately answered beside as many others as this one was sent beside.
        """
        with self._hall.lock:
            counts = self._counts
            if wait is None and counts.running > 1 and counts.learned.refuses_again(sent_at):
                crowded = True  # each pause would be in vain, and the next one longer
            counts.learned.refused(counts.running - 1, now, crowded=crowded)
            if wait is not None or not crowded:
                counts.belief.refused(sent_at, wait, now)

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is running or waiting here."""
        super().after_fork()
        self._strangers = 0
