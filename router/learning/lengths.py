"""How many tokens an answer takes: a forecast per model and task.

Answers' lengths are close to log-normal, so mean and variance are kept of their logarithms; and the mean of
the lengths themselves, which is right whatever their distribution (the fitted log-normal's mean errs hardly
less where it fits, and by a quarter where lengths are exponential). All of it forgets exponentially.
An answer that its limit cut off says only that it would have been longer: it counts as what is then
expected of it (the expectation step of the EM algorithm for censored data; Tobin 1958, Dempster et al.
1977). Where the prompt's length tells of the answer's, a line through the logarithms does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from router.learning.lognormal import above

__all__ = ["EXPECTED_OUTPUT_TOKENS", "PRIOR_SPREAD", "Forecast", "Lengths"]

#: Output tokens of a request that nothing is known of: a chat answer of about a hundred words. An assumption
#: that only matters until the first answers.
EXPECTED_OUTPUT_TOKENS = 150.0
#: The standard deviation of log(tokens) that the first few answers are held to.
PRIOR_SPREAD = 0.5
#: What an answer's weight is multiplied by with each later one: the last hundred answers count. Lengths
#: change with prompts and model versions, which is seldom; the fewer count, the wider the mean's own error.
MEMORY = 0.99
#: The prior counts as so many answers at first, and as FADE times as much after each answer, so that it does
#: not pull for long.
PRIOR_WEIGHT, FADE = 2.0, 0.8
PRIOR_SPREAD_WEIGHT, SPREAD_FADE = 3.0, 0.9
#: One answer counts as so many times the expected tokens at most: lengths do differ widely, but one odd
#: report must not price a model out.
MOST_SURPRISE = 16.0
#: Answers before the prompt's length may tell anything, and the squared t-value that it must exceed: by
#: chance one in seventy does, and then moves little.
SLOPE_AFTER, SLOPE_EVIDENCE = 12, 6.0
#: A line is not drawn further than so many standard deviations beyond the prompts that were seen.
SLOPE_REACH = 2.5
LEAST_SPREAD = 0.01
#: How far an answer that was cut off may be expected to have gone on, at least: nobody saw its end.
LEAST_CUT_SPREAD = 0.3


class Forecast(NamedTuple):
    """Tokens of an answer: `mean`, and the standard deviation of their logarithm.

    With `slope`, the mean belongs to a prompt whose logarithm is `center`, and holds up to `reach` from it.
    """

    mean: float
    spread: float
    slope: float = 0.0
    center: float = 0.0
    reach: float = 0.0

    def at(self, prompt_tokens: float) -> float:
        """The mean for a prompt of so many tokens."""
        if not self.slope:
            return self.mean
        off = math.log(max(prompt_tokens, 1.0)) - self.center
        return self.mean * math.exp(self.slope * min(max(off, -self.reach), self.reach))


class Lengths:
    """The lengths of one model's answers to one task; or of several's."""

    __slots__ = ("_across", "_center", "_cross", "_mean", "_square", "count", "log", "weight")

    def __init__(self) -> None:
        self.count = 0
        self.weight = 0.0
        self.log = 0.0
        self._mean = 0.0
        self._square = 0.0
        self._center = 0.0
        self._across = 0.0
        self._cross = 0.0

    def add(self, tokens: float, prompt_tokens: float, limit: float | None, before: Forecast) -> float:
        """Takes one answer in.

        Args:
            tokens: Its length, at least 1.
            prompt_tokens: Its prompt's.
            limit: What would have cut it off.
            before: The forecast as it was.

        Returns:
            The logarithm of its length; of its expected length if the limit cut it off.
        """
        expected = before.at(prompt_tokens)
        tokens = min(tokens, MOST_SURPRISE * max(expected, 1.0))
        log, extra = math.log(tokens), 0.0
        if limit is not None and tokens >= limit:
            spread = max(before.spread, LEAST_CUT_SPREAD)
            middle = math.log(max(expected, 1.0)) - 0.5 * spread * spread
            log, extra, mean = above(middle, spread, tokens)
            # A low limit says nothing against a long answer: it never lowers what was expected.
            tokens = min(mean, max(MOST_SURPRISE * tokens, expected))
        self.count += 1
        self.weight = MEMORY * self.weight + 1.0
        step = 1.0 / self.weight
        self._mean += step * (tokens - self._mean)
        off, self_log = log - self.log, math.log(max(prompt_tokens, 1.0)) - self._center
        self.log += step * off
        self._center += step * self_log
        self._square = MEMORY * self._square + off * (log - self.log) + extra
        self._across = MEMORY * self._across + self_log * self_log * (1.0 - step)
        self._cross = MEMORY * self._cross + off * self_log * (1.0 - step)
        return log

    def forecast(self, prior: Forecast) -> Forecast:
        """What the next answer is expected to take, given what was expected before there was any."""
        if not self.count:
            return prior
        pull = PRIOR_WEIGHT * FADE**self.count
        mean = (self.weight * self._mean + pull * prior.mean) / (self.weight + pull)
        slope, explained = self._slope()
        pull = PRIOR_SPREAD_WEIGHT * SPREAD_FADE**self.count
        square = max(self._square - explained, 0.0) + pull * prior.spread * prior.spread
        # One degree of freedom went into the mean; the prior makes up for it while there is little else.
        spread = max(math.sqrt(square / max(self.weight + pull - 1.0, 1.0)), LEAST_SPREAD)
        if not slope:
            return Forecast(mean, spread)
        sideways = self._across / self.weight
        # The mean of exp(slope × normal) is exp(slope² × variance / 2): without it the line lay too high.
        middle = mean * math.exp(-0.5 * slope * slope * sideways)
        return Forecast(middle, spread, slope, self._center, SLOPE_REACH * math.sqrt(sideways))

    def _slope(self) -> tuple[float, float]:
        """The line's slope as far as there is evidence for it, and the squares that it explains.

        Shrunk as James and Stein have it: by 1 - c / t², and to nothing below that.
        """
        if self.count < SLOPE_AFTER or self._across <= 1e-6 * self.weight:
            return 0.0, 0.0
        slope = self._cross / self._across
        explained = slope * self._cross
        left = max((self._square - explained) / max(self.weight - 2.0, 1.0), 1e-9)
        evidence = explained / left
        if evidence <= SLOPE_EVIDENCE:
            return 0.0, 0.0
        kept = 1.0 - SLOPE_EVIDENCE / evidence
        return slope * kept, explained * kept
