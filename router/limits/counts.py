"""What one model was sent and has under way, against what it may take. Pure: the clock is passed in."""

from __future__ import annotations

import math

from router.limits.belief import Belief
from router.limits.forecast import places_wait, requests_wait, tokens_wait
from router.limits.seats import Seat
from router.limits.store import Limits
from router.limits.window import Window

__all__ = ["Counts"]


class Counts:
    """Windows for rates, a count for requests at once, and how much of the limits is believed.

    Attributes:
        belief: What share of the limits the backend is believed to grant, and whether it is left alone.
        running: Requests that have their turn and are not over.
    """

    def __init__(self, limits: Limits) -> None:
        self.belief = Belief()
        self.running = 0
        self._limits = limits
        self._window = Window()

    def allowed(self, now: float) -> Limits:
        """What it may take, as far as that is believed. Forgets what is older than a minute."""
        self._window.forget(now)
        share, (rpm, tpm, places) = self.belief, self._limits
        return Limits(
            None if rpm is None else share.of(rpm, now),
            None if tpm is None else share.of(tpm, now),
            None if places is None else share.of(places, now),
        )

    def free_at(self, tokens: int, allowed: Limits, now: float) -> float:
        """When the next request may go; `now` if at once, infinite if another one must end before."""
        rpm, tpm, places = allowed
        if places is not None and self.running >= places:
            return math.inf
        requests = 0 if rpm is None else self._window.requests + 1 - rpm
        excess = 0 if tpm is None else self._window.tokens + min(tokens, tpm) - tpm
        return max(self.belief.blocked_until, self._window.emptier_at(requests, excess, now))

    def forecast(self, ahead: int, tokens_ahead: int, tokens: int, service: float, now: float) -> float:
        """Seconds until a request may go that has so many before it, with so many tokens together.

        `service`: seconds that each of them keeps its place, about.
        """
        rpm, tpm, places = self.allowed(now)
        wait = max(self.belief.blocked_until - now, 0.0)
        if rpm is not None:
            wait = max(wait, requests_wait(self._window, rpm, ahead, now))
        if tpm is not None:
            wait = max(wait, tokens_wait(self._window, tpm, tokens_ahead, tokens, now))
        if places is not None:
            wait = max(wait, places_wait(self.running, places, ahead, service))
        return wait

    def take(self, seat: Seat, now: float) -> None:
        """A request has its turn."""
        seat.grain = self._window.add(seat.tokens, now)
        seat.sent_at = now
        self.running += 1

    def leave(self, seat: Seat, *, sent: bool) -> None:
        """Its place is free again; if it was not sent after all, it counts in no minute, either."""
        self.running = max(self.running - 1, 0)
        if not sent and seat.grain is not None:
            self._window.take_back(seat.grain, seat.tokens)
            seat.grain = None

    def settle(self, seat: Seat, tokens: int) -> int:
        """A request took so many tokens. Returns how many more than it was taken for; negative: fewer."""
        more = max(tokens, 1) - seat.tokens
        if seat.grain is None or not more:
            return 0
        self._window.correct(seat.grain, more)
        seat.tokens += more
        return more
