"""What is learned of the models, in columns: one list per fact, one place per model.

Ranking reads the columns without a lock (a read of a list's item is atomic); learning writes under the
fleet's. A column moves only when the figure behind it has moved by more than its own uncertainty excuses:
otherwise two models that are as good as each other would take turns at every answer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from router.learning.lengths import EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD, Forecast, Lengths
from router.learning.lognormal import capped, capped_spread, sum_quantile
from router.learning.pace import Z95, Observed, Pace
from router.learning.response import HOSTED_SLOPE, LOCAL_SLOPE, Response
from router.profile import Profile

__all__ = ["MOST_TASKS", "Columns", "Outputs", "Sample"]

#: Tasks that are told apart; beyond it a task shares the column of the nameless one.
MOST_TASKS = 256
#: The least weight of a sample in a token ratio: the last twenty count.
LEAST_WEIGHT = 0.05
#: The weight of a token ratio of 1, in samples.
PRIOR_SAMPLES = 3
#: One count moves a token ratio by this factor at most.
MOST_STEP = 4.0
#: Tokens of ours at which half of a wrong count is put down to the frame that a template puts around every
#: prompt, and half to the vocabulary. Without a frame, short prompts would teach a ratio that shuts long ones
#: out of windows that they fit into.
FRAME_TOKENS = 100.0
#: How talkative a model is, beside others at the same task: the weight of "like them", in answers.
LIKE_OTHERS = 5.0
TALK_MEMORY = 0.99
#: A column moves when a figure has moved by this share of its standard error, or by this much, if less.
BAND, MOST_BAND = 0.25, 0.02
#: Forecasts of models without an answer follow those of the others after so many of these at the latest, or
#: after as many as there are models, if that is more: so that an answer's share of the work stays small.
FOLLOW_AFTER = 64
#: Answers after which half of a length's variance is believed.
UNTOLD = 2.0
#: Failures: the weight of "never fails", in attempts; the least weight of one; seconds until a failure counts
#: for 1/e of itself.
NEVER_FAILS, LEAST_FAILURE, FAILURE_LIFETIME = 20.0, 0.05, 300.0
#: Places that are looked at for staleness with each decision; so thousands of models cost nothing.
SWEEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one finished attempt showed.

    Attributes:
        task: The request's task.
        counted_tokens: Prompt tokens by our count.
        prompt_tokens: As reported; None if the backend reported none.
        cached_tokens: Of these, found cached.
        completion_tokens: As reported, of all choices; None if the backend reported none.
        max_tokens: What would have cut one choice off.
        choices: Answers asked for.
        ttft: Seconds to the first token without loading and queue; None for an answer in one piece.
        duration: Seconds to the end without loading and queue.
        ahead: Other calls of this router that the model had under way when it began.
        at: When it ended, in seconds on the router's clock.
    """

    task: str | None
    counted_tokens: int
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft: float | None
    duration: float
    cached_tokens: int = 0
    max_tokens: int | None = None
    choices: int = 1
    ahead: int = 0
    at: float = 0.0


@dataclass(slots=True)
class Outputs:
    """Forecasts of one task's answers, by place.

    Attributes:
        mean: Tokens of an answer that nothing cuts off.
        spread: The standard deviation of their logarithm.
        sloped: The forecasts that depend on the prompt's length.
        seen: Answers that each stands on.
    """

    mean: list[float]
    spread: list[float]
    sloped: dict[int, Forecast]
    seen: dict[int, int]


class _Task:
    """One task: each model's lengths, and those of all models as if none was more talkative than others."""

    __slots__ = ("lengths", "outputs", "pooled")

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.pooled = Lengths()
        self.lengths: dict[int, Lengths] = {}

    def carry_over(self, place: int, other: _Task, other_place: int) -> None:
        """Takes over one model's lengths and forecasts as they are."""
        held = other.lengths.get(other_place)
        if held is not None:
            self.lengths[place] = copy.copy(held)
        ours, theirs = self.outputs, other.outputs
        ours.mean[place], ours.spread[place] = theirs.mean[other_place], theirs.spread[other_place]
        seen, sloped = theirs.seen.get(other_place), theirs.sloped.get(other_place)
        if seen is not None:
            ours.seen[place] = seen
        if sloped is not None:
            ours.sloped = {**ours.sloped, place: sloped}


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
    """

    _LISTS = ("ratio", "frame", "base", "per_in", "per_out", "spread", "first_spread", "tail", "first_tail",
              "failing", "lost", "load", "samples", "service", "_talk", "_talk_weight")  # fmt: skip

    __slots__ = (*_LISTS, "_all", "_any", "_failures", "_first_responses", "_paces", "_responses", "_seen",
                 "_sweep", "_tasks", "_profiles")  # fmt: skip

    def __init__(self, profiles: Sequence[Profile]) -> None:
        speeds = [profile.speed for profile in profiles]
        models = len(profiles)
        self._profiles = tuple(profiles)
        self.ratio = [1.0] * models
        self.frame = [0.0] * models
        self.base = [speed.ttft for speed in speeds]
        self.per_in = [1.0 / speed.prefill for speed in speeds]
        self.per_out = [1.0 / speed.decode for speed in speeds]
        fresh = _untouched()
        self.spread = [fresh.spread()] * models
        self.first_spread = [fresh.first_spread()] * models
        self.tail = [1.0] * models
        self.first_tail = [1.0] * models
        self.failing = [0.0] * models
        self.lost = [0.0] * models
        self.load = [speed.load for speed in speeds]
        self.samples = [0] * models
        self.service = [speed.ttft + EXPECTED_OUTPUT_TOKENS / speed.decode for speed in speeds]
        self._talk = [0.0] * models  # log of how many times the others' length an answer takes
        self._talk_weight = [0.0] * models
        self._paces: dict[int, Pace] = {}
        self._responses: dict[int, Response] = {}
        self._first_responses: dict[int, Response] = {}
        self._failures: dict[int, _Failures] = {}
        self._seen: list[int] = []  # places that something was learned of
        self._sweep = 0
        self._all = Lengths()
        self._tasks: dict[str | None, _Task] = {None: _Task(_nothing(models))}
        self._any = _Task(_nothing(models))  # stands for each task that is not among them

    def carry_over(self, place: int, other: Columns, other_place: int) -> None:
        """Takes over what another fleet's columns learned of the same model.

        As a copy: what a request that is still under way on the other fleet shows is told to both.
        """
        for name in self._LISTS:
            getattr(self, name)[place] = getattr(other, name)[other_place]
        for name in ("_paces", "_responses", "_first_responses", "_failures"):
            held = getattr(other, name).get(other_place)
            if held is not None:
                getattr(self, name)[place] = copy.deepcopy(held)
        if other_place in other._paces or other_place in other._failures:
            self._seen.append(place)
        first = not self._all.count and other._all.count  # the first one brings along what all showed
        self._all = copy.copy(other._all)
        if first:
            self._show_unasked(self._any, self._pooled(self._any))
        self._any.carry_over(place, other._any, other_place)
        for task, theirs in list(other._tasks.items()):  # a copy: another thread may add a task
            ours = self._task(task)
            if task is not None and ours is self._tasks[None]:
                continue
            ours.pooled = copy.copy(theirs.pooled)
            if first:
                self._show_unasked(ours, self._pooled(ours))
            ours.carry_over(place, theirs, other_place)

    def expected(self, task: str | None) -> float:
        """Tokens of an answer to a task by a model that nothing is known of."""
        return self._pooled(self._read(task)).mean

    def outputs(self, task: str | None) -> Outputs:
        """Forecasts for a task; for a new one, what all tasks showed."""
        return self._read(task).outputs

    def _read(self, task: str | None) -> _Task:
        known = self._tasks.get(task)
        if known is not None:
            return known
        return self._any if len(self._tasks) < MOST_TASKS else self._tasks[None]

    def slowdown(self, place: int, calls: int) -> tuple[float, float]:
        """How many times as long a model takes with other calls under way: to the first token, and in all."""
        response = self._responses.get(place)
        if response is None:
            slope = LOCAL_SLOPE if self._profiles[place].local else HOSTED_SLOPE
            factor = 1.0 + slope * calls
            return factor, factor
        factor = response.at(calls)
        first = self._first_responses.get(place)
        return (factor if first is None else first.at(calls)), factor

    def doubt(self, place: int, now: float) -> float:
        """How uncertain a model's mean latency is: the standard deviation of its logarithm."""
        return self._paces.get(place, _UNTOUCHED).doubt(now)

    def hope(self, place: int, now: float) -> float:
        """How much faster a model may well be: the logarithm of a factor, at least 0."""
        return self._paces.get(place, _UNTOUCHED).hope(now)

    def forecast(
        self, place: int, task: str | None, tokens_in: float, limit: int | None
    ) -> tuple[float, float]:
        """Expected tokens of one answer, and the standard deviation of their logarithm."""
        outputs = self.outputs(task)
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
            self._learn_length(place, sample, tokens_in, tokens_out)
        self._note(place)
        self._learn_pace(
            place, sample, tokens_in - min(sample.cached_tokens, tokens_in), tokens_out, expected
        )
        weight = max(LEAST_WEIGHT, 1.0 / (self.samples[place] + PRIOR_SAMPLES))
        self.service[place] += weight * (min(max(0.0, sample.duration), 1e6) - self.service[place])
        self.samples[place] += 1
        if place in self._failures:
            self._failures[place].add(0.0, None, sample.at)
            self._show_failures(place, sample.at)

    def loaded(self, place: int, seconds: float) -> None:
        """Loading a model took so long."""
        seconds = min(max(0.0, seconds), 1e6)  # in this order a NaN is nothing
        self.load[place] += (1.0 if not self.samples[place] else 0.5) * (seconds - self.load[place])

    def failed(self, place: int, seconds: float, now: float) -> None:
        """An attempt failed after so many seconds, by the model's fault."""
        self._note(place)
        self._failures.setdefault(place, _Failures(self.samples[place])).add(1.0, seconds, now)
        self._show_failures(place, now)

    def took_longer(self, place: int, sample: Sample) -> None:
        """An attempt was given up when it had lasted so long: its answer would have taken longer yet."""
        tokens_in = self.frame[place] + sample.counted_tokens * self.ratio[place]
        expected = self.forecast(place, sample.task, tokens_in, sample.max_tokens)
        _, factor = self.slowdown(place, sample.ahead)
        predicted = self.base[place] + tokens_in * self.per_in[place] + expected[0] * self.per_out[place]
        if sample.duration > predicted * factor:
            self._note(place)
            self._learn_pace(place, sample, tokens_in, expected[0], expected, finished=False)

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

    def _task(self, task: str | None) -> _Task:
        known = self._tasks.get(task)
        if known is None:
            if len(self._tasks) >= MOST_TASKS:
                return self._tasks[None]
            known = _Task(_nothing(len(self.ratio)))
            pooled = self._pooled(known)
            known.outputs.mean[:] = [self._prior(pooled, place).mean for place in range(len(self.ratio))]
            self._tasks[task] = known
        return known

    def _learn_counts(self, place: int, counted: int, tokens_in: float, expected: float) -> None:
        weight = max(LEAST_WEIGHT, 1.0 / (self.samples[place] + PRIOR_SAMPLES))
        step = weight * (min(max(tokens_in, expected / MOST_STEP), expected * MOST_STEP) - expected)
        share = counted / (counted + FRAME_TOKENS)
        ratio = self.ratio[place]
        self.ratio[place] = max(ratio + step * share / counted, ratio / MOST_STEP)
        self.frame[place] = max(self.frame[place] + step * (1 - share), 0.0)

    # --- lengths ---

    def _pooled(self, task: _Task) -> Forecast:
        """What any model's answers to a task are expected to be like."""
        return task.pooled.forecast(self._all.forecast(Forecast(EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD)))

    def _prior(self, pooled: Forecast, place: int) -> Forecast:
        """The same of one model, before it gave any."""
        weight = self._talk_weight[place]
        if not weight:
            return Forecast(pooled.mean, pooled.spread)
        talk = self._talk[place] * weight / (weight + LIKE_OTHERS)
        return Forecast(pooled.mean * math.exp(talk), pooled.spread)

    def _learn_length(self, place: int, sample: Sample, tokens_in: float, tokens_out: float) -> None:
        task = self._task(sample.task)
        lengths = task.lengths.get(place)
        if lengths is None:
            lengths = task.lengths[place] = Lengths()
        outputs = task.outputs
        before = outputs.sloped.get(place) or Forecast(outputs.mean[place], outputs.spread[place])
        limit = float(sample.max_tokens) if sample.max_tokens is not None else None
        log = lengths.add(tokens_out, tokens_in, limit, before)
        weight = self._talk_weight[place]
        talk = self._talk[place] * weight / (weight + LIKE_OTHERS)
        alike = math.exp(min(log - talk, 20.0))  # as long as another model's answer would have been
        for pool in (task.pooled, self._all):
            pool.add(max(alike, 1.0), tokens_in, None, Forecast(max(alike, before.mean), PRIOR_SPREAD))
        if len(task.lengths) > 1:
            self._talk_weight[place] = TALK_MEMORY * weight + 1.0
            self._talk[place] += (log - task.pooled.log - self._talk[place]) / self._talk_weight[place]
        pooled = self._pooled(task)
        self._show_lengths(task, place, pooled)
        if self._follow(task.pooled.count):
            self._show_unasked(task, pooled)
        if self._follow(self._all.count):
            self._show_unasked(self._any, self._pooled(self._any))

    def _follow(self, count: int) -> bool:
        """Whether models without an answer are shown anew: at each doubling, since at first it moves much."""
        return count & (count - 1) == 0 or count % max(FOLLOW_AFTER, len(self.ratio)) == 0

    def _show_unasked(self, task: _Task, pooled: Forecast) -> None:
        for place in range(len(self.ratio)):
            if place not in task.lengths:
                self._show_lengths(task, place, pooled)

    def _show_lengths(self, task: _Task, place: int, pooled: Forecast) -> None:
        lengths, outputs = task.lengths.get(place), task.outputs
        shown = self._prior(pooled, place)
        if lengths is not None:
            shown = lengths.forecast(shown)
            outputs.seen[place] = lengths.count
        error = shown.spread / math.sqrt(1.0 + (lengths.weight if lengths is not None else 0.0))
        outputs.mean[place] = _moved(outputs.mean[place], shown.mean, error)
        # Before anything is known the forecast is taken at its word, as a profile is (see `pace`).
        known = lengths.count if lengths is not None else task.pooled.count
        outputs.spread[place] = shown.spread * math.sqrt(known / (known + UNTOLD))
        if shown.slope:
            outputs.sloped[place] = shown
        elif place in outputs.sloped:  # replaced, not emptied: a reader may have seen that it is there
            outputs.sloped = {held: line for held, line in outputs.sloped.items() if held != place}

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
        slow_first, slow = self.slowdown(place, sample.ahead)
        total = max(0.0, sample.duration) / slow
        ttft = None if sample.ttft is None else min(max(0.0, sample.ttft) / slow_first, total)
        first = pace.first(tokens_in)
        allowed = sum_quantile(
            ((first, 0.0), (expected[0] * pace.per_out, expected[1])),
            pace.spread(),
            Z95 * pace.tail,
        )
        first_allowed = sum_quantile(((first, 0.0),), pace.first_spread(), Z95 * pace.first_tail)
        if finished or total > allowed:  # else nobody knows whether it would have been kept
            pace.correct(total, allowed, ttft, first_allowed)
        if sample.ahead:
            self._learn_response(place, sample, first, first + tokens_out * pace.per_out)
        pace.learn(Observed(tokens_in, tokens_out, ttft, total), sample.at)
        self._show_pace(place, pace)

    def _learn_response(self, place: int, sample: Sample, first: float, total: float) -> None:
        slope = LOCAL_SLOPE if self._profiles[place].local else HOSTED_SLOPE
        response = self._responses.setdefault(place, Response(slope))
        response.learn(sample.ahead, sample.duration / max(total, 1e-9))
        if sample.ttft is not None:
            response = self._first_responses.setdefault(place, Response(slope))
            response.learn(sample.ahead, sample.ttft / max(first, 1e-9))

    def _show_pace(self, place: int, pace: Pace) -> None:
        spread = pace.spread()
        error = spread / math.sqrt(1.0 + pace.weight)
        self.base[place] = _moved(self.base[place], pace.base, error)
        self.per_in[place] = _moved(self.per_in[place], pace.per_in, error)
        self.per_out[place] = _moved(self.per_out[place], pace.per_out, error)
        self.spread[place] = spread
        self.first_spread[place] = pace.first_spread()
        self.tail[place] = pace.tail
        self.first_tail[place] = pace.first_tail

    def _show_failures(self, place: int, now: float) -> None:
        failing, seconds = self._failures[place].at(now)
        self.failing[place] = failing
        self.lost[place] = seconds


class _Failures:
    """How often one model's attempts fail, and how long that takes."""

    __slots__ = ("_at", "_count", "_seconds", "_share")

    def __init__(self, before: int) -> None:
        self._count = before
        self._share = 0.0
        self._seconds = 0.0
        self._at = -math.inf

    def add(self, failed: float, seconds: float | None, now: float) -> None:
        """An attempt was answered (0) or failed (1)."""
        self._share = self._faded(now)
        self._at = max(now, self._at)
        self._count += 1
        weight = max(1.0 / (self._count + NEVER_FAILS), LEAST_FAILURE)
        self._share += weight * (failed - self._share)
        if seconds is not None:
            seconds = min(max(0.0, seconds), 1e6)  # in this order a NaN is nothing
            self._seconds += (seconds - self._seconds) * (0.3 if self._seconds else 1.0)

    def _faded(self, now: float) -> float:
        return self._share * math.exp(-max(now - self._at, 0.0) / FAILURE_LIFETIME) if self._share else 0.0

    def at(self, now: float) -> tuple[float, float]:
        """The probability of a failure, and the seconds that failures cost a request in the mean."""
        share = min(self._faded(now), 0.95)
        return share, share / (1.0 - share) * self._seconds


def _nothing(models: int) -> Outputs:
    """Forecasts before any answer."""
    return Outputs([EXPECTED_OUTPUT_TOKENS] * models, [0.0] * models, {}, {})


def _untouched() -> Pace:
    from router.profile import HOSTED_SPEED

    return Pace(HOSTED_SPEED, steady=False)


_UNTOUCHED = _untouched()


def _moved(shown: float, found: float, error: float) -> float:
    """What a column shows: the new figure, unless that differs by less than it may by chance."""
    band = min(BAND * error, MOST_BAND)
    return shown if abs(found - shown) <= band * shown else found
