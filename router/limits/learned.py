"""How many requests at once a model takes that declares no limit, as its refusals tell. Pure.

What was refused beside so many others shows where the limit is; one more is tried now and then, and each try
that fails makes the next one rarer. What was learned is forgotten when nothing was refused for long.
"""

from __future__ import annotations

import math

__all__ = ["Learned"]

#: Seconds until one more at once is tried; they double with each try that fails, up to the most.
STEP, MOST_STEP = 5.0, 80.0
#: Seconds without a refusal after which nothing is believed any more.
FORGET = 120.0
#: Seconds that refusals may be apart to be one: of many that were under way, all tell the same.
TOGETHER = 0.1
#: Requests at once beyond which a slow beginning is over.
MOST_RAMP = 64.0


class Learned:
    """The limit of requests at once that a model was seen to have.

    Attributes:
        places: The limit; infinite if none is known.
        ramp: Requests at once after a pause: they double as answers come, until the limit is reached.
        refused_at: When it refused a request last.
    """

    __slots__ = ("_grown_at", "_step", "places", "ramp", "refused_at")

    def __init__(self) -> None:
        self.places = math.inf
        self.ramp = math.inf
        self.refused_at = -math.inf
        self._grown_at = -math.inf
        self._step = STEP

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is known."""
        return self.places == self.ramp == math.inf

    def most(self, now: float) -> int | None:
        """Requests at once that it may have; None: any number."""
        if now - self.refused_at > max(FORGET, 2.0 * self._step):
            self.places = self.ramp = math.inf
            self._step = STEP
        while self.places < math.inf and now - self._grown_at >= self._step:
            self.places += 1.0
            self._grown_at += self._step
        least = min(self.places, self.ramp)
        return None if least == math.inf else max(int(least), 1)

    def refuses_again(self, sent_at: float) -> bool:
        """Whether a refusal of a request sent at a time is one after a pause: there was no need of that.

        What was sent before the last refusal tells nothing new.
        """
        return self.ramp < math.inf and sent_at > self.refused_at

    def refused(self, beside: int, now: float, *, crowded: bool) -> None:
        """It refused a request.

        Args:
            beside: How many others it has under way.
            now: Seconds.
            crowded: Whether it has not lately answered beside as many: else it refuses for another reason,
                such as a rate, and is begun with slowly after the pause that it needs.
        """
        again = now - self.refused_at <= TOGETHER
        self.refused_at = now
        if not crowded:
            self.ramp = 1.0
            return
        if not again and self.places < math.inf:
            self._step = min(2.0 * self._step, MOST_STEP)
        self.places = min(self.places, float(max(beside, 1)))
        self._grown_at = now

    def answered(self) -> None:
        """It answered a request."""
        if self.ramp < math.inf:
            self.ramp = self.ramp + 1.0 if self.ramp < min(self.places, MOST_RAMP) else math.inf
