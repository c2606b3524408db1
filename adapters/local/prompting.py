"""Makes a request ready for an engine, and for reading what comes of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from adapters.local.chat import accommodations, has_calls, template_messages
from adapters.local.engine import ModelFacts
from adapters.local.formats import Harmony, Style, style_of
from adapters.local.plan import Plan, grammar_of
from adapters.local.reading import THINK, AnswerReader, Stopping
from adapters.local.templates import CHATML, ChatTemplate
from adapters.local.traits import Traits
from router.errors import ModelHTTPError
from router.models import LocalModel
from router.request import ChatRequest

__all__ = ["Prompt", "prepared"]

_log = logging.getLogger("router.local")

#: In a file without a template these marks of ours may be plain text, which ends no turn by itself.
_CHATML_ENDS = ("<|im_end|>", "<|im_start|>")
#: llama.cpp does not know that these end a turn of Llama 4's, unless the file says so.
_LLAMA4_ENDS = ("<|eot|>", "<|eom|>")
#: Characters of arguments that a stream waits for, in the hope of a call that is known to be well-formed.
_PATIENCE = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine needs, and who reads what it says.

    Attributes:
        text: The rendered chat.
        grammar: GBNF that the answer must match; None: free text.
        visible: Control tokens that the reader must see.
        reader: Reads the one answer to it.
    """

    text: str
    grammar: str | None
    visible: frozenset[str]
    reader: AnswerReader


async def prepared(request: ChatRequest, asked: Plan, facts: ModelFacts, model: LocalModel) -> Prompt:
    """Renders the chat in the model's own format.

    Raises:
        ModelError: if the template or the request does not allow it.
    """
    source = model.chat_template or _own_template(facts, tools=bool(asked.definitions)) or CHATML
    template = ChatTemplate(source, model=model.name)
    traits = await template.traits() if asked.definitions or has_calls(request.messages) else None
    style = style_of(source, asked.tools, traits)
    if source is CHATML:
        _say_chatml(model.name)
        style = replace(style, thoughts=THINK)  # whether it thinks, nobody knows before it does
    grammar = grammar_of(asked, style.form, model.name)
    messages, tools = _shown(request, asked, style, traits, model.name)
    kwargs = _kwargs(asked)
    variables = {
        "tools": tools or None,
        "add_generation_prompt": True,
        "bos_token": facts.bos,
        "eos_token": facts.eos,
        **kwargs,
    }
    text = await _rendered(template, messages, variables)
    text, thinking = _opened(text, style, may_think=kwargs.get("enable_thinking") is not False)
    reader = style.reader(
        thoughts=not asked.constrained,
        thinking=thinking,
        reads_calls=bool(asked.tools),
        most_calls=None if asked.several else 1,
        live=None if not request.stream else 0 if asked.constrained else _PATIENCE,
    )
    ends = _ends(source)
    return Prompt(
        text=text,
        grammar=grammar,
        visible=_visible(style, asked).union(ends),
        reader=Stopping(reader, asked.stops, ends) if asked.stops or ends else reader,
    )


@lru_cache(maxsize=256)
def _say_chatml(model: str) -> None:
    """Once: a format that is not the model's own costs quality, and nothing else shows it."""
    _log.warning("%s: the file has no chat template; ChatML is used (chat_template= sets another)", model)


def _ends(source: str) -> tuple[str, ...]:
    """Texts that end a turn, beside the tokens of which the engine knows it."""
    if source is CHATML:
        return _CHATML_ENDS
    return _LLAMA4_ENDS if "<|header_start|>" in source else ()


def _own_template(facts: ModelFacts, *, tools: bool) -> str | None:
    """The file's; some bring a second one for chats with tools."""
    special = facts.metadata.get("tokenizer.chat_template.tool_use") if tools else None
    return special or facts.chat_template


def _shown(
    request: ChatRequest, asked: Plan, style: Style, traits: Traits | None, model: str
) -> tuple[list[dict[str, Any]], list[object]]:
    """The messages, and the tools that the template presents itself."""
    native = traits is not None and style.native
    presents = native and traits is not None and traits.tools
    messages = template_messages(
        request.messages,
        model=model,
        traits=traits if native else None,
        section=style.form.section(asked.definitions) if asked.definitions and not presents else "",
    )
    if not isinstance(style.form, Harmony):
        return messages, [*asked.definitions] if presents else []
    for message in messages:
        _move_thoughts(message)
    return messages, [_described(definition) for definition in asked.definitions] if presents else []


def _move_thoughts(message: dict[str, Any]) -> None:
    """gpt-oss has a name of its own for reasoning, and takes it beside a call only instead of content."""
    thoughts = message.pop("reasoning_content", None)
    if not isinstance(thoughts, str) or not thoughts or not message.get("tool_calls"):
        return  # the template leaves thoughts without a call out
    if message.get("content"):
        thoughts = f"{thoughts}\n\n{message['content']}"
        message["content"] = ""
    message["thinking"] = thoughts


def _described(definition: object) -> object:
    """gpt-oss's template cannot write a tool that has no description."""
    if not isinstance(definition, Mapping) or not isinstance(definition.get("function"), Mapping):
        return definition
    return {**definition, "function": {"description": "", **definition["function"]}}


def _kwargs(asked: Plan) -> dict[str, object]:
    # A forced form leaves no room for thoughts: where a template can say so, it does.
    kwargs = {**asked.template_kwargs, **({"enable_thinking": False} if asked.constrained else {})}
    if "enable_thinking" in kwargs:
        kwargs.setdefault("thinking", kwargs["enable_thinking"])  # DeepSeek's name, and Granite's
    return kwargs


async def _rendered(
    template: ChatTemplate, messages: Sequence[dict[str, Any]], variables: Mapping[str, object]
) -> str:
    """The chat as the template writes it; put differently where it refuses or forgets a part of it."""
    refusal: ModelHTTPError | None = None
    text = ""
    for way in [messages, *accommodations(messages)]:
        try:
            text = await template.render({**variables, "messages": [*way]})
        except ModelHTTPError as error:
            refusal = refusal or error
            continue
        if all(_holds(text, one["content"]) for one in way if one["role"] == "system"):
            return text
    if refusal is not None and not text:
        raise refusal
    return text


def _holds(text: str, part: str) -> bool:
    """Whether a part of a chat is in the prompt; templates trim and indent."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())


def _opened(text: str, style: Style, *, may_think: bool) -> tuple[str, bool]:
    """The prompt, and whether it has opened the reasoning; one that may not be is closed again."""
    opening, closing = style.thoughts or THINK
    if style.thoughts is None or not text.rstrip().endswith(opening):
        return text, False
    return (text, True) if may_think else (f"{text.rstrip()}\n\n{closing}\n\n", False)


def _visible(style: Style, asked: Plan) -> frozenset[str]:
    reads_calls = asked.tools or isinstance(style.form, Harmony)
    thoughts = re.findall(
        r"[<\[][^<>\[\]]+[>\]]", "".join(style.thoughts or ())
    )  # a mark can be a token and a word
    return frozenset({*THINK, *thoughts, *(style.form.visible if reads_calls else ())})
