"""What a failed attempt means: whether the same model may heal, and how long it should be left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.errors import (
    ContextWindowExceededError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
)

__all__ = [
    "BAD_TEMPLATE",
    "CRASHED",
    "KNOWN_CODES",
    "QUEUE_FULL",
    "UNSENT",
    "Failure",
    "judge",
    "may_be_billed",
]

#: The code of an engine's error when its queue takes no more: it is well, and there is room a little later.
QUEUE_FULL = "queue_full"
#: The code of an engine's errors when its own process ended: one crash fails all its requests, and whoever
#: starts that process again sees to it that it does not crash for ever.
CRASHED = "crashed"
#: The code of errors of a chat template: it would do the same again.
BAD_TEMPLATE = "chat_template"
#: The code of errors of requests that never reached a backend: nobody can bill them.
UNSENT = "unsent"

#: Seconds that a model is left alone when only a person can heal it: a wrong key, no money, no such model.
LONG_COOLDOWN = 300.0
#: Seconds that a backend can have itself left alone at most: a header may be a mistake, and must not shut a
#: model for the life of a process.
MOST_COOLDOWN = 3600.0

#: Statuses that mean the model is unusable until a person acts.
_BROKEN_STATUSES = frozenset({401, 402, 403, 404})
_BROKEN_CODES = frozenset(
    {
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
        "account_deactivated",
        "billing_hard_limit_reached",
    }
)
#: Codes that anything is decided by, or that say what everybody knows: none of them is a word of a prompt.
KNOWN_CODES = _BROKEN_CODES | {
    QUEUE_FULL,
    CRASHED,
    BAD_TEMPLATE,
    UNSENT,
    "content_filter",
    "context_length_exceeded",
    "invalid_request_error",
    "invalid_schema",
    "missing_api_key",
    "rate_limit_exceeded",
    "server_error",
    "unsupported",
}
#: Statuses that may heal by waiting, besides all from 500 on.
_HEALING_STATUSES = frozenset({408, 409, 425, 429})
#: Statuses of a host that has too much to do. Beyond a limit it will let nobody in before its time, so that a
#: Retry-After holds for all requests; but one that is merely full takes the next as soon as it has answered
#: one, and to leave it alone for whole seconds would waste what it can do.
_SHEDDING_STATUSES = frozenset({429, 503, 529})
_LIMITED_STATUS = 429
#: Statuses from 500 on that say "this will never work".
_HOPELESS_STATUSES = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class Failure:
    """A judged error.

    Attributes:
        heals: Whether the same model may answer if asked again.
        retry_after: Seconds the backend asks to wait, above 0; None if it does not say.
        blames_model: Whether the model's health suffers; not if the request itself was at fault.
        shut_for: Seconds to leave the model alone at once; None to leave that to the count of failures.
        spare_for: Seconds to ask others rather than the model, if there are others; None: as `shut_for`.
        sheds: Whether the model is alive, and has too much to do for now: others it may answer.
    """

    heals: bool
    retry_after: float | None = None
    blames_model: bool = True
    shut_for: float | None = None
    spare_for: float | None = None
    sheds: bool = False


def judge(error: ModelError) -> Failure:
    """What an attempt's error means."""
    if isinstance(error, ContextWindowExceededError):
        return Failure(heals=False, blames_model=False)
    if isinstance(error, ModelHTTPError):
        return _judge_status(error)
    if error.code == CRASHED:
        return Failure(heals=True, blames_model=False)
    if isinstance(error, ModelLoadError):
        return Failure(heals=False, shut_for=_asked(error.retry_after) or LONG_COOLDOWN)
    if error.code == BAD_TEMPLATE:
        return Failure(heals=False)
    return Failure(heals=True)  # no connection, no answer in time, nonsense


def may_be_billed(error: ModelError) -> bool:
    """Whether a host may have written, and bill, an answer that was lost on its way.

    Hosts bill neither for errors that they tell nor for answers that they never come to.
    """
    return isinstance(error, ModelConnectionError | ModelProtocolError) and error.code != UNSENT


def _judge_status(error: ModelHTTPError) -> Failure:
    status = error.status_code
    if error.code in _BROKEN_CODES or status in _BROKEN_STATUSES:
        return Failure(heals=False, shut_for=LONG_COOLDOWN)
    asked = _asked(error.retry_after)
    if error.code == QUEUE_FULL:
        return Failure(heals=True, retry_after=asked, blames_model=False)
    if status in _SHEDDING_STATUSES:
        wait = asked and min(asked, MOST_COOLDOWN)
        if status == _LIMITED_STATUS:
            return Failure(heals=True, retry_after=asked, shut_for=wait, sheds=True)
        return Failure(heals=True, retry_after=asked, spare_for=wait, sheds=True)
    if status in _HEALING_STATUSES or (status >= 500 and status not in _HOPELESS_STATUSES):  # noqa: PLR2004
        return Failure(heals=True, retry_after=asked)
    return Failure(heals=False, blames_model=False)  # 400, 413, 422, content filters: the request's fault


def _asked(seconds: float | None) -> float | None:
    """A wait that a backend asks for; None if it asks for none ("at once" is none) or for nonsense."""
    return seconds if seconds is not None and seconds > 0 and not math.isnan(seconds) else None
