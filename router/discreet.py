"""Errors of private requests without the words of whoever was asked: a host may quote the prompt in them.

An error goes further than its request: into logs and traces, into the ledger, into the error of the next
request that finds the model shut. So of a private request's errors only what is said in figures, and in codes
that are known, is kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from router import errors
from router.errors import (
    ContextWindowExceededError,
    InvalidRequestError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
)
from router.failures import KNOWN_CODES

if TYPE_CHECKING:
    from router.routing import Routing

__all__ = ["as_told", "discreet", "discreet_refusal", "refusal_as_told"]

_OUR_ADAPTERS = ("hosted", "local")
#: What may be kept of an error: figures.
_FIGURES = ("status_code", "retry_after", "timeout", "tokens", "window")
#: In our own texts, all that comes from outside stands in brackets or quotes, or after a colon.
_OURS = re.compile(r"""[^('"`<{\[:…]*""")
#: Fields in which names are the caller's own words.
_OF_THE_CALLERS_NAMES = frozenset({"metadata", "logit_bias", "extra_headers", "extra_query", "extra_body"})
_NOT_SHOWN = "its words are not shown: the request is private"


def as_told(routing: Routing, place: int, error: ModelError) -> ModelError:
    """An adapter's error as it may be told: as it is, unless the request is private."""
    if not routing.rules.private:
        return error
    return discreet(error, ours=routing.fleet.models[place].adapter in _OUR_ADAPTERS)


def refusal_as_told(routing: Routing, error: InvalidRequestError) -> InvalidRequestError:
    """An adapter's complaint about a request: as it is, unless the request is private."""
    return discreet_refusal(error) if routing.rules.private else error


def discreet(error: ModelError, *, ours: bool) -> ModelError:
    """The same failure, by all that the router goes by, without foreign words, cause or traceback.

    Args:
        error: What an adapter raised.
        ours: Whether that adapter is one of this library: where foreign words stand in its texts is known.
    """
    kind = _kind(type(error))
    told = kind.__new__(kind)
    told.model = error.model
    told.code = error.code if error.code in KNOWN_CODES else None
    for name in _FIGURES:
        if hasattr(error, name):
            figure = getattr(error, name)
            setattr(told, name, figure if isinstance(figure, int | float) else None)
    told.args = (_text(error, told.code, ours=ours),)
    return told


def _kind(kind: type[ModelError]) -> type[ModelError]:
    """The first of its classes that is of this library: others may say more than figures."""
    bases = (base for base in kind.__mro__ if issubclass(base, ModelError))
    return next(base for base in bases if base.__module__ == errors.__name__)


def _text(error: ModelError, code: str | None, *, ours: bool) -> str:
    if ours and isinstance(error, ModelLoadError):
        return str(error)  # it is about a file: nobody was sent anything
    if isinstance(error, ContextWindowExceededError):
        return f"the prompt does not fit into the model's context window; {_NOT_SHOWN}"
    if isinstance(error, ModelHTTPError):
        return f"HTTP {error.status_code}{f' ({code})' if code else ''}; {_NOT_SHOWN}"
    found = _OURS.match(str(error)) if ours else None
    begun = found[0].rstrip(" ,;") if found else "it failed"
    return f"{begun}; {_NOT_SHOWN}" if begun != str(error) else begun


def discreet_refusal(error: InvalidRequestError) -> InvalidRequestError:
    """The same complaint about a private request, without the value it is about and without a guess at it."""
    text, field = str(error), error.field
    if error.value:
        text = text.replace(f" = {error.value}", "", 1).replace(error.value, "(not shown)")
    for guess in ("; did you mean", "; one of"):
        text = text.partition(guess)[0]
    top = field.partition(".")[0]
    if top in _OF_THE_CALLERS_NAMES:
        text, field = text.replace(field, top), top
    return InvalidRequestError(text, field=field)
