"""How likely tokens are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["likeliest"]

#: What the logarithm of nothing is said to be, as OpenAI has it.
_LEAST_LOGPROB = -9999.0


def likeliest(
    logits: np.ndarray[Any, np.dtype[np.single]], token: int, most: int
) -> tuple[float, list[tuple[int, float]]]:
    """The logarithm of a token's probability, and the likeliest tokens with theirs, the likeliest first.

    Args:
        logits: Of the whole vocabulary.
        token: One of it.
        most: How many of the likeliest.
    """
    highest = float(logits.max())
    total = highest + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
    ids = np.argpartition(logits, -most)[-most:] if 0 < most < len(logits) else np.arange(len(logits))[:most]
    best = ids[np.argsort(-logits[ids], kind="stable")]

    def logprob(one: int) -> float:
        return max(float(logits[one]) - total, _LEAST_LOGPROB)

    return logprob(token), [(int(one), logprob(int(one))) for one in best]
