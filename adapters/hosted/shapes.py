"""The types of an answer's fields. The SDK hands on whatever JSON holds, so they are checked here.

What hosts leave out, or send null for, is let through: half of them do. What is there must be of its kind: a
program that reads `message.refusal` must find a text or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["odd_choice_field", "odd_delta_field", "odd_frame_field", "odd_message_field"]

Check = Callable[[object], bool]


def _text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _object(value: object) -> bool:
    """A JSON object: the SDK makes one of its own types of it, or leaves a dict."""
    return value is None or isinstance(value, Mapping) or hasattr(value, "__pydantic_fields_set__")


def _list(value: object) -> bool:
    return value is None or isinstance(value, list)


def _number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _place(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _function(value: object) -> bool:
    """A called function, or a piece of one."""
    return _object(value) and all(_text(_get(value, name)) for name in ("name", "arguments"))


def _whole_function(value: object) -> bool:
    return value is None or all(isinstance(_get(value, name), str) for name in ("name", "arguments"))


def _logprobs(value: object) -> bool:
    return _object(value) and all(_list(_get(value, name)) for name in ("content", "refusal"))


def _calls(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_whole_call, value)))


def _whole_call(call: object) -> bool:
    function = _get(call, "function")
    named = _text(_get(call, "id")) and _text(_get(call, "type"))
    if function is None:
        return named and _get(call, "custom") is not None and _object(_get(call, "custom"))
    return named and _whole_function(function)


def _call_pieces(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(_call_piece, value)))


def _call_piece(call: object) -> bool:
    if call is None or not _object(call):
        return False
    told = [_get(call, name) for name in ("id", "function", "custom")]
    name, function, custom = told
    return (
        any(one is not None for one in told)
        and _text(name)
        and _text(_get(call, "type"))
        and _place(_get(call, "index"))
        and _function(function)
        and _object(custom)
    )


_FRAME: dict[str, Check] = {
    "id": _text,
    "object": _text,
    "created": _number,
    "model": _text,
    "system_fingerprint": _text,
    "service_tier": _text,
}
_CHOICE: dict[str, Check] = {"index": _place, "logprobs": _logprobs}
_SAID: dict[str, Check] = {
    "role": _text,
    "content": _text,
    "refusal": _text,
    "reasoning_content": _text,
    "reasoning": _text,
    "audio": _object,
}
_MESSAGE: dict[str, Check] = {
    **_SAID,
    "tool_calls": _calls,
    "function_call": _whole_function,
    "annotations": _list,
}
_DELTA: dict[str, Check] = {**_SAID, "tool_calls": _call_pieces, "function_call": _function}
#: A delta with nothing but this needs no look at its other fields.
_PLAIN = {"content"}


def _get(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _odd(value: object, checks: Iterable[tuple[str, Check]]) -> str | None:
    return next((name for name, right in checks if not right(getattr(value, name, None))), None)


def odd_frame_field(answer: ChatCompletion | ChatCompletionChunk) -> str | None:
    """The first field around the choices that is not of its kind; None if all are.

    Seconds with a fraction, which some hosts tell, are made whole.
    """
    odd = _odd(answer, _FRAME.items())
    if odd is None and isinstance(answer.created, float):
        try:
            answer.created = int(answer.created)
        except (OverflowError, ValueError):  # infinity, or no number
            return "created"
    return odd


def odd_choice_field(choice: object) -> str | None:
    """The first field of a choice, beside what it says, that is not of its kind."""
    return _odd(choice, _CHOICE.items())


def odd_message_field(message: object) -> str | None:
    """The first field of a message that is not of its kind; a text or a list in its place is "message"."""
    return _odd(message, _MESSAGE.items()) if _object(message) else "message"


def odd_delta_field(delta: object) -> str | None:
    """The first field of a delta that is not of its kind; a text or a list in its place is "delta"."""
    fields: set[str] | None = getattr(delta, "__pydantic_fields_set__", None)
    if fields is None:
        return None if delta is None else "delta"
    if fields <= _PLAIN and not getattr(delta, "__pydantic_extra__", None):
        return None if _text(getattr(delta, "content", None)) else "content"
    return _odd(delta, _DELTA.items())
