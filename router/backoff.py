"""How long to wait before asking the same model again. The only place that imports tenacity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from router.failures import QUEUE_FULL, judge

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from router.errors import ModelError

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "Backoff"]

#: Seconds before the first repetition, at most; it doubles with each.
FIRST_WAIT = 0.25
#: Seconds between two attempts at most, unless the backend asks for more.
LONGEST_WAIT = 8.0
#: Attempts on a model whose queue is full.
MOST_WHILE_FULL = 2


class Backoff:
    """tenacity's wait and stop strategies, without its loop: `router.attempts` drives the attempts.

    Waits are random up to a doubling bound ("full jitter": AWS Architecture Blog, "Exponential Backoff And
    Jitter", 2015), and never shorter than what the backend asks for.
    """

    def __init__(self, max_attempts: int) -> None:
        from tenacity import stop_after_attempt, wait_exception, wait_random_exponential

        self._jitter = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
        self._asked = wait_exception(_asked_for)
        self._stop = stop_after_attempt(max_attempts)

    def wait(self, attempts: int, error: ModelError) -> float:
        """Seconds to wait after so many attempts on one model, the last of which failed with `error`.

        Infinite for a full queue that was full before: whoever asks is told so rather than kept waiting.
        """
        if error.code == QUEUE_FULL and attempts >= MOST_WHILE_FULL:
            return math.inf
        state = _state(max(attempts, 1), error)
        return float(max(self._jitter(state), self._asked(state)))

    def spent(self, attempts: int) -> bool:
        """Whether so many attempts are all that a request may make."""
        return bool(self._stop(_state(attempts, None)))


def _asked_for(error: BaseException) -> float:
    from router.errors import ModelError

    return (judge(error).retry_after or 0.0) if isinstance(error, ModelError) else 0.0


def _state(attempts: int, error: ModelError | None) -> RetryCallState:
    """Tenacity's view of an attempt."""
    from tenacity import AsyncRetrying, RetryCallState

    state = RetryCallState(retry_object=AsyncRetrying(), fn=None, args=(), kwargs={})
    state.attempt_number = attempts
    if error is not None:
        state.set_exception((type(error), error, error.__traceback__))
    return state
