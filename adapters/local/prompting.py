"""Makes a request ready for an engine, and for reading what comes of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from adapters.local.chat import has_calls
from adapters.local.engine import ModelFacts, Prelude
from adapters.local.forcing import grammar_of
from adapters.local.formats import Harmony, Style, style_of
from adapters.local.plan import Plan, refuse
from adapters.local.reading import THINK, AnswerReader
from adapters.local.rendering import Chat, Renderer
from adapters.local.resumed import Resumed, borders_in
from adapters.local.stopping import Stopping
from adapters.local.templates import CHATML, ChatTemplate
from adapters.local.thinking import Thinking
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
        borders: Places in it across which no token goes.
        grammar: GBNF that the answer must match; None: free text.
        prelude: What comes before what the grammar holds; None: nothing.
        visible: Control tokens that the reader must see.
        reader: Makes what reads an answer to it.
    """

    text: str
    borders: tuple[int, ...]
    grammar: str | None
    prelude: Prelude | None
    visible: frozenset[str]
    reader: Callable[[], AnswerReader]


async def prepared(
    request: ChatRequest, asked: Plan, facts: ModelFacts, model: LocalModel, prefix: str = ""
) -> Prompt:
    """Renders the chat in the model's own format.

    Args:
        request: The chat.
        asked: The same, read.
        facts: Of the loaded model.
        model: As it was declared.
        prefix: The beginning of the answer, with which the prompt ends.

    Raises:
        ModelError: if the template or the request does not allow it.
    """
    source = model.chat_template or _own_template(facts, tools=bool(asked.definitions)) or CHATML
    template = ChatTemplate(source, model=model.name, declared=bool(model.chat_template))
    traits = await template.traits() if asked.definitions or has_calls(request.messages) else None
    style = style_of(source, asked.tools, traits)
    if source is CHATML:
        _say_chatml(model.name)
        style = replace(style, thoughts=THINK)  # whether it thinks, nobody knows before it does
    if prefix:
        asked = _going_on(asked, style, model.name)
    thinking = Thinking(asked, style, source, known=source is not CHATML, model=model.name)
    grammar = grammar_of(asked, style.form, model.name, source=source, after=thinking.after)
    kwargs = thinking.kwargs()
    chat = Chat(messages=request.messages, definitions=asked.definitions, kwargs=kwargs)
    text, borders = await Renderer(template, style, traits, facts, model.name).render(chat)
    text, opened = thinking.opened(text, kwargs)
    ends = _ends(source)
    header = Harmony.lead if prefix and isinstance(style.form, Harmony) else ""

    def reader() -> AnswerReader:
        made: AnswerReader = style.reader(
            thoughts=not asked.constrained or thinking.first,
            thinking=opened,
            reads_calls=bool(asked.tools),
            most_calls=None if asked.several else 1,
            live=None if not request.stream else 0 if asked.constrained else _PATIENCE,
            calls_only=bool(asked.forced),
        )
        if asked.stops or ends:
            made = Stopping(made, asked.stops, ends)
        return Resumed(made, header, prefix, model.name) if prefix else made

    if prefix:
        reader()  # refuses what cannot be gone on with
        text += header
        borders += tuple(len(text) + place for place in borders_in(prefix, facts.control))
        text += prefix
    return Prompt(
        text=text,
        borders=borders,
        grammar=grammar,
        prelude=thinking.prelude,
        visible=_visible(style, asked).union(ends),
        reader=reader,
    )


def _going_on(asked: Plan, style: Style, model: str) -> Plan:
    """The request for the rest of an answer: what there was to think about it was thought.

    Raises:
        ModelHTTPError: 400, if its form is forced: a grammar knows nothing of a beginning.
    """
    if asked.constrained or asked.logprobs is not None:
        refuse(model, "an answer of a forced form, or with log probabilities, cannot be gone on with")
    if isinstance(style.form, Harmony):
        return asked
    kwargs = {**asked.template_kwargs, "enable_thinking": False}
    return replace(asked, thinking=False, effort=None, template_kwargs=kwargs)


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


def _visible(style: Style, asked: Plan) -> frozenset[str]:
    reads_calls = asked.tools or isinstance(style.form, Harmony)
    thoughts = re.findall(
        r"[<\[][^<>\[\]]+[>\]]", "".join(style.thoughts or ())
    )  # a mark can be a token and a word
    return frozenset({*THINK, *thoughts, *(style.form.visible if reads_calls else ())})
