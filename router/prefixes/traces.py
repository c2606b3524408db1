"""What is known of one model at one cut of a prompt, and how much of it still holds."""

from __future__ import annotations

import math
from typing import NamedTuple

from router.prefixes.cuts import Prompt

__all__ = ["Known", "Trace", "freshness", "room", "seen_share", "witness"]

#: "Prompt caching", OpenAI: cached prefixes stay for 5 to 10 minutes without use, and for an hour at most;
#: Azure says the same. Assumption: they stay for 5 minutes, and what is left halves every 5 minutes. Some
#: hosts keep them longer (DeepSeek on disk, OpenAI's newer models for a day); that is not counted on.
FULL_SECONDS = 300.0
HALVING_SECONDS = 300.0
GONE_SECONDS = 3600.0
#: The share of its memory within which an engine is taken to have given a beginning up bit by bit.
LEAVING = 0.5
#: How much the newest answer to a beginning counts against the earlier ones.
NEWEST = 0.5


class Trace:
    """What is known of one model at one cut.

    Attributes:
        at: When it was sent this beginning last, in seconds.
        passed: Tokens that it had computed by then, of all that it was sent.
        hit: The part of this beginning that was cached then; None if nothing was seen of it.
        size: `size_of` the tokens that `hit` was seen of.
        shared: Of a prompt's last cut: the tokens that were known when the prompt was sent, and ...
        credit: ... their freshness then.
    """

    __slots__ = ("at", "credit", "hit", "passed", "shared", "size")

    def __init__(self, at: float) -> None:
        self.at = at
        self.passed = 0.0
        self.hit: float | None = None
        self.size = 0
        self.shared = 0
        self.credit = 0.0


class Known(NamedTuple):
    """The beginning of a prompt that a model is known to have been sent."""

    tokens: int
    credit: float
    trace: Trace


def freshness(age: float) -> float:
    """What is left, 0..1, of a beginning that was sent `age` seconds ago (below 0: the clock jumped)."""
    if age <= FULL_SECONDS:
        return 1.0
    return 0.5 ** ((age - FULL_SECONDS) / HALVING_SECONDS) if age < GONE_SECONDS else 0.0


def room(tokens: float, since: float, kept: float) -> float:
    """What is left, 0..1, of a beginning in a memory that gives up what was used least recently.

    Args:
        tokens: Of the beginning.
        since: Tokens that were computed since it was used last.
        kept: Tokens that the memory holds.
    """
    missing = tokens + since - kept
    if kept > 0.0 and missing <= 0.0:
        return 1.0
    # How long the others are is not known exactly: it does not end at one token.
    fading = LEAVING * kept
    return 1.0 - missing / fading if missing < fading else 0.0


def seen_share(
    prompt: Prompt, shared_tokens: float | None, cached_tokens: float, prompt_tokens: float | None
) -> float | None:
    """The part (0..1) of the shared tokens that was cached, in shares of either count; None if unknown."""
    if not shared_tokens or not prompt_tokens or not 0.0 < shared_tokens < math.inf or prompt_tokens < 0:
        return None
    cached = min(max(cached_tokens, 0), prompt_tokens) / prompt_tokens
    seen = cached * prompt.total / shared_tokens
    return min(seen, 1.0) if math.isfinite(seen) else None


def witness(trace: Trace, size: int, seen: float, credit: float, average: float) -> None:
    """Remembers at a cut what was seen of it; what was seen of another size begins anew."""
    if trace.hit is None or trace.size != size:
        trace.hit = average + (seen - average) * credit
    else:
        trace.hit += (seen - trace.hit) * credit * NEWEST
    trace.size = size
