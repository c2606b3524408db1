"""What the ledger is told besides decisions, and what it tells: records, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from router.request import JSONObject

__all__ = ["AttemptRow", "CandidateRow", "DecisionRow", "Exchange", "Feedback"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked and answered; kept only with `keep_text=True`, and never of a private request.

    Attributes:
        messages: The request's messages.
        answer: The answer's text; None if there was none.
    """

    messages: Sequence[JSONObject]
    answer: str | None = None


class Feedback(NamedTuple):
    """A score that somebody gave to a decision's answer."""

    decision_id: str
    score: float
    at: float


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate as it was ranked; the fields are those of `router.Decision.ranking`."""

    model: str
    cost: float | None
    ttft: float | None
    latency: float | None
    quality: float | None
    utility: float | None
    rejected_because: str | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt; the fields are those of `router.decision.Attempt`, the error as text."""

    model: str
    outcome: str
    ttft: float | None
    duration: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost: Decimal | None
    cost_source: str | None
    error: str | None
    hedge: bool
    waited: float | None
    outstanding: int | None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as it was recorded.

    Attributes:
        ranking: The first 32 candidates: the eligible, best first, then the rejected.
        ranking_more: How many more there were.
        score: The newest feedback; None if there is none.
        exchange: What was asked and answered, if that was kept.

    The other fields are those of `router.Decision` and of its features.
    """

    id: str
    at: float
    task: str | None
    session: str | None
    language: str | None
    tags: Mapping[str, str]
    model: str | None
    reason: str
    notes: tuple[str, ...]
    prompt_tokens: int
    expected_output_tokens: float
    max_output_tokens: int | None
    needs: frozenset[str]
    sensitivity: str
    stream: bool
    choices: int
    ranking: tuple[CandidateRow, ...]
    ranking_more: int
    cost: Decimal | None
    score: float | None
    attempts: tuple[AttemptRow, ...]
    exchange: Exchange | None
