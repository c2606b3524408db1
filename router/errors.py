"""Every error that this library raises.

::

    RouterError
    ├── ConfigurationError          what the router was built from is wrong
    ├── InvalidRequestError         what it was asked is wrong (also a ValueError)
    ├── NoEligibleModelError        no model may take the request; every model with its reason
    │   └── BudgetExceededError     ... and money was the reason
    ├── OverloadedError             there is no room for the request now
    ├── DeadlineExceededError       the request's time is over
    ├── AllModelsFailedError        models were tried; every cause
    ├── RouterClosedError           the router was closed
    ├── StreamInterruptedError      a stream broke after its first token; the partial text
    └── ModelError                  one attempt on one model failed
        ├── ModelHTTPError          the backend answered with an error status
        ├── ModelConnectionError    no connection, or it broke
        ├── ModelTimeoutError       no answer in time
        ├── ModelProtocolError      the backend answered nonsense
        ├── ContextWindowExceededError
        └── ModelLoadError          a local model cannot be loaded
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from router.remedies import remedies

if TYPE_CHECKING:
    from router.decision import Decision
    from router.usage import Usage

__all__ = [
    "AllModelsFailedError",
    "BudgetExceededError",
    "ConfigurationError",
    "ContextWindowExceededError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "ModelConnectionError",
    "ModelError",
    "ModelHTTPError",
    "ModelLoadError",
    "ModelProtocolError",
    "ModelTimeoutError",
    "NoEligibleModelError",
    "OverloadedError",
    "RouterClosedError",
    "RouterError",
    "StreamInterruptedError",
    "nearest",
    "shown",
]


class RouterError(Exception):
    """The base of all errors of this library.

    Attributes:
        decision: The decision behind the request, once there is one.
    """

    decision: Decision | None = None


class ConfigurationError(RouterError):
    """Something the router is built from is wrong; nothing was built.

    Attributes:
        field: Where it is, as a dotted path (`models.2.price.input`); empty if it is no field.
        value: The value as text; empty when it could be a secret.
    """

    def __init__(self, message: str, *, field: str = "", value: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class InvalidRequestError(RouterError, ValueError):
    """A request that no model could answer as it stands.

    Attributes:
        field: The request's field, as a dotted path (`messages.0.role`).
        value: The value as text; empty when it could be private.
    """

    def __init__(self, message: str, *, field: str = "", value: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class NoEligibleModelError(RouterError):
    """No model meets what the request and the policy demand.

    Attributes:
        reasons: For every model, by name, why it was rejected.
    """

    def __init__(self, message: str, *, reasons: Mapping[str, str], decision: Decision | None = None) -> None:
        listing = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
        ways_out = "".join(f"\n  {remedy}" for remedy in remedies(reasons.values()))
        super().__init__(message + listing + (f"\nwhat helps:{ways_out}" if ways_out else ""))
        self.reasons = dict(reasons)
        self.decision = decision


class BudgetExceededError(NoEligibleModelError):
    """No model fits into the money that is left.

    Attributes:
        ends_at: Unix time at which the first of the periods ends whose budgets have no room; None if none
            does, or it is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: Mapping[str, str],
        decision: Decision | None = None,
        ends_at: float | None = None,
    ) -> None:
        super().__init__(message, reasons=reasons, decision=decision)
        self.ends_at = ends_at


class OverloadedError(RouterError):
    """There is no room for the request now; try again later.

    Attributes:
        retry_after: Seconds until there may be room; None if unknown.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(RouterError):
    """The request's deadline passed; whatever was running for it was stopped.

    Attributes:
        deadline: Seconds that the request had in all.
        causes: Errors of the attempts that had failed before, in order.
    """

    def __init__(self, deadline: float, *, causes: Sequence[ModelError] = ()) -> None:
        listing = "".join(f"\n  {cause.model}: {cause}" for cause in causes)
        failed = f"; attempts that had failed before:{listing}" if causes else ""
        super().__init__(f"the deadline of {deadline:g} s passed without an answer{failed}")
        self.deadline = deadline
        self.causes = tuple(causes)


class AllModelsFailedError(RouterError):
    """Every model that could be tried failed.

    Attributes:
        causes: The error of every attempt, in order.
    """

    def __init__(self, causes: Sequence[ModelError], *, note: str = "") -> None:
        listing = "".join(f"\n  {cause.model}: {cause}" for cause in causes)
        super().__init__(
            f"all attempts failed{f' ({note})' if note else ''}:{listing or ' none was possible'}"
        )
        self.causes = tuple(causes)


class RouterClosedError(RouterError):
    """The router was closed; build a new one."""

    def __init__(self, message: str = "this router is closed; build a new one") -> None:
        super().__init__(message)


class StreamInterruptedError(RouterError):
    """A stream broke after its first visible token was handed on.

    Attributes:
        text: The content delivered so far.
        usage: Tokens used so far, as far as known.
    """

    def __init__(self, message: str, *, text: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.text = text
        self.usage = usage


class ModelError(RouterError):
    """One attempt on one model failed.

    Attributes:
        model: The model's name.
        code: What kind of failure it is, in one word for programs; None if nobody says.
    """

    def __init__(self, message: str, *, model: str, code: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.code = code


class ModelHTTPError(ModelError):
    """The backend answered with an error status.

    Attributes:
        status_code: The HTTP status.
        retry_after: Seconds that the backend asks to wait; None if it does not say.
        code: The backend's own error code (`insufficient_quota`, ...); None if it gives none.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str,
        status_code: int,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, model=model, code=code)
        self.status_code = status_code
        self.retry_after = retry_after


class ModelConnectionError(ModelError):
    """The backend cannot be reached, or the connection broke."""


class ModelTimeoutError(ModelError):
    """The backend did not answer in time.

    Attributes:
        timeout: Seconds it was given; None if the backend gave up by itself.
    """

    def __init__(self, message: str, *, model: str, timeout: float | None = None) -> None:
        super().__init__(message, model=model)
        self.timeout = timeout


class ModelProtocolError(ModelError):
    """The backend answered, but not with what it should: HTML, a truncated stream, a huge body, ..."""


class ContextWindowExceededError(ModelError):
    """The prompt does not fit into the model's context window.

    Attributes:
        tokens: Prompt tokens; None if the backend did not say.
        window: Tokens that fit; None if the backend did not say.
    """

    def __init__(
        self, message: str, *, model: str, tokens: int | None = None, window: int | None = None
    ) -> None:
        super().__init__(message, model=model)
        self.tokens = tokens
        self.window = window


class ModelLoadError(ModelError):
    """A local model cannot be loaded: no file, a corrupt file, no memory, a process that forked.

    Attributes:
        retry_after: Seconds after which loading it is tried again; None if only a person can change that.
    """

    def __init__(
        self, message: str, *, model: str, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, model=model, code=code)
        self.retry_after = retry_after


def nearest(word: object, choices: Iterable[str]) -> str:
    """A hint for an error text: `; did you mean 'x'?`, or else the choices, or else nothing."""
    known = [str(choice) for choice in choices]
    # Cut, since it may be of any length: comparing takes time that grows with it.
    close = difflib.get_close_matches(word[:200] if isinstance(word, str) else shown(word), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if known and len(known) <= 16:  # noqa: PLR2004 - a list longer than this helps nobody
        return f"; one of {', '.join(sorted(known))}"
    return ""


def shown(value: object, most: int = 60) -> str:
    """A value as a caller passed it, as one line of an error text of at most so many characters."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever a caller's object does: it must not replace the error itself
        return f"({type(value).__name__})"
    return text if len(text) <= most else text[: most - 3] + "..."
