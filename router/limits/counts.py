"""What one model was sent and has under way, against what it may take. Pure: the clock is passed in."""

from __future__ import annotations

import math

from router.limits.belief import WIDER, Belief
from router.limits.forecast import places_wait, requests_wait, tokens_wait
from router.limits.learned import Learned
from router.limits.pace import Pace
from router.limits.seats import Seat
from router.limits.store import Limits
from router.limits.window import MINUTE, Window

__all__ = ["Counts"]


class Counts:
    """Windows for rates, a count for requests at once, and how much of the limits is believed.

    Attributes:
        name: What processes that share it call it.
        limits: What is declared.
        queued: Requests that wait for it, and perhaps for others as well.
        queued_tokens: Their tokens.
        belief: What share of the limits the backend is believed to grant, and whether it is left alone.
        learned: The limit of requests at once that it was seen to have, where it declares none.
        pace: How long requests keep their places, beside what was predicted.
        running: Requests that have their turn and are not over.
    """

    def __init__(self, limits: Limits, name: str = "") -> None:
        self.name = name
        self.limits = limits
        self.queued = 0
        self.queued_tokens = 0
        self.belief = Belief()
        self.learned = Learned()
        self.pace = Pace()
        self.running = 0
        self._window = Window()
        self._even_at = -math.inf  # when the next one may go if they are to be spread evenly

    def allowed(self, now: float) -> Limits:
        """What it may take, as far as that is believed. Forgets what is older than a minute."""
        self._window.forget(now)
        share, (rpm, tpm, places) = self.belief, self.limits
        places = self.learned.most(now) if places is None else share.of(places, now)
        return Limits(
            None if rpm is None else share.of(rpm, now),
            None if tpm is None else share.of(tpm, now),
            places,
        )

    def free_at(self, tokens: int, allowed: Limits, now: float, kept: tuple[int, int] = (0, 0)) -> float:
        """When the next request may go; `now` if at once, infinite if another one must end before.

        `kept`: requests and tokens that are kept for others.
        """
        rpm, tpm, places = allowed
        others, more = kept
        if places is not None and self.running + others >= places:
            return math.inf
        requests = 0 if rpm is None else self._window.requests + others + 1 - rpm
        excess = 0 if tpm is None else self._window.tokens + more + min(tokens, tpm) - tpm
        if others and ((requests > 0 >= requests - others) or (excess > 0 >= excess - more)):
            return math.inf  # there is room, which is another's
        at = max(self.belief.blocked_until, self._window.emptier_at(requests, excess, now))
        return max(at, self._even_at) if self.belief.paced(now) else at

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
        if self.belief.paced(now):
            before = self._step(1, tokens_ahead // ahead, now) * ahead if ahead else 0.0
            wait = max(wait, self._even_at - now + before)
        return wait

    def _step(self, requests: int, tokens: int, now: float) -> float:
        """Seconds that requests take of a minute whose limits are spread evenly."""
        rpm, tpm, _ = self.allowed(now)
        by_requests = 0.0 if rpm is None else requests / rpm
        by_tokens = 0.0 if tpm is None else tokens / tpm
        return max(by_requests, by_tokens) * MINUTE * WIDER

    def used(self) -> float:
        """What share of what a minute may take was sent in the last; 1 where nothing is declared for it."""
        rpm, tpm, _ = self.limits
        if rpm is None and tpm is None:
            return 1.0
        by_requests = 0.0 if rpm is None else self._window.requests / rpm
        by_tokens = 0.0 if tpm is None else self._window.tokens / tpm
        return max(by_requests, by_tokens)

    def take(self, seat: Seat, now: float) -> None:
        """A request has its turn."""
        seat.grains[self] = self._window.add(seat.tokens, now)
        seat.sent_at = now
        self.running += 1
        if self.belief.paced(now):
            self._even_at = max(self._even_at, now) + self._step(1, seat.tokens, now)

    def begun(self, seat: Seat, now: float) -> None:
        """A request goes out only now: it counts for the minute from now on."""
        grain = seat.grains.get(self)
        if grain is not None:
            self._window.take_back(grain, seat.tokens)
            seat.grains[self] = self._window.add(seat.tokens, now)

    def leave(self, seat: Seat, *, sent: bool) -> None:
        """Its place is free again; if it was not sent after all, it counts in no minute, either."""
        self.running = max(self.running - 1, 0)
        if not sent and self in seat.grains:
            self._window.take_back(seat.grains.pop(self), seat.tokens)

    def correct(self, seat: Seat, more: int) -> None:
        """A request took so many tokens more than it was taken for; negative: fewer."""
        if self in seat.grains:
            self._window.correct(seat.grains[self], more)

    def line_up(self, requests: int, tokens: int) -> None:
        """So many more wait; fewer if negative."""
        self.queued += requests
        self.queued_tokens += tokens
