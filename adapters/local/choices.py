"""One of the answers that a request asks for, put together from what is heard of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapters.local.hearing import Ended, Started
from adapters.local.reading import Part
from adapters.local.tools import ToolCall
from adapters.local.tracing import Scored

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk
    from openai.types.chat.chat_completion import Choice

    from adapters.local.objects import ChatObjects

__all__ = ["Gathered", "Tokens", "Told"]


@dataclass(slots=True)
class Gathered:
    """A choice that is given in one piece."""

    index: int
    texts: dict[str, str] = field(default_factory=lambda: {"content": "", "reasoning": ""})
    scores: list[Scored] = field(default_factory=list)
    calls: list[tuple[str, ToolCall]] = field(default_factory=list)
    ended: Ended | None = None

    def hear(self, one: Part | Ended) -> None:
        """Adds what came."""
        if isinstance(one, Ended):
            self.ended = one
            self.scores += one.scores
        elif one.call is not None:
            self.calls.append((_call_id(), one.call))
        elif one.kind == "arguments":
            name, last = self.calls[-1]
            self.calls[-1] = (name, ToolCall(last.name, last.arguments + one.text))
        else:
            self.texts[one.kind] += one.text
            self.scores += one.scores

    def built(self, objects: ChatObjects, *, scored: bool) -> Choice:
        """The choice, once it has ended; `scored`: with its tokens' probabilities."""
        if self.ended is None:
            raise ValueError("a choice that has not ended")
        return objects.choice(
            self.index,
            content=self.texts["content"],
            reasoning=self.texts["reasoning"],
            calls=self.calls,
            finish=_finish(self.ended, called=bool(self.calls)),
            scores=self.scores if scored else None,
        )


@dataclass(slots=True)
class Told:
    """A choice that is given as it comes."""

    index: int
    calls: int = 0
    first: bool = True

    def chunk(self, objects: ChatObjects, one: Part | Ended) -> ChatCompletionChunk:
        """What came, as a chunk."""
        first, self.first = self.first, False
        if isinstance(one, Ended):
            reason = _finish(one, called=self.calls > 0)
            return objects.finish(self.index, reason, first=first, scores=one.scores)
        if one.call is not None:
            self.calls += 1
            return objects.call(self.index, _call_id(), self.calls - 1, one.call, first=first)
        if one.kind == "arguments":
            return objects.arguments(self.index, self.calls - 1, one.text)
        return objects.text(self.index, one.kind, one.text, first=first, scores=one.scores)


@dataclass(slots=True)
class Tokens:
    """What a request took: its prompt once, however many choices it has."""

    begun: Started | None = None
    completion: int = 0
    reasoning: int = 0

    def hear(self, one: Started | Part | Ended) -> None:
        """Counts what came."""
        if isinstance(one, Ended):
            self.completion += one.completion_tokens
            self.reasoning += one.reasoning_tokens
        elif isinstance(one, Started) and self.begun is None:
            self.begun = one

    def usage(self) -> CompletionUsage:
        """In OpenAI's terms."""
        from adapters.local.objects import usage_of

        begun = self.begun or Started(0)
        return usage_of(
            begun.prompt_tokens,
            self.completion,
            cached_tokens=begun.cached_tokens,
            reasoning_tokens=self.reasoning,
        )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _finish(ended: Ended, *, called: bool) -> str:
    return "tool_calls" if called and ended.finish == "stop" else ended.finish
