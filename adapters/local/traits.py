"""What a chat template can show, found out by trying: templates say it nowhere, and names in them mislead."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PROBE", "PROBE_ARGUMENTS", "Traits", "probed"]

PROBE = "probe_tool"
"""The tool that is called in a sample."""
_KEY, _VALUE, _RESULT = "probe_key", "probe_value", "probe_result"
PROBE_ARGUMENTS = {_KEY: _VALUE}
"""What it is called with."""
_OTHER, _OTHER_VALUE = "probe_other_tool", "probe_second_value"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a template can show.

    Attributes:
        tools: The tools that may be called.
        calls: Calls of the past, and their results.
        text_arguments: Whether it wants a call's arguments as JSON text, not as an object.
        null_content: Whether it takes a call without content (None), as OpenAI sends it; else it wants "".
        parallel: Several calls in one message.
        sample: A chat with a call of `PROBE` and its result, as it writes it.
    """

    tools: bool
    calls: bool
    text_arguments: bool = False
    null_content: bool = False
    parallel: bool = False
    sample: str = ""


def probed(render: Callable[[Mapping[str, object]], str | None]) -> Traits:
    """Tries a template out.

    Args:
        render: Gives what the template makes of these variables; None if it refuses or breaks.
    """
    text = render(_variables([_USER], tools=True))
    tools = text is not None and PROBE in text
    for text_arguments in (False, True):
        for null_content in (True, False):
            history = _history([PROBE], text_arguments=text_arguments, null_content=null_content)
            sample = render(_variables(history, tools=tools))
            if sample is None or not _shows_call(sample):
                continue
            history = _history([PROBE, _OTHER], text_arguments=text_arguments, null_content=null_content)
            text = render(_variables(history, tools=tools))
            return Traits(
                tools=tools,
                calls=True,
                text_arguments=text_arguments,
                null_content=null_content,
                parallel=text is not None and _OTHER_VALUE in text,
                sample=sample,
            )
    return Traits(tools=tools, calls=False)


_USER: dict[str, Any] = {"role": "user", "content": "probe"}


def _shows_call(text: str) -> bool:
    written_twice = f'\\"{_KEY}' in text  # JSON within a JSON text
    pythons_own = f"'{_KEY}'" in text and f'"{_KEY}' not in text
    shown = all(word in text for word in (PROBE, _KEY, _VALUE, _RESULT))
    return shown and not written_twice and not pythons_own


def _history(names: list[str], *, text_arguments: bool, null_content: bool) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for name, value in zip(names, (_VALUE, _OTHER_VALUE), strict=False):
        arguments = {_KEY: value}
        function = {"name": name, "arguments": json.dumps(arguments) if text_arguments else arguments}
        # Mistral's takes ids of nine characters only.
        calls.append({"id": f"probe{len(calls):04d}", "type": "function", "function": function})
    return [
        _USER,
        {"role": "assistant", "content": None if null_content else "", "tool_calls": calls},
        *(
            {"role": "tool", "tool_call_id": call["id"], "name": name, "content": _RESULT}
            for call, name in zip(calls, names, strict=True)
        ),
        {"role": "assistant", "content": "done"},
        _USER,
    ]


def _variables(messages: list[dict[str, Any]], *, tools: bool) -> dict[str, object]:
    names = (PROBE, _OTHER)
    properties = {_KEY + "_of_schema": {"type": "string", "description": "probe"}}
    parameters = {"type": "object", "properties": properties, "required": []}
    definitions = [
        {
            "type": "function",
            "function": {"name": name, "description": "probe", "parameters": parameters},
        }
        for name in names
    ]
    return {
        "messages": messages,
        "tools": definitions if tools else None,
        "add_generation_prompt": True,
        "bos_token": "",
        "eos_token": "",
    }
