"""How fast one model is, learned from its answers.

    seconds = base + per_in × prompt tokens (not cached) + per_out × output tokens

A stream tells the first two terms and the third apart; an answer in one piece tells only their sum, which a
regression takes apart. It is least squares with exponential forgetting on relative errors, since slow answers
scatter more than fast ones, held where the answers so far say nothing by a weak pull towards the profile.
Recursive least squares: S. Haykin, "Adaptive Filter Theory", chapter on RLS.

How far an answer is from its prediction is learned beside it, and the tail is corrected so that the 95 %
quantile is exceeded by 5 % of the answers whatever their distribution and however it drifts (I. Gibbs and E.
Candès, "Adaptive Conformal Inference Under Distribution Shift", 2021).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from router.learning.regression import SHORTEST, Regression, Speeds
from router.profile import Speed

__all__ = ["LONGEST", "Observed", "Pace", "speeds_of"]

#: What an answer's weight is multiplied by with each later one. Some 25 answers count: with a scatter of 30 %
#: and a mean that doubles within 500 answers, error by age and error by scatter are then about equal.
MEMORY = 0.96
#: Seconds in which the weight of what was seen of a host falls to 1/e; a file on this machine stays as it is.
LIFETIME = 7200.0
#: After so many seconds without an answer, a host is slowly taken to be what it was in the long run; FADING
#: later 1/e of what was seen lately is left.
STALE_AFTER, FADING = 300.0, 3600.0
#: Seconds in which fading moves a speed so little that it is not worth working out anew.
REFRESH_EVERY = 30.0
#: What was seen in the long run fades, too, within days, and the profile is left.
LONG_MEMORY, LONG_LIFETIME = 0.99, 86_400.0
#: The standard deviation of log(seconds) before anything was measured; e^(1.64 × 0.25) is 1.5. A profile is
#: taken at its word: if a wide doubt counted against a constraint, nobody would ever try a model.
PRIOR_SPREAD = 0.25
#: How wrong a profile may be, as a standard deviation of a logarithm: a factor of two. For exploration.
PRIOR_DOUBT = 0.7
#: No backend is steadier than this.
LEAST_SPREAD = 0.02
#: Answers that are not judged, since they show how wrong the profile was and not how steady the model is.
UNJUDGED = 3
#: The share of answers that may exceed the quantile, and how fast its correction moves.
MISSES, CORRECTION = 0.05, 0.1
Z95 = 1.6448536269514722
#: A recent mean error of so many standard deviations is a change and no chance: the past is worth little.
CHANGE, CHANGE_WEIGHT, PAST_WORTH = 1.7, 0.3, 0.2
#: One answer tells of a change by so many standard deviations at most: so no outlier passes for one alone.
MOST_TELLING = 3.0
#: Two answers in a row that are off by so many standard deviations, to the same side, are a jump (by chance:
#: one pair in ten thousand); it is followed at once, by so much at most.
JUMP, MOST_JUMP = 2.5, math.log(30.0)
#: A model that is slower by so much than at its best (a logarithm) is back when two answers in a row are as
#: much faster as this share of it.
MUCH_SLOWER, RECOVERED = 0.9, 0.7
#: Exploring hopes for a speed so many standard deviations better than the mean; a model may well have changed
#: when it was not asked for so many seconds, and be again as fast as in its best time after so many; that
#: time counts for an hour.
HOPE, UNKNOWN_AFTER, RECOVERED_AFTER, BEST_LIFETIME = 1.5, 1800.0, 60.0, 3600.0
#: A model that is slower than it was by this factor is looked at again after so many seconds for each answer
#: that said so, when its slowness alone keeps it from being asked.
SLOWER, PROBE_AFTER = 1.2, 10.0
#: One answer counts as so many times slower or faster than predicted at most, or as three spreads.
MOST_SURPRISE = 3.0
#: The least weight of one answer in a spread.
LEAST_WEIGHT = 0.04
#: No time is taken for more, in seconds.
LONGEST = 1e6
#: No token takes less, in seconds; so nothing is divided by zero.
QUICKEST = 1e-12


class Observed(NamedTuple):
    """What one answer showed; times without loading and queue, and as if nothing else had been under way.

    Attributes:
        tokens_in: Prompt tokens that were computed.
        tokens_out: Output tokens.
        ttft: Seconds to the first token; None if the answer came in one piece.
        total: Seconds to its end.
    """

    tokens_in: float
    tokens_out: float
    ttft: float | None
    total: float


class Pace:
    """The speed of one model.

    Attributes:
        speeds: What it takes.
        count: Answers seen.
        weight: Answers seen, forgotten ones left out.
        tail: What the normal quantile of a whole answer's time is multiplied by.
        first_tail: The same of the first token.
        at: When the last answer was seen, in seconds on the caller's clock.
    """

    __slots__ = (
        "_error", "_fastest", "_first_variance", "_last", "_long", "_long_weight", "_prior", "_regression",
        "_settled", "_solved_at", "_staleness", "_steady", "_trend", "_variance", "at", "count",
        "first_tail", "speeds", "tail", "weight",
    )  # fmt: skip

    def __init__(self, prior: Speed, *, steady: bool) -> None:
        """Starts at a profile. `steady`: the speed is this machine's, and does not fade with time."""
        self._prior = speeds_of(prior)
        self._steady = steady
        self.speeds = self._prior
        self._regression = Regression(self._prior)
        self._long = self._long_weight = 0.0
        self._variance = self._first_variance = PRIOR_SPREAD**2
        self._error = self._trend = self._last = 0.0
        self._fastest = math.log(self.speeds.typical())
        self.tail = self.first_tail = 1.0
        self.count = 0
        self._settled = 0
        self._staleness = 0.0
        self.weight = 0.0
        self.at = self._solved_at = -math.inf

    def spread(self) -> float:
        """The standard deviation of log(seconds) of answers whose length is known."""
        return self._widened(self._variance)

    def first_spread(self) -> float:
        """The standard deviation of log(seconds to the first token)."""
        return self._widened(self._first_variance)

    def _widened(self, variance: float) -> float:
        """A scatter, with what few answers and old ones leave in doubt."""
        few = variance / (self.weight + 3.0)
        doubt = PRIOR_DOUBT**2 * (1.0 if not self.count else self._staleness)
        return max(math.sqrt(variance + few + doubt), LEAST_SPREAD)

    def probation(self, now: float) -> bool:
        """Whether it is time to find out whether a model is still as slow as when it was asked last.

        The more answers say that it is slow, the longer that waits. And it must have been faster, lately or
        by its profile: one that never was is not asked again.
        """
        if not self.count or self.speeds.typical() <= math.exp(self._fastest) * SLOWER:
            return False
        recovering = self._last < -JUMP * self.spread()
        return recovering or now - self.at >= PROBE_AFTER * max(self.weight, 1.0)

    def best(self) -> float:
        """By what factor the model was faster at its best, lately or by its profile; at most 1."""
        return min(math.exp(self._fastest) / self.speeds.typical(), 1.0)

    def doubt(self, now: float) -> float:
        """How uncertain the mean itself is: the standard deviation of its logarithm."""
        seen = self.weight * self._kept(now)
        return PRIOR_DOUBT / math.sqrt(1.0 + seen * PRIOR_DOUBT**2 / max(self._variance, LEAST_SPREAD**2))

    def hope(self, now: float) -> float:
        """How much faster the model may well be: the logarithm of a factor, at least 0.

        By chance, by having changed since it was asked last, and by being again what it was in its best time
        lately. The longer ago the last answer, the likelier.
        """
        age = max(now - self.at, 0.0) if self.count else 0.0
        since = 0.0 if self._steady else 1.0 - math.exp(-age / UNKNOWN_AFTER)
        suspicion = min(self._trend, 0.0) * self.spread()
        doubt = math.sqrt(self.doubt(now) ** 2 + since * PRIOR_DOUBT**2 + suspicion**2)
        recovered = max(math.log(self.speeds.typical()) - self._fastest, 0.0)
        recovered *= 1.0 - math.exp(-age / RECOVERED_AFTER)
        return HOPE * doubt + recovered

    def learn(self, seen: Observed, now: float) -> None:
        """Takes one answer in."""
        age = max(now - self.at, 0.0) if self.count else 0.0
        total = _seconds(seen.total)
        self._judge(seen, total)
        first, rest = self.speeds.first(seen.tokens_in), seen.tokens_out * self.speeds.per_out
        self._forget(MEMORY if self._steady else MEMORY * math.exp(-age / LIFETIME))
        bound = max(MOST_SURPRISE, math.exp(3.0 * self.spread()))
        regression, speeds = self._regression, self.speeds
        if seen.ttft is None:
            within = _within(total, first + rest, bound)
            regression.take_total(speeds, seen.tokens_in, seen.tokens_out, within)
        else:
            ttft = min(_seconds(seen.ttft), total)
            regression.take_first(speeds, seen.tokens_in, _within(ttft, first, bound))
            if seen.tokens_out > 1.0:  # one token is the first and the last: nothing is to be seen of a speed
                regression.take_rest(seen.tokens_out, _within(total - ttft, rest, bound))
        self._remember_long(seen, total, age)
        self.weight += 1.0
        self.count += 1
        self._settled += 1
        self.at = max(now, self.at) if self.count > 1 else now
        self._solve(now)
        level = math.log(self.speeds.typical())
        risen = level - self._fastest
        self._fastest = level if risen < 0.0 else (self._fastest + risen * -math.expm1(-age / BEST_LIFETIME))

    def correct(self, total: float, allowed: float, ttft: float | None, first_allowed: float) -> None:
        """Moves the tails: times that were observed, beside the 95 % quantiles predicted for them."""
        if self._settled < UNJUDGED:
            return
        self.tail = _corrected(self.tail, missed=total > allowed)
        if ttft is not None:
            self.first_tail = _corrected(self.first_tail, missed=ttft > first_allowed)

    def _judge(self, seen: Observed, total: float) -> None:
        """Learns the spread, and notices a change."""
        first = self.speeds.first(seen.tokens_in)
        error = math.log(total / _seconds(first + seen.tokens_out * self.speeds.per_out))
        before, self._last = self._last, error
        if self.count >= UNJUDGED and self._has_jumped(before, error):
            self._jump(min(before, error, key=abs))
            return
        if self._settled < UNJUDGED:
            return
        weight = max(1.0 / (self._settled - UNJUDGED + 3.0), LEAST_WEIGHT)
        bound = max(4.0 * math.sqrt(self._variance), 1.0)
        error = min(max(error, -bound), bound)
        off = error - self._error
        telling = min(max(error / self.spread(), -MOST_TELLING), MOST_TELLING)
        self._trend += CHANGE_WEIGHT * (telling - self._trend)
        self._error += weight * off
        self._variance += weight * (off * off * (1.0 - weight) - self._variance)
        if seen.ttft is not None:
            off = math.log(_seconds(seen.ttft) / _seconds(first))
            off = min(max(off, -bound), bound)
            self._first_variance += weight * (off * off - self._first_variance)
        else:
            self._first_variance += weight * (self._variance - self._first_variance)
        if abs(self._trend) > CHANGE:
            self._begin_anew()

    def _has_jumped(self, before: float, now: float) -> bool:
        """Whether the last two answers were both far off, to the same side."""
        limit = JUMP * self.spread()
        least, most = min(before, now), max(before, now)
        return least > limit or most < -limit or most < self._recovery()

    def _recovery(self) -> float:
        """How far below what is expected answers must be to show that a slow spell is over.

        The spell itself made everything uncertain: but twice nearly as fast as the model was at its best is
        no chance where that is far away.
        """
        best = self._fastest - math.log(self.speeds.typical())
        return RECOVERED * best if best < -MUCH_SLOWER else -math.inf

    def _jump(self, by: float) -> None:
        """All speeds change at once by exp(`by`)."""
        factor = math.exp(min(max(by, -MOST_JUMP), MOST_JUMP))
        self._regression.multiply(factor)
        self.speeds = Speeds(*(factor * value for value in self.speeds))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._forget(PAST_WORTH)
        self._trend = self._error = self._last = 0.0
        self._settled = 0

    def _forget(self, kept: float) -> None:
        self._regression.forget(kept)
        self.weight *= kept

    def _remember_long(self, seen: Observed, total: float, age: float) -> None:
        ratio = total / self._prior.total(seen.tokens_in, seen.tokens_out)
        keep = LONG_MEMORY if self._steady else LONG_MEMORY * math.exp(-age / LONG_LIFETIME)
        self._long_weight = keep * self._long_weight + 1.0
        self._long += (math.log(_seconds(ratio)) - self._long) / self._long_weight

    def _kept(self, now: float) -> float:
        """What share of what was seen lately still counts."""
        if self._steady or not self.count:
            return 1.0
        return math.exp(-max(now - self.at - STALE_AFTER, 0.0) / FADING)

    def refresh(self, now: float) -> bool:
        """Lets a model that was not asked for long drift back to the long run, and then to its profile.

        Returns:
            Whether anything changed.
        """
        if self._steady or not self.count or now - self.at < STALE_AFTER:
            return False
        if 0.0 <= now - self._solved_at < REFRESH_EVERY:
            return False
        self._solve(now)
        return True

    def _solve(self, now: float) -> None:
        """The speed that fits best what was seen, and the profile where nothing was."""
        self._solved_at = now
        kept = self._kept(now)
        self._staleness = 1.0 - kept
        long = self._long
        if not self._steady:
            long *= math.exp(-max(now - self.at, 0.0) / LONG_LIFETIME)
        long = math.exp(long * self._long_weight / (self._long_weight + 1.0))
        noise = max(self._variance, LEAST_SPREAD**2) / PRIOR_DOUBT**2
        solved = self._regression.solve(self.count, long, noise)
        if kept < 1.0:
            trust = self.weight * kept / (self.weight * kept + 1.0 - kept)
            solved = Speeds(
                *(
                    max(new, QUICKEST) ** trust * max(long * old, QUICKEST) ** (1.0 - trust)
                    for new, old in zip(solved, self._prior, strict=True)
                )
            )
        self.speeds = Speeds(*(min(max(value, QUICKEST), LONGEST) for value in solved))


def speeds_of(profile: Speed) -> Speeds:
    """A profile's speeds as seconds, bounded so that nothing is divided by zero."""
    return Speeds(
        min(max(profile.ttft, SHORTEST), LONGEST),
        max(1.0 / max(profile.prefill, 1e-6), QUICKEST),
        max(1.0 / max(profile.decode, 1e-6), QUICKEST),
    )


def _corrected(tail: float, *, missed: bool) -> float:
    step = CORRECTION * ((1.0 if missed else 0.0) - MISSES) / Z95
    return min(max(tail + step, 0.3), 4.0)


def _seconds(time: float) -> float:
    return min(max(SHORTEST, time), LONGEST)  # in this order a NaN is the shortest


def _within(value: float, expected: float, factor: float) -> float:
    """A value, not further from what was expected than by a factor."""
    return min(max(value, expected / factor), expected * factor)
