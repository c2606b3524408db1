"""How many tokens an answer takes, for every model and task: what each showed, and what that tells of others.

A model that never did a task starts from what others took for it, times how talkative it is beside them at
other tasks; a task that nobody did starts from what all tasks took.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from router.learning.lengths import EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD, Forecast, Lengths

__all__ = ["MOST_TASKS", "Forecasts", "Outputs"]

#: Tasks that are told apart; beyond it a task shares the column of the nameless one.
MOST_TASKS = 256
#: How talkative a model is, beside others at the same task: the weight of "like them", in answers.
LIKE_OTHERS = 5.0
TALK_MEMORY = 0.99
#: Forecasts of models without an answer follow those of the others after so many of these at the latest, or
#: after as many as there are models, if that is more: so that an answer's share of the work stays small.
FOLLOW_AFTER = 64
#: Answers after which half of a length's variance is believed.
UNTOLD = 2.0


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


class Forecasts:
    """The forecasts of all models of a fleet, by place."""

    __slots__ = ("_all", "_any", "_models", "_talk", "_talk_weight", "_tasks")

    def __init__(self, models: int) -> None:
        self._models = models
        self._talk = [0.0] * models  # log of how many times the others' length an answer takes
        self._talk_weight = [0.0] * models
        self._all = Lengths()
        self._tasks: dict[str | None, _Task] = {None: _Task(_nothing(models))}
        self._any = _Task(_nothing(models))  # stands for each task that is not among them

    def carry_over(self, place: int, other: Forecasts, other_place: int) -> None:
        """Takes over what other forecasts know of the same model, as a copy."""
        self._talk[place] = other._talk[other_place]
        self._talk_weight[place] = other._talk_weight[other_place]
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

    def _task(self, task: str | None) -> _Task:
        known = self._tasks.get(task)
        if known is None:
            if len(self._tasks) >= MOST_TASKS:
                return self._tasks[None]
            known = _Task(_nothing(self._models))
            pooled = self._pooled(known)
            known.outputs.mean[:] = [self._prior(pooled, place).mean for place in range(self._models)]
            self._tasks[task] = known
        return known

    def _pooled(self, task: _Task) -> Forecast:
        """What any model's answers to a task are expected to be like."""
        return task.pooled.forecast(self._all.forecast(Forecast(EXPECTED_OUTPUT_TOKENS, PRIOR_SPREAD)))

    def _prior(self, pooled: Forecast, place: int) -> Forecast:
        """The same of one model, before it gave any."""
        return Forecast(pooled.mean * math.exp(self._talkative(place)), pooled.spread)

    def _talkative(self, place: int) -> float:
        """Log of how many times the others' length a model's answers take, as far as there is evidence."""
        weight = self._talk_weight[place]
        return self._talk[place] * weight / (weight + LIKE_OTHERS)

    def learn(
        self, place: int, name: str | None, tokens_in: float, tokens_out: float, limit: int | None
    ) -> None:
        """Takes one answer in: its tokens, its prompt's, and the limit that would have cut it off."""
        task = self._task(name)
        lengths = task.lengths.get(place)
        if lengths is None:
            lengths = task.lengths[place] = Lengths()
        outputs = task.outputs
        before = outputs.sloped.get(place) or Forecast(outputs.mean[place], outputs.spread[place])
        log = lengths.add(tokens_out, tokens_in, None if limit is None else float(limit), before)
        # As long as another model's answer would have been.
        alike = math.exp(min(log - self._talkative(place), 20.0))
        for pool in (task.pooled, self._all):
            pool.add(max(alike, 1.0), tokens_in, None, Forecast(max(alike, before.mean), PRIOR_SPREAD))
        if len(task.lengths) > 1:
            self._talk_weight[place] = TALK_MEMORY * self._talk_weight[place] + 1.0
            self._talk[place] += (log - task.pooled.log - self._talk[place]) / self._talk_weight[place]
        pooled = self._pooled(task)
        self._show(task, place, pooled)
        if self._follow(task.pooled.count):
            self._show_unasked(task, pooled)
        if self._follow(self._all.count):
            self._show_unasked(self._any, self._pooled(self._any))

    def _follow(self, count: int) -> bool:
        """Whether models without an answer are shown anew: at each doubling, since at first it moves much."""
        return count & (count - 1) == 0 or count % max(FOLLOW_AFTER, self._models) == 0

    def _show_unasked(self, task: _Task, pooled: Forecast) -> None:
        for place in range(self._models):
            if place not in task.lengths:
                self._show(task, place, pooled)

    def _show(self, task: _Task, place: int, pooled: Forecast) -> None:
        lengths, outputs = task.lengths.get(place), task.outputs
        shown = self._prior(pooled, place)
        if lengths is not None:
            shown = lengths.forecast(shown)
            outputs.seen[place] = lengths.count
        outputs.mean[place] = shown.mean
        # Before anything is known the forecast is taken at its word, as a profile is (see `pace`).
        known = lengths.count if lengths is not None else task.pooled.count
        outputs.spread[place] = shown.spread * math.sqrt(known / (known + UNTOLD))
        if shown.slope:
            outputs.sloped[place] = shown
        elif place in outputs.sloped:  # replaced, not emptied: a reader may have seen that it is there
            outputs.sloped = {held: line for held, line in outputs.sloped.items() if held != place}


def _nothing(models: int) -> Outputs:
    """Forecasts before any answer."""
    return Outputs([EXPECTED_OUTPUT_TOKENS] * models, [0.0] * models, {}, {})
