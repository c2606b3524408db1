"""How much of a declared limit a backend is believed to grant. Pure: the clock is passed in.

An account may be shared with others, a plan may have been changed, and some hosts enforce a minute's limit by
the second. They tell by refusing.
"""

from __future__ import annotations

import math

__all__ = ["Belief"]

#: What a refusal leaves of the belief, as TCP's cubic variant has it (RFC 9438, section 4.6).
CUT = 0.7
#: The least that is believed: a share of what is declared.
LEAST = 0.05
#: Seconds in which the belief grows from nothing to all.
RECOVERY = 300.0
#: Seconds within which a second refusal makes the first more than an accident: requests travel for different
#: times, and the last of a full minute may arrive within that of the first.
SUSPICION = 180.0
#: Seconds that a model is given when it refuses and does not say for how long.
PAUSE = 1.0
#: The longest of these, which double while it goes on refusing.
MOST_PAUSE = 16.0
#: A refusal when less than this share of a minute's limit was sent tells that it is counted by the second.
EARLY = 0.8
#: Seconds without a refusal after which a model is no longer believed to count by the second.
PACED = 1800.0
#: How many times as long as even steps those of requests to such a model are: they do not travel evenly.
WIDER = 1.03


class Belief:
    """What share of its declared limits a model is believed to grant, and how evenly it wants requests.

    Attributes:
        blocked_until: When it may be asked again at the earliest.
    """

    __slots__ = ("_at", "_paced", "_pause", "_share", "blocked_until")

    def __init__(self) -> None:
        self.blocked_until = -math.inf
        self._share = 1.0
        self._at = -math.inf
        self._pause = PAUSE
        self._paced = False

    def share(self, now: float) -> float:
        """Of the limits, from 0 to 1."""
        if self._share >= 1.0:
            return 1.0
        return min(self._share + max(now - self._at, 0.0) / RECOVERY, 1.0)

    def of(self, limit: int, now: float) -> int:
        """What is believed to be left of a limit; at least 1."""
        return max(int(limit * self.share(now)), 1)

    def paced(self, now: float) -> bool:
        """Whether requests must be spread evenly over the minute."""
        if self._paced and now - self._at > PACED:
            self._paced = False
        return self._paced

    def refused(self, sent_at: float, wait: float | None, now: float, used: float = 1.0) -> None:
        """The backend refused a request that was sent at a time, and asked to wait so many seconds.

        Of many that were under way when the first was refused, the others tell nothing new. The first refusal
        lowers nothing: it may be one of a full minute that arrived a little early.

        Args:
            sent_at: When the request was sent.
            wait: Seconds; None: it did not say.
            now: Seconds.
            used: What share of a minute's limit had been sent.
        """
        if sent_at >= self._at:
            again = now - self._at <= SUSPICION
            self._pause = min(self._pause * 2, MOST_PAUSE) if again else PAUSE
            if used < EARLY and not self.paced(now):
                self._paced = True
            elif again:
                self._share = max(self.share(now) * CUT, LEAST)
            else:
                self._share = self.share(now)
            self._at = now
        self.block(now + (self._pause if wait is None else wait))

    def block(self, until: float) -> None:
        """It is not to be asked before a time; of several, the latest holds."""
        self.blocked_until = max(self.blocked_until, until)
