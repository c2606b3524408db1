"""How much slower a model gets while this router has other calls under way there.

Nobody says how many calls a host serves at once. What was seen is believed: the slow-down is a line through
points, one for each doubling of the calls under way. Beyond the most that were seen, a cautious slope stands
in: otherwise ten thousand requests at once would all go to the model that is fastest when it is alone.
(Finagle's peak EWMA multiplies by the calls under way, which takes every host for a single server.)
"""

from __future__ import annotations

__all__ = ["HOSTED_SLOPE", "LOCAL_FIRST_SLOPE", "LOCAL_SLOPE", "Response"]

#: Assumption for a host that nothing was seen of: it takes twice as long with 100 calls under way.
HOSTED_SLOPE = 0.01
#: Measured with SmolLM2-135M on 2 cores: a step for 8 answers takes 4 times as long as a step for one, and
#: prompts that come meanwhile take their part of it.
LOCAL_SLOPE = 0.6
#: A prompt gets what answers leave of a step, one row each: 7 of 63 make it 1.13 times as slow.
#: Prompts beside it cost it more; assumption: one in eight of those at work is at its prompt.
LOCAL_FIRST_SLOPE = 0.1
#: The weight of the line as it was, in samples, when a point is first seen; and the least weight of a sample.
PRIOR_SAMPLES, LEAST_WEIGHT = 3.0, 0.05
#: One sample tells of a slow-down of so many times what was expected at most.
MOST_SURPRISE = 4.0
#: A point counts as far as it cannot be chance: how much answers scatter, and the squared z-value that a
#: point must be off the assumed line by. Else chance would turn into a slope, and the slope of ten calls into
#: that of ten thousand.
SCATTER, EVIDENCE = 0.35, 2.0


class _Point:
    """The mean slow-down at about so many other calls under way."""

    __slots__ = ("calls", "count", "value")

    def __init__(self, calls: float, value: float) -> None:
        self.calls = calls
        self.value = value
        self.count = 0

    def weight(self) -> float:
        """The weight of the next sample."""
        return max(1.0 / (self.count + PRIOR_SAMPLES), LEAST_WEIGHT)

    def believed(self, assumed: float) -> float:
        """The value, as far as there is evidence against the assumed one."""
        off = self.value - assumed
        # The variance of an exponentially weighted mean whose newest sample weighs w is w / (2 - w) of one's.
        weight = self.weight()
        chance = (SCATTER * max(self.value, assumed)) ** 2 * weight / (2.0 - weight)
        return assumed + off * max(1.0 - EVIDENCE * chance / (off * off), 0.0) if off else assumed


class Response:
    """The slow-down of one model as a function of the other calls under way; 1 if there are none."""

    __slots__ = ("_line", "_points", "_slope")

    def __init__(self, slope: float) -> None:
        self._slope = slope
        self._points: dict[int, _Point] = {}
        #: What is read, without a lock: calls and slow-downs, rising. Replaced, never changed.
        self._line: tuple[tuple[float, float], ...] = ()

    def at(self, calls: float) -> float:
        """The factor for so many other calls under way."""
        if calls <= 0:
            return 1.0
        left, low, slope = 0.0, 1.0, self._slope
        for right, high in self._line:
            if calls <= right:
                return low + (high - low) * (calls - left) / (right - left)
            slope = (high - low) / (right - left)
            left, low = right, high
        return low + max(slope, self._slope) * (calls - left)

    def learn(self, calls: float, factor: float) -> None:
        """Takes in that a call took `factor` times as long as it would have taken alone.

        Args:
            calls: Others that were at work meanwhile, on average; less than half a one tells nothing.
            factor: How many times as long.
        """
        if calls < 0.5:  # noqa: PLR2004 - rounded, that is nobody
            return
        power = int(calls + 0.5).bit_length() - 1
        point = self._points.get(power)
        if point is None:
            middle = 1.5 * (1 << power) - 0.5
            point = _Point(middle, self.at(middle))
            self._points = dict(sorted({**self._points, power: point}.items()))
        expected = max(point.value + self.at(calls) - self.at(point.calls), 1.0)
        # In this order a NaN is the least.
        factor = min(max(expected / MOST_SURPRISE, factor), expected * MOST_SURPRISE)
        point.value = max(point.value + point.weight() * (factor - expected), 0.25)
        point.count += 1
        self._draw()

    def _draw(self) -> None:
        """Draws the line through the points, as far as each is believed."""
        line: list[tuple[float, float]] = []
        left, low = 0.0, 1.0
        for point in self._points.values():
            assumed = low + self._slope * (point.calls - left)
            left, low = point.calls, max(point.believed(assumed), low)
            line.append((left, low))
        self._line = tuple(line)
