"""What the loopback server answers with: good replies, and the ways in which real hosts fail."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Fault", "Received", "Reply", "completion_body", "error_body", "stream_events"]

JSON: TypeAlias = dict[str, object]

Fault = Literal[
    "html",  # 200 with a web page
    "null",  # 200 with the JSON word null
    "empty",  # 200 with no body
    "not_json",  # 200 with half a JSON object
    "wrong_json",  # 200 with JSON that is no completion
    "no_choices",  # 200 with an empty list of choices
    "null_content",  # 200 with a message that says nothing
    "error_in_200",  # 200 with an error object
    "truncated",  # the connection ends in the middle of the body
    "no_finish",  # a stream that ends in order, without a finish reason
    "corrupt",  # a stream with a chunk that is no JSON
    "error_first",  # a stream whose first event is an error
    "error_later",  # a stream with an error after its first token
    "json_for_stream",  # a completion in one piece where a stream was asked for
    "keep_alive",  # a stream of nothing but comments, for ever
    "gzip_bomb",  # 200 MB of spaces that travel as 200 kB
    "oversize",  # a body without end
    "redirect",  # 307 to `Reply.location`
    "hang",  # nothing at all, for ever
    "disconnect",  # the connection closes before the status line
]
"""A way to fail. Those of streams apply to streams, and to other requests as far as it makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One scripted answer to a chat request.

    Attributes:
        text: The answer's content; None sends null.
        tool_calls: Calls of functions, as (name, arguments as JSON text).
        reasoning: Sent as `reasoning_content`.
        refusal: Sent as `refusal`.
        finish_reason: None: `tool_calls` if there are any, else `stop`.
        usage: What to report; None: characters / 4. An empty mapping reports nothing.
        status: HTTP status; from 400 on, `error` is sent instead of an answer.
        error: The error object of an error status or fault.
        headers: Headers to add.
        ttft: Seconds before the answer, or before the first chunk of a stream.
        per_token: Seconds before each further chunk of a stream; of an answer in one piece, all at its end.
        chunk: Characters of content per chunk of a stream.
        fault: A way to fail, instead of answering.
        location: Where the fault `redirect` points to.
        raw: Bytes to write as the body, piece by piece with `per_token` between, instead of an answer.
        content_type: Overrides the content type; an empty text sends none.
    """

    text: str | None = "Hello from the loopback server."
    tool_calls: Sequence[tuple[str, str]] = ()
    reasoning: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    usage: Mapping[str, object] | None = None
    status: int = 200
    error: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ttft: float = 0.0
    per_token: float = 0.0
    chunk: int = 4
    fault: Fault | None = None
    location: str = "http://elsewhere.invalid/v1/chat/completions"
    raw: Sequence[bytes] | None = None
    content_type: str | None = None


@dataclass(slots=True, kw_only=True)
class Received:
    """A request that the server received.

    Attributes:
        method: `GET`, `POST`.
        path: With the query.
        headers: By lower-case name.
        body: The JSON body; empty if there was none.
        disconnected: Whether the client went away before the answer was complete.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: JSON
    disconnected: bool = False

    @property
    def model(self) -> str:
        """The model asked for; empty if none was named."""
        return str(self.body.get("model", ""))


def _usage(reply: Reply, asked: JSON) -> JSON | None:
    if reply.usage is not None:
        return dict(reply.usage) or None
    prompt = max(1, len(json.dumps(asked.get("messages", []), ensure_ascii=False)) // 4)
    written = (reply.text or "") + (reply.reasoning or "") + "".join(a for _, a in reply.tool_calls)
    completion = max(1, len(written) // 4)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tool_calls(reply: Reply) -> list[JSON]:
    return [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _finish(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def completion_body(reply: Reply, asked: JSON) -> JSON:
    """A `chat.completion` object."""
    message: JSON = {"role": "assistant", "content": reply.text}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.refusal is not None:
        message["refusal"] = reply.refusal
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply)
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply), "logprobs": None}
    body: JSON = {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": str(asked.get("model", "")),
        "choices": [choice],
    }
    usage = _usage(reply, asked)
    return body | {"usage": usage} if usage else body


def error_body(reply: Reply) -> JSON:
    """An error object in OpenAI's shape."""
    error = reply.error or {"message": "scripted failure", "type": "server_error", "code": None}
    return {"error": dict(error)}


def _deltas(reply: Reply) -> Iterator[JSON]:
    yield {"role": "assistant", "content": "" if reply.text is not None else None}
    for kind, text in (
        ("reasoning_content", reply.reasoning),
        ("refusal", reply.refusal),
        ("content", reply.text),
    ):
        for start in range(0, len(text or ""), reply.chunk):
            yield {kind: (text or "")[start : start + reply.chunk]}
    for place, call in enumerate(_tool_calls(reply)):
        yield {"tool_calls": [{"index": place, **call}]}


def stream_events(reply: Reply, asked: JSON) -> Iterator[bytes]:
    """The events of a stream, `[DONE]` included, each as the bytes of one SSE event."""
    frame: JSON = {
        "id": "chatcmpl-loopback",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": str(asked.get("model", "")),
    }
    for delta in _deltas(reply):
        yield _event(frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if reply.fault != "no_finish":
        yield _event(frame | {"choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]})
    options = asked.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        usage = _usage(reply, asked)
        if usage:
            yield _event(frame | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(body: JSON) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
