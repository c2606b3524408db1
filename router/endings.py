"""The error that a caller gets when no attempt was answered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.actions import Ending
from router.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    DeadlineExceededError,
    ModelError,
    ModelHTTPError,
    OverloadedError,
    RouterError,
)
from router.failures import QUEUE_FULL
from router.paying import BudgetRefusedError

__all__ = ["error_of"]


def error_of(
    ending: Ending,
    *,
    causes: Sequence[ModelError],
    refusals: Sequence[ModelError],
    deadline: float,
    free_in: float,
) -> RouterError:
    """The error for an ending.

    Args:
        ending: Why the request fails.
        causes: The errors of the attempts that were made, in order.
        refusals: Why attempts were not even made, in order.
        deadline: Seconds that the request had in all.
        free_in: Seconds until the first rate limit lets a request go; infinite if none is known to.
    """
    if ending is Ending.DEADLINE:
        return DeadlineExceededError(deadline, causes=causes)
    if ending is Ending.REFUSED:
        return _refusal(refusals, free_in)
    if ending is Ending.CANCELLED:
        return RouterError("the request was cancelled")
    if causes and all(_is_full(cause) for cause in causes):
        busy: RouterError = OverloadedError("the queue of every model that may answer is full")
        busy.__cause__ = causes[-1]
        return busy
    error = AllModelsFailedError(causes)
    error.__cause__ = causes[-1] if causes else None
    return error


def _is_full(error: ModelError) -> bool:
    return isinstance(error, ModelHTTPError) and error.code == QUEUE_FULL


def _refusal(refusals: Sequence[ModelError], free_in: float) -> RouterError:
    budget = [error for error in refusals if isinstance(error, BudgetRefusedError)]
    if budget:
        ends = [at for error in budget if (at := error.refusal.ends_at) is not None]
        return BudgetExceededError(
            "the budget has no room for this request"
            if any(error.refusal.budget is not None for error in budget)
            else "no budget can be checked now, and what cannot be booked is not spent",
            reasons={error.model: str(error) for error in budget},
            ends_at=min(ends, default=None),
        )
    if refusals:
        return AllModelsFailedError(refusals, note="every eligible model is failing and left alone for now")
    known = free_in < math.inf
    return OverloadedError(
        "every model that may answer is at its rate limit" + (f" for {free_in:.1f} s" if known else ""),
        retry_after=free_in if known else None,
    )
