"""How the families of models write: which syntax their calls have, and where their thoughts stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from adapters.local.formats.deepseek import DeepSeek
from adapters.local.formats.harmony import Harmony, HarmonyReader
from adapters.local.formats.hermes import Hermes
from adapters.local.formats.llama import Llama
from adapters.local.json_text import parsed
from adapters.local.reading import THINK, AnswerReader, Reader
from adapters.local.tools import Tool, ToolFormat
from adapters.local.traits import PROBE, PROBE_ARGUMENTS, Traits

__all__ = ["DeepSeek", "Harmony", "HarmonyReader", "Hermes", "Llama", "Style", "style_of"]

#: Bare JSON is anybody's: these tokens tell Llama's templates from others.
_LLAMA = ("<|python_tag|>", "<|start_header_id|>", "<|header_start|>")
_MARKS_OF_THOUGHT = (
    THINK,
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)


@dataclass(frozen=True, slots=True)
class Style:
    """How one model writes.

    Attributes:
        form: How it writes calls.
        native: Whether that is the syntax of its template; else tools have to be presented to it, and calls
            of the past written out.
        thoughts: The marks around its reasoning; None: it has none, or has channels.
    """

    form: ToolFormat
    native: bool
    thoughts: tuple[str, str] | None

    def reader(
        self,
        *,
        thoughts: bool,
        thinking: bool,
        reads_calls: bool,
        most_calls: int | None,
        live: int | None,
        calls_only: bool = False,
    ) -> AnswerReader:
        """Reads one answer.

        Args:
            thoughts: Whether it may have thoughts.
            thinking: Whether the prompt has opened the reasoning already.
            reads_calls: Whether it may call tools.
            most_calls: Further calls are not read; None: any number.
            live: See `reading.Reader`.
            calls_only: See `reading.Reader`.
        """
        if isinstance(self.form, Harmony):
            return HarmonyReader(
                self.form, most_calls=most_calls, live=live, thinking=thinking, calls_only=calls_only
            )
        return Reader(
            thoughts=self.thoughts if thoughts else None,
            thinking=thinking,
            tools=self.form if reads_calls else None,
            most_calls=most_calls,
            live=live,
            calls_only=calls_only,
        )


def style_of(template: str, tools: Sequence[Tool], traits: Traits | None) -> Style:
    """How a model with this chat template writes.

    Args:
        template: Its source.
        tools: What may be called.
        traits: What it can show; None: there are no tools in this chat.
    """
    if "<|channel|>" in template and "<|message|>" in template:
        return Style(Harmony(tools), native=True, thoughts=None)
    thoughts = next((marks for marks in _MARKS_OF_THOUGHT if marks[1] in template), None)
    build = _native_builder(template, traits) if traits is not None else None
    if build is None:
        return Style(Hermes(tools), native=False, thoughts=thoughts)
    return Style(build(tools), native=True, thoughts=thoughts)


@lru_cache(maxsize=32)
def _native_builder(template: str, traits: Traits) -> Callable[[Sequence[Tool]], ToolFormat] | None:
    """The format in which a template itself writes calls; None: one that is not known here."""
    builders: list[Callable[[Sequence[Tool]], ToolFormat]] = [
        lambda tools: Hermes(tools, xml="<function=" in template),
        lambda tools: DeepSeek(tools, fenced="```json" in template),
    ]
    if traits.tools and any(token in template for token in _LLAMA):
        builders.append(Llama)
    return next((build for build in builders if _reads(build([Tool(PROBE)]), traits.sample)), None)


def _reads(form: ToolFormat, sample: str) -> bool:
    """Whether a format reads the call that a template has written."""
    openings = [*form.marks, f'{{"name": "{PROBE}"']
    starts = {found.start() for mark in openings for found in re.finditer(re.escape(mark), sample)}
    parts = (part for start in sorted(starts) for part in Reader(tools=form).feed(sample[start:]))
    return any(part.call is not None and parsed(part.call.arguments) == PROBE_ARGUMENTS for part in parts)
