"""The usage that a caller is shown: the backend's own, as it came, unless it is nonsense."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from router.live import LiveAttempt, judged
from router.usage import CHARACTERS_PER_TOKEN, Usage

if TYPE_CHECKING:
    from openai.types import CompletionUsage

    from router.routing import Routing

__all__ = ["shown_usage", "together"]

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")


def shown_usage(
    routing: Routing, attempt: LiveAttempt, before: Usage | None = None
) -> CompletionUsage | None:
    """What stands for the usage that an attempt's backend reported, None included.

    Numbers that no such answer can have taken are replaced by an estimate: a program that adds them up, or
    reads a detail of them, must not break on what a backend sent.

    Args:
        routing: The attempt's.
        attempt: As it is when its usage comes, or when it is booked.
        before: The tokens of the first part of the answer, if the attempt only gave its rest.
    """
    reported = attempt.reported
    if reported is None:
        return None
    usage, _ = judged(routing, attempt)
    if usage is not None and before is None and not isinstance(reported, Usage) and _well_formed(reported):
        return reported
    if usage is None:
        expected = round(routing.estimate(attempt.place).tokens_in)
        usage = Usage(expected, math.ceil(attempt.characters / CHARACTERS_PER_TOKEN))
    from router.completion import usage_object

    return usage_object(together(before, usage) or usage)


def together(one: Usage | None, other: Usage | None) -> Usage | None:
    """The tokens of both; None if neither is known."""
    if one is None or other is None:
        return one or other
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
    )


def _well_formed(reported: CompletionUsage) -> bool:
    """Whether everything in it is of the type that openai's own would have."""
    counts = all(type(getattr(reported, name, None)) is int for name in _COUNTS)
    parts = [getattr(reported, name, None) for name in _DETAILS]
    return counts and all(part is None or hasattr(part, "__pydantic_fields_set__") for part in parts)
