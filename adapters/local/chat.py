"""OpenAI-shaped messages as chat templates want them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.local.json_text import parsed
from adapters.local.plan import refuse
from adapters.local.traits import Traits
from router.request import JSONObject

__all__ = ["accommodations", "has_calls", "template_messages", "with_parsed_arguments"]

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Message = dict[str, Any]


def has_calls(messages: Sequence[JSONObject]) -> bool:
    """Whether tools were called in this chat."""
    return any(
        message.get("tool_calls") or message.get("role") in ("tool", "function") for message in messages
    )


def template_messages(
    messages: Sequence[JSONObject], *, model: str, traits: Traits | None = None, section: str = ""
) -> list[Message]:
    """Fresh plain dicts: parts joined to text, arguments parsed, `developer` renamed to `system`.

    Args:
        messages: The request's.
        model: For errors.
        traits: How the template shows calls and results; None: not at all, they are written out as text.
        section: A text about tools to put into the system message; empty if there is none to put.

    Raises:
        ModelHTTPError: 400, if there is an image or another part that is not text.
    """
    plain = [_message(message, model) for message in messages]
    if traits is None or not traits.calls:
        plain = [_written_out(message) for message in plain]
    else:
        if not traits.parallel:
            plain = _one_call_each(plain)
        for message in plain:
            _fit(message, traits)
    if section and plain and plain[0]["role"] == "system":
        plain[0]["content"] = f"{plain[0]['content']}\n\n{section}".strip()
    elif section:
        plain.insert(0, {"role": "system", "content": section})
    return plain


def with_parsed_arguments(messages: Sequence[JSONObject]) -> list[JSONObject]:
    """The same chat with the arguments of its calls as objects: their text hides what is in them."""
    return [_parsed(message) for message in messages]


def _parsed(message: JSONObject) -> JSONObject:
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return message
    return {**message, "tool_calls": [_call(call) if isinstance(call, Mapping) else call for call in calls]}


def accommodations(messages: Sequence[Message]) -> list[list[Message]]:
    """The same chat for templates that refuse it: speakers alternate; then, also, no system message."""
    merged = _merged(messages)
    folded = _merged(
        [{**message, "role": "user"} if message["role"] == "system" else message for message in messages]
    )
    ways = [merged, folded]
    return [way for place, way in enumerate(ways) if way != [*messages] and way not in ways[:place]]


def _merged(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        plain = message["role"] != "tool" and not message.get("tool_calls")
        if last is not None and plain and last["role"] == message["role"] and not last.get("tool_calls"):
            texts = [text for text in (last["content"], message["content"]) if text]
            found[-1] = {**last, "content": "\n\n".join(texts)}
        else:
            found.append(message)
    return found


def _message(message: JSONObject, model: str) -> Message:
    plain: Message = {key: value for key, value in message.items() if value is not None}
    role = plain.get("role")
    plain["role"] = "system" if role == "developer" else "tool" if role == "function" else role
    plain["content"] = _text(message.get("content"), model)
    calls = plain.pop("tool_calls", None)
    if isinstance(calls, Sequence) and calls:
        plain["tool_calls"] = [_call(call) for call in calls if isinstance(call, Mapping)]
    return plain


def _text(content: object, model: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        refuse(model, "content: a text or a list of parts is needed", "invalid_value")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get(_TEXT_PARTS[kind]), str):
            refuse(model, f"a local model reads text only, not {kind!r}", "unsupported_content")
        texts.append(part[_TEXT_PARTS[kind]])
    return "\n".join(texts)


def _call(call: Mapping[str, Any]) -> Message:
    """Templates print `arguments` with `tojson`: a text would be quoted twice."""
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        value = parsed(arguments or "{}")
        if isinstance(value, dict):
            function["arguments"] = value
    return {**call, "type": "function", "function": function}


def _fit(message: Message, traits: Traits) -> None:
    calls = message.get("tool_calls")
    if not calls:
        return
    if traits.null_content and not message["content"]:
        message["content"] = None
    for call in calls:
        arguments = call["function"].get("arguments")
        if traits.text_arguments and not isinstance(arguments, str):
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """A message with several calls as several with one each, every call followed by its result."""
    found: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls", ())
        if len(calls) < 2:  # noqa: PLR2004 - it is one call each already
            found.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            results.append(messages[place])
            place += 1
        for number, call in enumerate(calls):
            content = message if number == 0 else {"role": message["role"], "content": ""}
            found.append({**content, "tool_calls": [call]})
            own = [result for result in results if result.get("tool_call_id") == call.get("id")]
            results = [result for result in results if result not in own]
            found += own
        found += results
    return found


def _written_out(message: Message) -> Message:
    """Calls and results as the texts that Qwen's template makes of them."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.pop("tool_calls", None)
    if calls:
        texts = [message["content"]] if message["content"] else []
        for call in calls:
            function = {key: call["function"].get(key) for key in ("name", "arguments")}
            texts.append(f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>")
        message["content"] = "\n".join(texts)
    return message
