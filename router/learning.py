"""What is learned of the models while they answer, in columns: one list per fact, one place per model.

The first form: exponentially weighted means that start at the profile's prior and leave it quickly. Ranking
reads the columns without a lock (a read of a list's item is atomic); learning writes under the fleet's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.profile import Profile

__all__ = ["EXPECTED_OUTPUT_TOKENS", "Columns", "Sample"]

#: Output tokens of a request that nothing is known of: a chat answer of about a hundred words. An assumption
#: that only matters until the first answers.
EXPECTED_OUTPUT_TOKENS = 150.0
#: The weight of a profile's prior, in samples.
PRIOR_SAMPLES = 3
#: The least weight of a new sample: what is older than some ten samples fades.
LEAST_WEIGHT = 0.1
#: The standard deviation of log(latency) before anything was measured; e^(1.64 × 0.25) is 1.5.
PRIOR_SPREAD = 0.25
#: Tasks that are told apart; beyond it a task shares the column of the nameless one.
MOST_TASKS = 256
#: A single sample moves a speed by this factor at most: one outlier must not turn a ranking over.
MOST_STEP = 4.0
#: A single sample counts as so many times the expected tokens at most. Answers do differ widely in length,
#: but one absurd report must not price a model out for good.
MOST_SURPRISE = 16.0
#: Tokens of ours at which half of a wrong count is put down to the frame that a template puts around every
#: prompt, and half to the vocabulary. Without a frame, short prompts would teach a ratio that shuts long ones
#: out of windows that they fit into.
FRAME_TOKENS = 100.0
#: The least standard deviation of log(latency): no backend is steadier than this.
LEAST_SPREAD = 0.02
#: Seconds that a measured time is taken for at least and at most.
SHORTEST, LONGEST = 1e-6, 1e6
#: Seconds per token, and to a first token, that are believed at least: a product never vanishes.
LEAST_SECONDS = 1e-12


class Sample:
    """What one finished attempt showed.

    Token counts are None where the backend reported none; `ttft` is None for an answer in one piece.
    """

    __slots__ = ("completion_tokens", "counted_tokens", "duration", "prompt_tokens", "task", "ttft")

    def __init__(
        self,
        *,
        task: str | None,
        counted_tokens: int,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        ttft: float | None,
        duration: float,
    ) -> None:
        self.task = task
        self.counted_tokens = counted_tokens
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.ttft = ttft
        self.duration = duration


class Columns:
    """Learned facts of all models of a fleet.

    Attributes:
        ratio: The backend's prompt tokens per token of ours, on top of `frame`.
        frame: Tokens that the backend's template adds to every prompt, long or short.
        base: Seconds to the first token of an empty prompt.
        per_in: Seconds per prompt token.
        per_out: Seconds per output token.
        spread: Standard deviation of log(observed latency ÷ predicted).
        samples: Answers seen.
        service: Mean seconds of an answer, without queueing.
    """

    __slots__ = ("_outputs", "base", "frame", "per_in", "per_out", "ratio", "samples", "service", "spread")

    def __init__(self, profiles: Sequence[Profile]) -> None:
        speeds = [profile.speed for profile in profiles]
        self.ratio = [1.0] * len(profiles)
        self.frame = [0.0] * len(profiles)
        self.base = [speed.ttft for speed in speeds]
        self.per_in = [1.0 / speed.prefill for speed in speeds]
        self.per_out = [1.0 / speed.decode for speed in speeds]
        self.spread = [PRIOR_SPREAD] * len(profiles)
        self.samples = [0] * len(profiles)
        self.service = [speed.ttft + EXPECTED_OUTPUT_TOKENS / speed.decode for speed in speeds]
        self._outputs: dict[str | None, list[float]] = {None: [EXPECTED_OUTPUT_TOKENS] * len(profiles)}

    def carry_over(self, place: int, other: Columns, other_place: int) -> None:
        """Takes over what another fleet's columns learned of the same model."""
        for name in ("ratio", "frame", "base", "per_in", "per_out", "spread", "samples", "service"):
            getattr(self, name)[place] = getattr(other, name)[other_place]
        self._outputs[None][place] = other._outputs[None][other_place]
        for task, column in list(other._outputs.items()):  # a copy: another thread may add a task
            own = self._column(task)
            if task is None or own is not self._outputs[None]:
                own[place] = column[other_place]

    def outputs(self, task: str | None) -> list[float]:
        """Expected output tokens per model for a task; what all tasks showed if the task is new."""
        return self._outputs.get(task) or self._outputs[None]

    def _column(self, task: str | None) -> list[float]:
        column = self._outputs.get(task)
        if column is None:
            if len(self._outputs) >= MOST_TASKS:
                return self._outputs[None]
            column = self._outputs[task] = list(self._outputs[None])
        return column

    def learn(self, place: int, sample: Sample) -> None:
        """Takes one answer in. Absurd numbers were sorted out before."""
        weight = max(LEAST_WEIGHT, 1.0 / (self.samples[place] + PRIOR_SAMPLES))
        expected_in = self.frame[place] + sample.counted_tokens * self.ratio[place]
        tokens_in = float(sample.prompt_tokens or expected_in)
        if sample.prompt_tokens and sample.counted_tokens:
            self._learn_counts(place, sample.counted_tokens, tokens_in, expected_in, weight)
        tokens_out = self.outputs(sample.task)[place]
        if sample.completion_tokens is not None:
            tokens_out = max(sample.completion_tokens, 1)  # no answer at all is a short one
            for column in {id(c): c for c in (self._column(sample.task), self._outputs[None])}.values():
                column[place] += weight * (min(tokens_out, MOST_SURPRISE * column[place]) - column[place])
        self._learn_speed(place, sample, tokens_in, tokens_out, weight)
        self.service[place] += weight * (_seconds(sample.duration) - self.service[place])
        self.samples[place] += 1

    def _learn_counts(
        self, place: int, counted: int, tokens_in: float, expected: float, weight: float
    ) -> None:
        step = weight * (_within(tokens_in, expected, MOST_STEP) - expected)
        share = counted / (counted + FRAME_TOKENS)
        ratio = self.ratio[place]
        self.ratio[place] = max(ratio + step * share / counted, ratio / MOST_STEP)
        self.frame[place] = max(self.frame[place] + step * (1 - share), 0.0)

    def _learn_speed(
        self, place: int, sample: Sample, tokens_in: float, tokens_out: float, weight: float
    ) -> None:
        first = self.base[place] + tokens_in * self.per_in[place]
        rest = tokens_out * self.per_out[place]
        observed = _seconds(sample.duration)
        surprise = math.log(observed / _seconds(first + rest))
        variance = (1 - weight) * self.spread[place] ** 2 + weight * min(surprise * surprise, 1.0)
        self.spread[place] = max(math.sqrt(variance), LEAST_SPREAD)
        if sample.ttft is None:
            step = _step(observed, first + rest) ** weight
            self._scale_first(place, step)
            self.per_out[place] = _scaled(self.per_out[place], step)
            return
        self._scale_first(place, _step(sample.ttft, first) ** weight)
        if tokens_out > 1:
            step = _step(observed - sample.ttft, rest) ** weight
            self.per_out[place] = _scaled(self.per_out[place], step)

    def _scale_first(self, place: int, step: float) -> None:
        self.base[place] = _scaled(self.base[place], step)
        self.per_in[place] = _scaled(self.per_in[place], step)


def _scaled(seconds: float, step: float) -> float:
    return min(max(seconds * step, LEAST_SECONDS), LONGEST)


def _step(observed: float, predicted: float) -> float:
    """By what factor a prediction was off, bounded."""
    return _within(_seconds(observed) / _seconds(predicted), 1.0, MOST_STEP)


def _seconds(time: float) -> float:
    return min(max(time, SHORTEST), LONGEST)


def _within(value: float, expected: float, factor: float) -> float:
    """A value, not further from what was expected than by a factor."""
    return min(max(value, expected / factor), expected * factor)
