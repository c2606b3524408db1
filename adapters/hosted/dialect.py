"""A request in the words of the host that it goes to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from router.adapter import Call
from router.catalogue.providers import Provider
from router.errors import InvalidRequestError
from router.models import HostedModel
from router.request import ChatRequest, JSONObject

__all__ = ["Outgoing", "check_sendable", "outgoing"]

#: Headers that a request may not set: they authorise, or they frame the message.
_NOT_THE_CALLERS = frozenset(
    {
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "openai-organization",
        "openai-project",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    }
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes to the host.

    Attributes:
        body: The JSON body.
        headers: Headers to add; no credentials.
        query: Query parameters to add.
        seconds: What the host has in all; None if there is no limit.
    """

    body: dict[str, object]
    headers: dict[str, str]
    query: dict[str, object]
    seconds: float | None


def outgoing(call: Call, model: HostedModel, provider: Provider, *, stream: bool) -> Outgoing:
    """What to send for a call. The request is shared by all attempts: nothing of it is changed."""
    request = call.request
    return Outgoing(
        _body(call, model, provider, stream=stream),
        _headers(request),
        dict(request.extra_query),
        call.timeout,
    )


def check_sendable(out: Outgoing, error: Exception) -> None:
    """Tells a request that no host could be sent from an answer that cannot be read.

    Asked only after a failure, since it costs as much as sending. The model is not to blame: without this,
    a text with half a surrogate pair would have every healthy model set aside in turn.

    Raises:
        InvalidRequestError: naming the field that JSON cannot hold.
    """
    if isinstance(error, json.JSONDecodeError) or not isinstance(
        error, TypeError | ValueError | RecursionError
    ):
        return
    for field, value in _fields(out.body):
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # it holds the whole text, which must not travel with the error
            problem = "its text has half a surrogate pair, which UTF-8 cannot hold"
        except (TypeError, ValueError, RecursionError) as trouble:
            problem = str(trouble)
        else:
            continue
        raise InvalidRequestError(f"{field}: it cannot be sent as JSON ({problem})", field=field) from None


def _fields(body: dict[str, object]) -> Iterator[tuple[str, object]]:
    """The fields of a body by name, each message by itself."""
    for name, value in body.items():
        if name == "messages" and isinstance(value, list | tuple):
            yield from ((f"messages.{place}", message) for place, message in enumerate(value))
        else:
            yield name, value


def _body(call: Call, model: HostedModel, provider: Provider, *, stream: bool) -> dict[str, object]:
    request, renames = call.request, provider.renames
    body: dict[str, object] = {renames.get(name, name): value for name, value in request.params.items()}
    body.update(request.extra_body)
    body["model"] = model.model_id
    body["messages"] = _messages(request.messages, provider)
    if stream:
        body["stream"] = True
        if provider.stream_options:
            body["stream_options"] = {"include_usage": True}
    else:
        body.pop("stream", None)
        body.pop("stream_options", None)
    beginning = call.prefix.rstrip()
    if beginning:
        message = {"role": "assistant", "content": beginning, **(provider.prefix or {})}
        body["messages"] = [*_messages(request.messages, provider), message]
        body.update(provider.prefix_body)
    return body


def _headers(request: ChatRequest) -> dict[str, str]:
    """The caller's extra headers, without those that are not the caller's to set."""
    if not request.extra_headers:
        return {}
    return {
        name: value for name, value in request.extra_headers.items() if name.lower() not in _NOT_THE_CALLERS
    }


def _messages(messages: Sequence[JSONObject], provider: Provider) -> Sequence[JSONObject]:
    if provider.developer_role or all(message.get("role") != "developer" for message in messages):
        return messages
    return [
        {**message, "role": "system"} if message.get("role") == "developer" else message
        for message in messages
    ]
