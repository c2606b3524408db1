"""Tokens that an answer took, as a backend reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types import CompletionUsage

__all__ = ["Usage", "read_usage"]

#: More tokens than any model takes or gives in one call; a report above it is a mistake.
MOST_TOKENS = 50_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer.

    `cached_tokens` is a part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def _tokens(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None  # NaN and infinity, too
    return int(value) if 0 <= value <= MOST_TOKENS else None


def read_usage(reported: CompletionUsage | None) -> Usage | None:
    """The usage that a backend reported; None if it reported none or an absurd one.

    Absurd is: negative, not a whole number, larger than any context, no prompt at all, or more cached than
    prompt tokens.
    """
    if reported is None:
        return None
    prompt = _tokens(getattr(reported, "prompt_tokens", None))
    completion = _tokens(getattr(reported, "completion_tokens", None))
    if prompt is None or completion is None or prompt == 0:
        return None
    cached = _tokens(_reported_cached(reported))
    completion_details = getattr(reported, "completion_tokens_details", None)
    reasoning = _tokens(getattr(completion_details, "reasoning_tokens", None) or 0)
    if cached is None or reasoning is None or cached > prompt:
        return None
    if reasoning and getattr(reported, "total_tokens", None) == prompt + completion + reasoning:
        completion += reasoning  # xAI counts, and bills, reasoning beside the completion, not in it
    return Usage(prompt, completion, cached, reasoning)


def _reported_cached(reported: CompletionUsage) -> object:
    """Cached prompt tokens where OpenAI, Moonshot or DeepSeek put them; 0 if nobody says."""
    details = getattr(reported, "prompt_tokens_details", None)
    return (
        getattr(details, "cached_tokens", None)
        or getattr(reported, "cached_tokens", None)
        or getattr(reported, "prompt_cache_hit_tokens", None)
        or 0
    )
