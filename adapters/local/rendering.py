"""Chats as their templates write them, with nothing of the callers' among the control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from adapters.local.chat import accommodations, template_messages, with_parsed_arguments
from adapters.local.engine import ModelFacts
from adapters.local.formats import Harmony, Style
from adapters.local.marking import Marks, marks_of
from adapters.local.templates import ChatTemplate
from adapters.local.traits import Traits
from router.errors import ModelHTTPError
from router.request import JSONObject

__all__ = ["Chat", "Renderer"]

#: Texts of assistants that are tried one by one where a template looks into them; more are left alone.
_MOST_TRIED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What is to be shown to a model.

    Attributes:
        messages: The request's.
        definitions: The tools', as the caller wrote them; empty if none may be called.
        kwargs: Further variables for the template.
    """

    messages: Sequence[JSONObject]
    definitions: Sequence[object] = ()
    kwargs: Mapping[str, object]


class Renderer:
    """Renders chats with one template of one model.

    Args:
        template: The template.
        style: How the model writes.
        traits: What the template can show; None: there are no tools in this chat.
        facts: Of the model.
        model: Its name, for errors.
    """

    def __init__(
        self, template: ChatTemplate, style: Style, traits: Traits | None, facts: ModelFacts, model: str
    ) -> None:
        self._template = template
        self._style = style
        self._traits = traits
        self._facts = facts
        self._model = model

    async def render(self, chat: Chat) -> tuple[str, tuple[int, ...]]:
        """The chat as one text, and the places across which no token may go (see `engine.Job`).

        Raises:
            ModelError: if the template or the chat does not allow it.
        """
        chat = replace(chat, messages=with_parsed_arguments(chat.messages))
        text = await self._text(chat)
        marks = marks_of(self._facts.control)
        if not marks.texts_in([chat.messages, chat.definitions, chat.kwargs]):
            return text, ()
        return await self._kept_apart(chat, text, marks)

    async def _kept_apart(self, chat: Chat, text: str, marks: Marks) -> tuple[str, tuple[int, ...]]:
        stand_ins = marks.stand_ins(text, self._template.source)

        async def marked(said: frozenset[str] | None) -> tuple[str, tuple[int, ...]]:
            """With marks in everything, but in what assistants said only on these."""
            messages = [
                marks.put(message, stand_ins, said if message.get("role") == "assistant" else None)
                for message in chat.messages
            ]
            copy = Chat(
                messages=cast("list[JSONObject]", messages),
                definitions=cast("list[object]", marks.put(chat.definitions, stand_ins)),
                kwargs=cast("dict[str, object]", marks.put(chat.kwargs, stand_ins)),
            )
            return marks.taken_out(await self._text(copy), stand_ins)

        whole = await marked(None)
        if whole[0] == text:
            return whole
        # Templates look for the end of the thoughts in what an assistant said: that one must stay to be seen.
        base, _ = await marked(frozenset())
        said = [message for message in chat.messages if message.get("role") == "assistant"]
        tried = sorted(marks.texts_in(said))[:_MOST_TRIED]
        unseen = [what for what in tried if (await marked(frozenset({what})))[0] == base]
        return await marked(frozenset(unseen))

    async def _text(self, chat: Chat) -> str:
        messages, tools = self._shown(chat)
        variables = {
            "tools": tools or None,
            "add_generation_prompt": True,
            "bos_token": self._facts.bos,
            "eos_token": self._facts.eos,
            **chat.kwargs,
        }
        return await self._rendered(messages, variables)

    def _shown(self, chat: Chat) -> tuple[list[dict[str, Any]], list[object]]:
        """The messages, and the tools that the template presents itself."""
        style, traits = self._style, self._traits
        native = traits is not None and style.native
        presents = native and traits is not None and traits.tools
        messages = template_messages(
            chat.messages,
            model=self._model,
            traits=traits if native else None,
            section=style.form.section(chat.definitions) if chat.definitions and not presents else "",
        )
        if not isinstance(style.form, Harmony):
            return messages, [*chat.definitions] if presents else []
        for message in messages:
            _move_thoughts(message)
        return messages, [_described(definition) for definition in chat.definitions] if presents else []

    async def _rendered(self, messages: Sequence[dict[str, Any]], variables: Mapping[str, object]) -> str:
        """The chat as the template writes it; put differently where it refuses or forgets a part of it."""
        refusal: ModelHTTPError | None = None
        text = ""
        for way in [messages, *accommodations(messages)]:
            try:
                text = await self._template.render({**variables, "messages": [*way]})
            except ModelHTTPError as error:
                refusal = refusal or error
                continue
            if all(_holds(text, one["content"]) for one in way if one["role"] == "system"):
                return text
        if refusal is not None and not text:
            raise refusal
        return text


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


def _holds(text: str, part: str) -> bool:
    """Whether a part of a chat is in the prompt; templates trim and indent."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())
