"""How much slower a model gets while this router has other calls under way there.

Nobody says how many calls a host serves at once. What was seen is believed: the slow-down is a line through
points, one for each doubling of the calls under way. Beyond the most that were seen, a cautious slope stands
in: otherwise ten thousand requests at once would all go to the model that is fastest when it is alone.
(Finagle's peak EWMA multiplies by the calls under way, which takes every host for a single server.)
"""

from __future__ import annotations

__all__ = ["HOSTED_SLOPE", "LOCAL_SLOPE", "Response"]

#: Assumption for a host that nothing was seen of: it takes twice as long with 100 calls under way.
HOSTED_SLOPE = 0.01
#: Measured with SmolLM2-135M on 2 cores: a step for 8 chats takes 4 times as long as a step for one.
LOCAL_SLOPE = 0.4
#: The weight of the line as it was, in samples, when a point is first seen; and the least weight of a sample.
PRIOR_SAMPLES, LEAST_WEIGHT = 3.0, 0.05
#: One sample tells of a slow-down of so many times what was expected at most.
MOST_SURPRISE = 4.0


class Response:
    """The slow-down of one model as a function of the other calls under way; 1 if there are none."""

    __slots__ = ("_counts", "_slope", "_values")

    def __init__(self, slope: float) -> None:
        self._slope = slope
        self._values: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def at(self, calls: int) -> float:
        """The factor for so many other calls under way."""
        if calls <= 0:
            return 1.0
        left, low = 0.0, 1.0
        slope = self._slope
        for power, value in self._values.items():
            right, high = 1.5 * (1 << power) - 0.5, max(value, low)
            if calls <= right:
                return low + (high - low) * (calls - left) / (right - left)
            slope = (high - low) / (right - left)
            left, low = right, high
        return low + max(slope, self._slope) * (calls - left)

    def learn(self, calls: int, factor: float) -> None:
        """Takes in that a call took `factor` times as long as it would have taken alone."""
        if calls <= 0:
            return
        power = calls.bit_length() - 1
        value = self._values.get(power)
        if value is None:
            value = self.at(round(1.5 * (1 << power) - 0.5))
            self._counts = {**self._counts, power: 0}
            # A new one, put in place whole: readers go through it without a lock.
            self._values = dict(sorted({**self._values, power: value}.items()))
        expected = self.at(calls)
        factor = min(max(expected / MOST_SURPRISE, factor), expected * MOST_SURPRISE)  # NaN is little
        count = self._counts[power]
        weight = max(1.0 / (count + PRIOR_SAMPLES), LEAST_WEIGHT)
        self._values[power] = max(value + weight * (factor - expected), 1.0)
        self._counts[power] = count + 1
