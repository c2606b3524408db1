"""Checks what a caller passes to `create` and `route`, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from router.bounds import check_bounds, listed
from router.discreet import discreet_refusal
from router.errors import ConfigurationError, InvalidRequestError, nearest, shown
from router.extras import CREDENTIALS, check_extra_body, checked_headers, checked_query
from router.fields import CHECKS, TRANSPORT_FIELDS
from router.options import RoutingOptions
from router.request import ChatRequest, JSONObject

__all__ = ["ParsedRequest", "parse_request"]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
PARTS = ("text", "image_url", "input_audio", "file", "refusal")

_KNOWN = frozenset({"messages", "model", "stream", "stream_options", "routing", *TRANSPORT_FIELDS, *CHECKS})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request, the model it names (`auto` lets the router choose) and its options."""

    request: ChatRequest
    model: str
    options: RoutingOptions


def parse_request(arguments: Mapping[str, object], *, private: bool = False) -> ParsedRequest:
    """Checks the arguments of one `create` or `route`.

    Args:
        arguments: As they were passed.
        private: Whether every request is private, whatever it says itself.

    Raises:
        InvalidRequestError: naming the field, the value and the nearest valid choice; of a private request
            the field alone.
    """
    try:
        return _parsed(arguments)
    except InvalidRequestError as error:
        if error.field == "routing.privacy" or not (private or _may_be_private(arguments)):
            raise
        problem = discreet_refusal(error)
    raise problem


def _may_be_private(arguments: Mapping[str, object]) -> bool:
    """Whether the request says so; one that says it wrongly is taken to mean it."""
    body = arguments.get("extra_body")
    for options in (arguments.get("routing"), body.get("routing") if isinstance(body, Mapping) else None):
        said = options.get("privacy") if isinstance(options, Mapping) else getattr(options, "privacy", None)
        if said is not None and said != "any":
            return True
    return False


def _parsed(arguments: Mapping[str, object]) -> ParsedRequest:
    given = {name: value for name, value in arguments.items() if value is not None and not _is_omitted(value)}
    for name in ("messages", "tools", "functions"):
        if name in given:
            given[name] = listed(name, given[name])
    check_bounds(given)
    for name, value in given.items():
        if name not in _KNOWN:
            raise _unknown_field(name, value)
    extra_body = dict(_mapping(given, "extra_body"))
    options = _options(given.get("routing"), extra_body.pop("routing", None), given.get("timeout"))
    check_extra_body(extra_body, _KNOWN)
    params = {}
    for name, check in CHECKS.items():
        if name in given:
            params[name] = check(name, given[name])
    _check_tool_choice(params)
    if "messages" not in given:
        raise InvalidRequestError("messages: a list of messages is needed", field="messages")
    stream = _flag(given, "stream")
    request = ChatRequest(
        messages=_messages(given["messages"]),
        params=params,
        stream=stream,
        include_usage=_include_usage(given.get("stream_options"), stream=stream),
        extra_headers=checked_headers(_mapping(given, "extra_headers")),
        extra_query=checked_query(_mapping(given, "extra_query")),
        extra_body=extra_body,
    )
    model = given.get("model", "auto")
    if not isinstance(model, str):
        raise InvalidRequestError(
            f"model = {shown(model)}: a name, or 'auto'", field="model", value=shown(model)
        )
    return ParsedRequest(request=request, model=model, options=options)


def _is_omitted(value: object) -> bool:
    """Whether a value is one of openai's sentinels for an argument that was not given."""
    kind = type(value)
    return kind.__name__ in ("Omit", "NotGiven") and kind.__module__.startswith("openai")


def _unknown_field(name: str, value: object) -> InvalidRequestError:
    if name in CREDENTIALS:
        return InvalidRequestError(
            f"{name}: no request can set credentials or a base URL; declare them on the model", field=name
        )
    # A field of another name may hold anything, a key or a prompt too: text is not shown.
    text = shown(value) if isinstance(value, bool | int | float) else ""
    said = f" = {text}" if text else ""
    name = name[:100]
    return InvalidRequestError(f"{name}{said}: no such field{nearest(name, _KNOWN)}", field=name, value=text)


def _flag(given: Mapping[str, object], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} = {shown(value)}: true or false", field=name, value=shown(value))
    return value


def _mapping(given: Mapping[str, object], name: str) -> JSONObject:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name}: a mapping is needed, not {type(value).__name__}", field=name)
    return value


def _check_tool_choice(params: JSONObject) -> None:
    """A forced choice must be among the tools."""
    choice, tools = params.get("tool_choice"), params.get("tools")
    if choice is None or choice in ("auto", "none"):
        return
    if not isinstance(tools, list) or not tools:
        raise InvalidRequestError(
            f"tool_choice = {shown(choice)}: only with tools", field="tool_choice", value=shown(choice)
        )
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    body = choice.get(kind) if isinstance(choice, Mapping) and kind in ("function", "custom") else None
    if isinstance(choice, Mapping) and kind != "allowed_tools":
        names = [tool[tool["type"]]["name"] for tool in tools]
        name = body.get("name") if isinstance(body, Mapping) else None
        if name not in names:
            field = f"tool_choice.{kind}.name" if isinstance(body, Mapping) else "tool_choice"
            text = shown(name if isinstance(body, Mapping) else choice)
            raise InvalidRequestError(
                f"{field} = {text}: no such tool{nearest(name, names)}", field=field, value=text
            )


def _include_usage(options: object, *, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise InvalidRequestError("stream_options: only with stream=True", field="stream_options")
    if not isinstance(options, Mapping):
        raise InvalidRequestError("stream_options: a mapping is needed", field="stream_options")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise InvalidRequestError(
                f"stream_options.{name}: no such option{nearest(str(name), ['include_usage'])}",
                field=f"stream_options.{name}",
            )
    return bool(options.get("include_usage", False))


def _options(argument: object, in_body: object, timeout: object) -> RoutingOptions:
    """The routing options; `routing=` wins over `extra_body`, both over `timeout=`."""
    merged: dict[str, object] = {}
    if timeout is not None:
        merged["deadline"] = _timeout_seconds(timeout)
    for source, name in ((in_body, "extra_body.routing"), (argument, "routing")):
        if isinstance(source, RoutingOptions):
            merged.update(source.model_dump(exclude_unset=True, exclude_none=True))
        elif isinstance(source, Mapping):
            merged.update({key: value for key, value in source.items() if value is not None})
        elif source is not None:
            raise InvalidRequestError(f"{name}: RoutingOptions or a mapping is needed", field=name)
    if isinstance(argument, RoutingOptions) and in_body is None and timeout is None:
        return argument
    if merged.get("privacy") == "any" and _may_be_private({"routing": in_body}):
        merged["privacy"] = "private"  # `routing=` wins, but it makes nothing less private
    try:
        return RoutingOptions.parse(merged) if merged else _NO_OPTIONS
    except ConfigurationError as error:
        field = f"routing.{error.field}" if error.field else "routing"
        raise InvalidRequestError(str(error), field=field, value=error.value) from None


_NO_OPTIONS = RoutingOptions()

#: As much as every clock and every time-out of an operating system can hold: thirty years.
MOST_SECONDS = 1e9


def _timeout_seconds(timeout: object) -> float:
    """`timeout=` as seconds: a number, or an httpx2.Timeout, whose read time-out is taken."""
    seconds = getattr(timeout, "read", timeout)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MOST_SECONDS:
        raise InvalidRequestError(
            f"timeout = {shown(timeout)}: seconds above 0", field="timeout", value=shown(timeout)
        )
    return float(seconds)


def _messages(messages: object) -> list[JSONObject]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InvalidRequestError(
            f"messages: a list of messages is needed, not {type(messages).__name__}", field="messages"
        )
    checked = [_message(place, message) for place, message in enumerate(messages)]
    if not checked:
        raise InvalidRequestError("messages: at least one message is needed", field="messages", value="[]")
    return checked


def _message(place: int, message: object) -> JSONObject:
    if not isinstance(message, Mapping):
        dump = cast("Callable[..., JSONObject] | None", getattr(message, "model_dump", None))
        if dump is None:
            raise InvalidRequestError(
                f"messages.{place}: a mapping is needed, not {type(message).__name__}",
                field=f"messages.{place}",
            )
        message = dump(exclude_none=True)  # an answer's own message, sent back as history
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(
            f"messages.{place}.role = {shown(role)}: no such role{nearest(role, ROLES)}",
            field=f"messages.{place}.role",
            value=shown(role),
        )
    content = message.get("content")
    if not isinstance(content, str):
        _content(place, role, content)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidRequestError(
            f"messages.{place}.tool_call_id: a tool's answer names its call",
            field=f"messages.{place}.tool_call_id",
        )
    return message


def _content(place: int, role: str, content: object) -> None:
    where = f"messages.{place}.content"
    if content is None:
        if role != "assistant":
            raise InvalidRequestError(
                f"{where}: text or a list of parts is needed", field=where, value="None"
            )
        return
    if not isinstance(content, list | tuple):
        raise InvalidRequestError(
            f"{where}: text or a list of parts is needed, not {type(content).__name__}", field=where
        )
    if not content:
        raise InvalidRequestError(f"{where}: at least one part is needed", field=where, value="[]")
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in PARTS:
            raise InvalidRequestError(
                f"{where}.{number}.type = {shown(kind)}: no such part{nearest(kind, PARTS)}",
                field=f"{where}.{number}.type",
                value=shown(kind),
            )
        _part_body(f"{where}.{number}.{kind}", kind, part.get(kind))


def _part_body(where: str, kind: str, body: object) -> None:
    if kind in ("text", "refusal"):
        if not isinstance(body, str):
            raise InvalidRequestError(f"{where}: text is needed", field=where)
    elif not isinstance(body, Mapping):
        raise InvalidRequestError(f"{where}: a mapping is needed", field=where)
    elif kind == "image_url" and not isinstance(body.get("url"), str):
        raise InvalidRequestError(f"{where}.url: text is needed", field=f"{where}.url")
