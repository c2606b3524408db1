"""How long requests keep their places, beside what was predicted of them. Pure."""

from __future__ import annotations

__all__ = ["Pace"]

#: Requests that tell.
ENOUGH = 3
#: What each leaves of the weight of those before it.
DECAY = 0.9
#: The least that predictions are scaled by: nothing comes to an end at once.
LEAST = 0.001


class Pace:
    """What predictions must be scaled by.

    A thousand requests that come at once, before the first answer, are all predicted from the profile. That
    may be far too long, and those who wait would be sent away although there is room for all. They wait in
    order, so that those who went lately were predicted as the next ones were.

    Attributes:
        factor: From 0 to 1. Answers that take longer than predicted are the business of `router.pressure`.
    """

    __slots__ = ("_count", "_predicted", "_took", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._took = self._predicted = 0.0
        self._count = 0

    def kept(self, seconds: float, predicted: float) -> None:
        """A request that was sent has kept its place for so many seconds."""
        self._took = DECAY * self._took + max(seconds, 0.0)
        self._predicted = DECAY * self._predicted + predicted
        self._count += 1
        if self._count >= ENOUGH and self._predicted > 0:
            self.factor = min(max(self._took / self._predicted, LEAST), 1.0)
