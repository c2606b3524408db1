"""From what a host said to the errors of this library. It knows nothing of the SDK."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import cast

from adapters.hosted.context import context_overflow
from adapters.hosted.credentials import mask
from router.errors import ContextWindowExceededError, ModelError, ModelHTTPError

__all__ = ["error_in_answer", "filtered", "http_error", "retry_after", "shortened"]

_MOST_CHARACTERS = 300
_BAD_GATEWAY = 502
_TOO_MANY = 429

#: What an error that came without a status of its own stands for.
_STATUS_OF_CODE = {
    "authentication_error": 401,
    "billing_hard_limit_reached": 402,
    "content_filter": 400,
    "content_policy_violation": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
}


def shortened(text: str) -> str:
    """A host's text as part of an error text: one line, no keys, at most 300 characters."""
    line = " ".join(mask(text[: 20 * _MOST_CHARACTERS]).split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


def http_error(status: int, headers: Mapping[str, str], body: object, *, model: str) -> ModelError:
    """The error for an HTTP error status.

    Args:
        status: The status.
        headers: The response's, case-insensitive.
        body: Its body: parsed JSON, or text, or None.
        model: The model's name.
    """
    return _error(status, _error_object(body), _text(body), retry_after(status, headers), model)


def error_in_answer(error: object, *, model: str) -> ModelError:
    """The error for an error object that came with status 200, or in a stream."""
    fields = _error_object({"error": error})
    return _error(_status_of(fields), fields, _text({"error": error}), None, model)


def filtered(*, model: str) -> ModelHTTPError:
    """The error for an answer of which a content filter left nothing; another model may answer."""
    return ModelHTTPError(
        "the host's content filter left nothing of the answer",
        model=model,
        status_code=400,
        code="content_filter",
    )


def _error(
    status: int, fields: Mapping[str, object], text: str, wait: float | None, model: str
) -> ModelError:
    code = _code(fields)
    code = code and shortened(code)
    overflow = context_overflow(status, code, text, fields)
    if overflow is not None:
        return ContextWindowExceededError(
            shortened(text), model=model, tokens=overflow[0], window=overflow[1]
        )
    label = f"HTTP {status}" + (f" ({code})" if code else "")
    return ModelHTTPError(
        f"{label}: {shortened(text)}" if text else label,
        model=model,
        status_code=status,
        retry_after=wait,
        code=code,
    )


def _error_object(body: object) -> Mapping[str, object]:
    """The error object of a body: OpenAI nests it, others do not, Google wraps it in a list."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error", body)
    return cast("Mapping[str, object]", inner if isinstance(inner, Mapping) else body)


def _text(body: object) -> str:
    """The message in a body, wherever the host puts it."""
    if isinstance(body, str):
        return "(a web page)" if body.lstrip()[:1] == "<" else body
    fields = _error_object(body)
    for name in ("message", "detail", "msg", "error", "error_message"):
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
    return json.dumps(fields, ensure_ascii=False, default=str) if fields else ""


def _code(fields: Mapping[str, object]) -> str | None:
    """The host's most telling code: a word rather than a number."""
    found = [str(fields[name]) for name in ("code", "type", "status") if fields.get(name) not in (None, "")]
    words = [code for code in found if not code.isdigit()]
    return next(iter(words or found), None)


def _status_of(fields: Mapping[str, object]) -> int:
    for name in ("code", "status", "status_code", "type"):
        value = fields.get(name)
        if isinstance(value, int | str) and str(value).isdigit() and 400 <= int(value) < 600:  # noqa: PLR2004 - HTTP
            return int(value)
        if isinstance(value, str) and value in _STATUS_OF_CODE:
            return _STATUS_OF_CODE[value]
    return _BAD_GATEWAY


def retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that the host asks to wait; None if it does not say, or says nonsense."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    if told is not None:
        seconds = _seconds(told)
        return seconds if seconds is not None else _until(told, headers.get("date"))
    if status != _TOO_MANY:
        return None
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
            return _duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
    return None


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def _until(date: str, now: str | None) -> float | None:
    """Seconds until an HTTP date, by the host's own clock if it tells the time."""
    try:
        then = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        current = parsedate_to_datetime(now or "").timestamp()
    except (ValueError, OverflowError):
        current = time.time()
    return max(0.0, then - current)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def _duration(text: str) -> float | None:
    """OpenAI's way to write a duration: `6m0s`, `120ms`."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return _seconds(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
