"""OpenAI-shaped messages as chat templates want them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.local.plan import refuse
from router.request import JSONObject

__all__ = ["template_messages"]

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def template_messages(
    messages: Sequence[JSONObject], *, model: str, presents_tools: bool, section: str
) -> list[dict[str, Any]]:
    """Fresh plain dicts: parts joined to text, arguments parsed, `developer` renamed to `system`.

    Args:
        messages: The request's.
        model: For errors.
        presents_tools: Whether the template can show tools, calls and results; else they are written out.
        section: A text about tools to put into the system message; empty if there is none to put.

    Raises:
        ModelHTTPError: 400, if there is an image or another part that is not text.
    """
    plain = [_message(message, model) for message in messages]
    if not presents_tools:
        plain = [_written_out(message) for message in plain]
    if section and plain and plain[0]["role"] == "system":
        plain[0]["content"] = f"{plain[0]['content']}\n\n{section}".strip()
    elif section:
        plain.insert(0, {"role": "system", "content": section})
    return plain


def _message(message: JSONObject, model: str) -> dict[str, Any]:
    plain: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    role = plain.get("role")
    plain["role"] = "system" if role == "developer" else "tool" if role == "function" else role
    plain["content"] = _text(message.get("content"), model)
    calls = plain.get("tool_calls")
    if isinstance(calls, Sequence):
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


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Templates print `arguments` with `tojson`: a text would be quoted twice."""
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            function["arguments"] = parsed
    return {**call, "function": function}


def _written_out(message: dict[str, Any]) -> dict[str, Any]:
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
