"""What was decided for a request, why, and what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Literal

from router.errors import ModelError

__all__ = ["Attempt", "Candidate", "Decision", "Features", "Ranking"]

Outcome = Literal["running", "succeeded", "failed", "cancelled", "refused"]
"""`cancelled`: stopped by us (a lost hedge, a deadline, the caller); `refused`: by a limit or a budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Facts read off a request before routing.

    Attributes:
        prompt_tokens: By our own count (o200k_base), for a model of token ratio 1.
        expected_output_tokens: The forecast for a model that nothing is known of.
        max_output_tokens: The caller's limit; None if not limited.
        needs: Capabilities that the request needs (`router.capabilities`).
        task: The kind of request, if the caller named one.
        language: ISO 639-1 code, if the caller named it.
        sensitivity: "private" if the request may only go to private models.
        session: The conversation it belongs to, if the caller named one.
        stream: Whether the answer is streamed.
        choices: How many answers are asked for.
    """

    prompt_tokens: int
    expected_output_tokens: float
    max_output_tokens: int | None = None
    needs: frozenset[str] = frozenset()
    task: str | None = None
    language: str | None = None
    sensitivity: Literal["any", "private"] = "any"
    session: str | None = field(default=None, repr=False)  # it may name a person, and a repr goes into logs
    stream: bool = False
    choices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One model, as it looked for one request.

    Attributes:
        model: The model's name.
        cost: Expected USD; None if the price is unknown.
        ttft: Expected seconds to the first token.
        latency: Expected seconds to the end of the answer.
        quality: Probability of a good answer; None if unknown.
        utility: The negative of what is minimised (or the policy's own callable's value); higher is better.
        rejected_because: None if eligible; else a text that begins with a stable code (`price: unknown`).
        cost_p95: USD that are not exceeded with the policy's confidence (0.95 unless it says otherwise); None
            if the price is unknown.
        ttft_p95: Seconds that the first token keeps to with the policy's confidence.
        latency_p95: Seconds that the whole answer keeps to with the policy's confidence.
        parts: What the estimate is made of, for `explain()`: tokens, USD and seconds by name.
        notes: What was assumed (`context window: unknown`, ...).
    """

    model: str
    cost: float | None
    ttft: float | None
    latency: float | None
    quality: float | None
    utility: float | None
    rejected_because: str | None = None
    cost_p95: float | None = None
    ttft_p95: float | None = None
    latency_p95: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call of one model.

    Attributes:
        model: The model's name.
        outcome: What became of it.
        ttft: Seconds from its start to its first visible token; None if there was none.
        duration: Seconds it took; None while it runs.
        cost: What it cost in USD; None while unknown.
        cost_source: "usage": from the tokens the backend reported; "estimate": from ours.
        error: Why it failed; None if it did not.
        prompt_tokens: As reported, or as estimated.
        completion_tokens: As reported, or as estimated.
        cached_tokens: Prompt tokens that the backend had cached.
        hedge: Whether it was started beside another one.
        waited: Seconds from its start until the backend began to work on it: loading, its queue; None if
            it never began, or nobody told.
        outstanding: The router's other calls of this model that the backend was at work on meanwhile, on
            average, rounded; None if nobody counted.
    """

    model: str
    outcome: Outcome
    ttft: float | None = None
    duration: float | None = None
    cost: Decimal | None = None
    cost_source: Literal["usage", "estimate"] | None = None
    error: ModelError | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    hedge: bool = False
    waited: float | None = None
    outstanding: int | None = None


class Ranking(ABC):
    """Candidates in columns; they become objects when they are looked at. See `router.ranked`."""

    __slots__ = ()

    @abstractmethod
    def candidates(self, most: int | None = None) -> tuple[Candidate, ...]:
        """The eligible, best first, then the rejected as declared; at most `most` of them."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A frozen snapshot of how one request was routed.

    Attributes:
        id: Unique; `feedback` and the ledger know it.
        model: The model that answered; before there is an answer, the best candidate; None if there is none.
        attempts: The calls made, in order.
        cost: USD of all attempts, hedges included; None while unknown.
        features: What the decision stands on.
        reason: One sentence: why this model.
        notes: What was given up or assumed for the whole request (`relaxed: max_latency`, `explored`, ...).
        at: Unix time of the decision, in seconds.
        tags: The caller's labels.
    """

    id: str
    model: str | None
    attempts: tuple[Attempt, ...]
    cost: Decimal | None
    features: Features
    reason: str
    notes: tuple[str, ...] = ()
    at: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    _ranking: Ranking | Sequence[Candidate] = field(default=(), repr=False)

    @cached_property
    def ranking(self) -> tuple[Candidate, ...]:
        """Every model: the eligible, best first, then the rejected as declared."""
        if isinstance(self._ranking, Ranking):
            return self._ranking.candidates()
        return tuple(self._ranking)

    def leading(self, most: int) -> tuple[Sequence[Candidate], int]:
        """The first candidates of `ranking`, and how many more there are; the others are not built."""
        if isinstance(self._ranking, Ranking):
            return self._ranking.candidates(most), max(len(self._ranking) - most, 0)
        return self._ranking[:most], max(len(self._ranking) - most, 0)

    def explain(self) -> str:
        """The decision as a text for people: the choice, every candidate's figures, every rejection."""
        from router.explain import explain

        return explain(self)
