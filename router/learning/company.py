"""What the company of other calls does to one model's answers, told apart from its own speed.

Prompts and answers suffer differently: an engine computes a prompt in large pieces, which a few rows of
others hardly change, while each token of an answer waits for a step that all share.
"""

from __future__ import annotations

import math

from router.learning.pace import LONGEST
from router.learning.response import HOSTED_SLOPE, LOCAL_FIRST_SLOPE, LOCAL_SLOPE, Response
from router.learning.sample import Sample

__all__ = ["LEAST_COMPANY", "Company"]

#: Others at work, on average, below which nothing is to be seen of their number.
LEAST_COMPANY = 0.5


class Company:
    """The slow-down of one model by what it has under way: to the first token, and after it.

    Args:
        local: Whether it computes on this machine, so that calls share its cores.
    """

    __slots__ = ("_first", "_local", "_rest")

    def __init__(self, *, local: bool) -> None:
        self._local = local
        self._first = Response(LOCAL_FIRST_SLOPE if local else HOSTED_SLOPE)
        self._rest = Response(LOCAL_SLOPE if local else HOSTED_SLOPE)

    def slowdown(self, calls: float) -> tuple[float, float]:
        """How many times as long an answer takes: to its first token, and after it."""
        return self._first.at(calls), self._rest.at(calls)

    def alone(self, sample: Sample, first: float, rest: float) -> tuple[float | None, float]:
        """What an answer would have taken alone.

        Args:
            sample: The answer.
            first: Seconds to its first token as predicted for it alone.
            rest: Seconds after it, as predicted.

        Returns:
            Seconds to its first token, if it told; and in all.
        """
        slow_first, slow = sample.slowed_by(self.slowdown)
        duration = max(0.0, sample.duration)
        if sample.ttft is None:
            seen = duration * (first + rest) / (first * slow_first + rest * slow)
            return None, self._own(sample.beside, seen, first + rest)
        told = min(max(0.0, sample.ttft), duration)
        ttft = self._own(sample.company_first, told / slow_first, first)
        return ttft, ttft + self._own(sample.beside, (duration - told) / slow, rest)

    def _own(self, beside: float, seen: float, expected: float) -> float:
        """A time as far as it tells of the model's own speed, and not of what company does to it.

        The more calls share this machine, the more a surprise tells of the sharing: else both would drift,
        each making up for the other. A host's speed changes more often than how it serves many calls.
        """
        if not self._local or not 0.0 < seen < LONGEST or expected <= 0.0:
            return seen
        return expected * math.pow(seen / expected, 1.0 / (1.0 + beside))

    def learn(self, sample: Sample, first: float, rest: float) -> None:
        """Takes in how much slower than alone an answer was; arguments as of `alone`."""
        slow_first, slow = sample.slowed_by(self.slowdown)
        if sample.ttft is None:
            surprise = sample.duration / max(first * slow_first + rest * slow, 1e-9)
            seen_first, seen = slow_first * surprise, slow * surprise
        else:
            seen_first = sample.ttft / max(first, 1e-9)
            seen = (sample.duration - sample.ttft) / max(rest, 1e-9)
        if sample.company_first >= LEAST_COMPANY:
            self._first.learn(sample.company_first, seen_first)
        told = sample.ttft is None or (sample.completion_tokens or 0) > sample.choices
        if sample.beside >= LEAST_COMPANY and told:  # of a single token, nothing is left but the first
            self._rest.learn(sample.beside, seen)
