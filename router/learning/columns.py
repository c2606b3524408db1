"""What is learned of the models, in columns: one list per fact, one place per model.

Ranking reads the columns without a lock (a read of a list's item is atomic); learning writes under the
fleet's. Choices do not flap since figures move slowly: an answer weighs a twenty-fifth of a speed. (A band
in which a figure would not move at all was tried, and did not make the choice between equals any steadier.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from router.learning.company import Company
from router.learning.forecasts import Forecasts
from router.learning.lengths import EXPECTED_OUTPUT_TOKENS
from router.learning.lognormal import capped, capped_spread, sum_quantile
from router.learning.pace import LONGEST, Z95, Observed, Pace, speeds_of
from router.learning.sample import Sample
from router.learning.spells import Failures
from router.profile import HOSTED_SPEED, Profile

__all__ = ["Columns", "Sample"]

#: The least weight of a sample in a token ratio or a mean time: the last twenty count.
LEAST_WEIGHT = 0.05
#: The weight of what these start from, in samples.
PRIOR_SAMPLES = 3
#: One count moves a token ratio by this factor at most.
MOST_STEP = 4.0
#: Tokens of ours at which half of a wrong count is put down to the frame that a template puts around every
#: prompt, and half to the vocabulary. Without a frame, short prompts would teach a ratio that shuts long ones
#: out of windows that they fit into.
FRAME_TOKENS = 100.0
#: Places that are looked at for staleness with each decision; so thousands of models cost nothing.
SWEEP = 4
#: A model that nothing was learned of. How it is doubted does not depend on its profile.
_UNTOUCHED = Pace(HOSTED_SPEED, steady=False)
_HOSTED, _LOCAL = Company(local=False), Company(local=True)


class Columns:
    """Learned facts of all models of a fleet.

    Attributes:
        ratio: The backend's prompt tokens per token of ours, on top of `frame`.
        frame: Tokens that the backend's template adds to every prompt, long or short.
        base: Seconds to the first token of an empty prompt.
        per_in: Seconds per prompt token that is not cached.
        per_out: Seconds per output token.
        spread: Standard deviation of log(seconds) of answers of known length.
        first_spread: The same of the first token.
        tail: What the normal quantile of a latency is multiplied by to hold in practice.
        first_tail: The same of the first token.
        failing: Probability that an attempt fails.
        lost: Seconds that failures are expected to cost a request.
        load: Seconds to load it.
        samples: Answers seen.
        service: Mean seconds of an answer, without queueing.
        forecasts: Lengths of answers, by task.
    """

    _LISTS = ("ratio", "frame", "base", "per_in", "per_out", "spread", "first_spread", "tail", "first_tail",
              "failing", "lost", "load", "samples", "service")  # fmt: skip

    __slots__ = (*_LISTS, "forecasts", "_companies", "_failures", "_paces", "_seen", "_sweep",
                 "_profiles")  # fmt: skip

    def __init__(self, profiles: Sequence[Profile]) -> None:
        speeds = [speeds_of(profile.speed) for profile in profiles]
        models = len(profiles)
        self._profiles = tuple(profiles)
        self.ratio = [1.0] * models
        self.frame = [0.0] * models
        self.base = [speed.base for speed in speeds]
        self.per_in = [speed.per_in for speed in speeds]
        self.per_out = [speed.per_out for speed in speeds]
        self.spread = [_UNTOUCHED.spread()] * models
        self.first_spread = [_UNTOUCHED.first_spread()] * models
        self.tail = [1.0] * models
        self.first_tail = [1.0] * models
        self.failing = [0.0] * models
        self.lost = [0.0] * models
        self.load = [profile.speed.load for profile in profiles]
        self.samples = [0] * models
        self.service = [speed.total(0.0, EXPECTED_OUTPUT_TOKENS) for speed in speeds]
        self.forecasts = Forecasts(models)
        self._paces: dict[int, Pace] = {}
        self._companies: dict[int, Company] = {}
        self._failures: dict[int, Failures] = {}
        self._seen: list[int] = []  # places that something was learned of
        self._sweep = 0

    def carry_over(self, place: int, other: Columns, other_place: int) -> None:
        """Takes over what another fleet's columns learned of the same model.

        As a copy: what a request that is still under way on the other fleet shows is told to both.
        """
        for name in self._LISTS:
            getattr(self, name)[place] = getattr(other, name)[other_place]
        for name in ("_paces", "_companies", "_failures"):
            held = getattr(other, name).get(other_place)
            if held is not None:
                getattr(self, name)[place] = copy.deepcopy(held)
        if other_place in other._paces or other_place in other._failures:
            self._seen.append(place)
        self.forecasts.carry_over(place, other.forecasts, other_place)

    def slowdown(self, place: int, calls: float) -> tuple[float, float]:
        """How many times as long a model takes with others under way: to the first token, and after it."""
        company = self._companies.get(place)
        if company is None:  # nothing was seen of it
            company = _LOCAL if self._profiles[place].local else _HOSTED
        return company.slowdown(calls)

    def doubt(self, place: int, now: float) -> float:
        """How uncertain a model's mean latency is: the standard deviation of its logarithm."""
        return self._paces.get(place, _UNTOUCHED).doubt(now)

    def hope(self, place: int, now: float) -> float:
        """How much faster a model may well be: the logarithm of a factor, at least 0."""
        return self._paces.get(place, _UNTOUCHED).hope(now)

    def probation(self, place: int, now: float) -> float | None:
        """By what factor a model may be faster than when it was asked last, if it is time to find out.

        None if it is not.
        """
        pace = self._paces.get(place)
        return pace.best() if pace is not None and pace.probation(now) else None

    def forecast(
        self, place: int, task: str | None, tokens_in: float, limit: int | None
    ) -> tuple[float, float]:
        """Expected tokens of one answer, and the standard deviation of their logarithm."""
        outputs = self.forecasts.outputs(task)
        sloped = outputs.sloped.get(place)
        mean = outputs.mean[place] if sloped is None else sloped.at(tokens_in)
        spread = outputs.spread[place]
        if limit is None:
            return mean, spread
        return capped(mean, spread, limit), capped_spread(mean, spread, limit)

    def learn(self, place: int, sample: Sample) -> None:
        """Takes one answer in. Absurd numbers were sorted out before."""
        expected_in = self.frame[place] + sample.counted_tokens * self.ratio[place]
        tokens_in = float(sample.prompt_tokens or expected_in)
        if sample.prompt_tokens and sample.counted_tokens:
            self._learn_counts(place, sample.counted_tokens, tokens_in, expected_in)
        expected = self.forecast(place, sample.task, tokens_in, sample.max_tokens)
        tokens_out = expected[0]
        if sample.completion_tokens is not None:
            # No answer at all is a short one.
            tokens_out = max(sample.completion_tokens / max(sample.choices, 1), 1.0)
            self.forecasts.learn(place, sample.task, tokens_in, tokens_out, sample.max_tokens)
        if self._tells_pace(place, sample):
            self._note(place)
            fresh = tokens_in - min(sample.cached_tokens, tokens_in)
            self._learn_pace(place, sample, fresh, tokens_out, expected)
            self.service[place] += self._weight(place) * (_seconds(sample.duration) - self.service[place])
        self.samples[place] += 1
        if place in self._failures:
            self._failures[place].add(0.0, None, sample.at)
            self._show_failures(place, sample.at)

    def loaded(self, place: int, seconds: float) -> None:
        """Loading a model took so long."""
        weight = 0.5 if self.samples[place] else 1.0  # before the first answer, there was only a guess
        self.load[place] += weight * (_seconds(seconds) - self.load[place])

    def failed(self, place: int, seconds: float, now: float) -> None:
        """An attempt failed after so many seconds, by the model's fault."""
        self._note(place)
        self._failures.setdefault(place, Failures(self.samples[place])).add(1.0, seconds, now)
        self._show_failures(place, now)

    def took_longer(self, place: int, sample: Sample) -> None:
        """An attempt was given up when it had lasted so long: its answer would have taken longer yet."""
        if not self._tells_pace(place, sample):
            return
        tokens_in = self.frame[place] + sample.counted_tokens * self.ratio[place]
        expected = self.forecast(place, sample.task, tokens_in, sample.max_tokens)
        first = self.base[place] + tokens_in * self.per_in[place]
        rest = expected[0] * self.per_out[place]
        slow_first, slow = sample.slowed_by(lambda calls: self.slowdown(place, calls))
        if sample.duration > first * slow_first + rest * slow:
            self._note(place)
            self._learn_pace(place, sample, tokens_in, expected[0], expected, finished=False)

    def factor(self, place: int, sample: Sample) -> float | None:
        """How many times as long an answer took as the model's profile says, for its length and company.

        Other than a prediction, it does not follow the model: so it tells a slow spell from what is usual.
        None: its times do not tell.
        """
        if not self._tells_pace(place, sample):
            return None
        speeds = speeds_of(self._profiles[place].speed)
        tokens_in = max((sample.prompt_tokens or sample.counted_tokens) - sample.cached_tokens, 0)
        slow_first, slow = sample.slowed_by(lambda calls: self.slowdown(place, calls))
        first = speeds.first(tokens_in) * slow_first
        if sample.ttft is not None:
            return sample.ttft / first
        expected = (
            self.forecasts.outputs(sample.task).mean[place]
            if sample.completion_tokens is None
            else max(sample.completion_tokens / max(sample.choices, 1), 1.0)
        )
        return sample.duration / (first + expected * speeds.per_out * slow)

    def refresh(self, now: float) -> None:
        """Lets what was learned long ago fade, a few models at a time."""
        seen = self._seen
        for _ in range(min(SWEEP, len(seen))):
            self._sweep = (self._sweep + 1) % len(seen)
            place = seen[self._sweep]
            pace = self._paces.get(place)
            if pace is not None and pace.refresh(now):
                self._show_pace(place, pace)
            if place in self._failures:
                self._show_failures(place, now)

    def _note(self, place: int) -> None:
        """Has a place looked at for staleness. Before the first thing is learned of it."""
        if place not in self._paces and place not in self._failures:
            self._seen.append(place)

    def _tells_pace(self, place: int, sample: Sample) -> bool:
        """Whether its times are one answer's: a host gives several side by side, this machine in turns."""
        return sample.choices == 1 or not self._profiles[place].local

    def _weight(self, place: int) -> float:
        """The weight of the next sample."""
        return max(LEAST_WEIGHT, 1.0 / (self.samples[place] + PRIOR_SAMPLES))

    def _learn_counts(self, place: int, counted: int, tokens_in: float, expected: float) -> None:
        told = min(max(tokens_in, expected / MOST_STEP), expected * MOST_STEP)
        step = self._weight(place) * (told - expected)
        share = counted / (counted + FRAME_TOKENS)
        ratio = self.ratio[place]
        self.ratio[place] = max(ratio + step * share / counted, ratio / MOST_STEP)
        self.frame[place] = max(self.frame[place] + step * (1 - share), 0.0)

    # --- times ---

    def _learn_pace(
        self,
        place: int,
        sample: Sample,
        tokens_in: float,
        tokens_out: float,
        expected: tuple[float, float],
        *,
        finished: bool = True,
    ) -> None:
        pace = self._paces.get(place)
        if pace is None:
            profile = self._profiles[place]
            pace = self._paces.setdefault(place, Pace(profile.speed, steady=profile.local))
        speeds = pace.speeds
        first, rest = speeds.first(tokens_in), tokens_out * speeds.per_out
        company = self._companies.setdefault(place, Company(local=self._profiles[place].local))
        ttft, total = company.alone(sample, first, rest)
        allowed = sum_quantile(
            ((first, 0.0), (expected[0] * speeds.per_out, expected[1])),
            pace.spread(),
            Z95 * pace.tail,
        )
        first_allowed = sum_quantile(((first, 0.0),), pace.first_spread(), Z95 * pace.first_tail)
        if finished or total > allowed:  # else nobody knows whether it would have been kept
            pace.correct(total, allowed, ttft, first_allowed)
        company.learn(sample, first, rest)
        pace.learn(Observed(tokens_in, tokens_out, ttft, total), sample.at)
        self._show_pace(place, pace)

    def _show_pace(self, place: int, pace: Pace) -> None:
        self.base[place], self.per_in[place], self.per_out[place] = pace.speeds
        self.spread[place] = pace.spread()
        self.first_spread[place] = pace.first_spread()
        self.tail[place] = pace.tail
        self.first_tail[place] = pace.first_tail

    def _show_failures(self, place: int, now: float) -> None:
        self.failing[place], self.lost[place] = self._failures[place].at(now)


def _seconds(time: float) -> float:
    return min(max(0.0, time), LONGEST)  # in this order a NaN is nothing
