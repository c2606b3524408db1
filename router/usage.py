"""Tokens that an answer took, as a backend reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionMessage
    from openai.types.chat.chat_completion_chunk import ChoiceDelta

__all__ = ["CHARACTERS_PER_TOKEN", "Usage", "characters_of", "read_usage"]

#: More tokens than any model takes or gives in one call; a report above it is a mistake.
MOST_TOKENS = 50_000_000

#: Assumption for answers whose backend reports no usage: English, and OpenAI's rule of thumb.
CHARACTERS_PER_TOKEN = 4


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


def characters_of(part: ChatCompletionMessage | ChoiceDelta | None) -> int:
    """Characters of an answer, or of a piece of one, that were generated: text, reasoning, calls of tools."""
    if not part:  # openai's types promise one; hosts leave it out
        return 0
    count = len(part.content or "") + len(part.refusal or "")
    for call in part.tool_calls or ():
        function = getattr(call, "function", None)
        count += len(getattr(function, "name", None) or "") + len(getattr(function, "arguments", None) or "")
    extra = part.model_extra
    if extra:
        texts = (extra.get(name) for name in ("reasoning_content", "reasoning"))
        count += next((len(text) for text in texts if isinstance(text, str)), 0)
    return count
