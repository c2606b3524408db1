"""Whether a model thinks before it answers, and how a template is told to let it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters.local.engine import Prelude
from adapters.local.formats import Harmony, Style
from adapters.local.formats.harmony import AFTER_THOUGHTS, BEGUN_THOUGHTS, CLOSED_THOUGHTS, NOT_IN_THOUGHTS
from adapters.local.grammar import literal
from adapters.local.plan import Plan, refuse
from adapters.local.reading import THINK

__all__ = ["Thinking"]

#: OpenAI's words for efforts that gpt-oss does not know, as the nearest that it knows.
_NEAREST = {"minimal": "low", "xhigh": "high", "max": "high"}


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much thinking a request asks of a model.

    Args:
        asked: The request.
        style: How the model writes.
        source: Its chat template.
        known: Whether the template is the model's own, and tells about it.
        model: Its name, for errors.
    """

    asked: Plan
    style: Style
    source: str
    known: bool
    model: str

    @property
    def _levels(self) -> bool:
        """Whether the template takes an effort, and not only a switch."""
        return "reasoning_effort" in self.source

    @property
    def _switched(self) -> bool:
        """Whether the template has a switch, by either of its names."""
        return re.search(r"\benable_thinking\b|\b(if|not|and|or|set) thinking\b", self.source) is not None

    @property
    def _possible(self) -> bool:
        """Whether the model thinks, as far as its template tells."""
        own = self.known and self.style.thoughts is not None
        return own or self._levels or isinstance(self.style.form, Harmony) or self._switched

    @property
    def first(self) -> bool:
        """Whether thoughts come before an answer whose form is forced."""
        marked = self.style.thoughts is not None or isinstance(self.style.form, Harmony)
        return self.asked.constrained and self.asked.thinking is True and marked and self._possible

    def kwargs(self) -> dict[str, object]:
        """Variables for the template.

        Raises:
            ModelHTTPError: 400, if the model cannot do what was asked for.
        """
        asked = self.asked
        kwargs = dict(asked.template_kwargs)
        off = asked.thinking is False and asked.effort != "minimal" and not asked.constrained
        if off and isinstance(self.style.form, Harmony):
            refuse(self.model, "this model cannot go without reasoning; its least is reasoning_effort='low'")
        if asked.effort is not None:
            if asked.thinking and not self._possible:
                refuse(
                    self.model, f"this model does not reason: reasoning_effort={asked.effort!r} means nothing"
                )
            if self._levels and asked.effort != "none":
                kwargs["reasoning_effort"] = _NEAREST.get(asked.effort, asked.effort)
            if not isinstance(self.style.form, Harmony):
                kwargs["enable_thinking"] = asked.thinking
        if asked.constrained and not self.first:
            # A forced form leaves no room for thoughts: where a template can say so, it does.
            kwargs["enable_thinking"] = False
        if "enable_thinking" in kwargs:
            kwargs.setdefault("thinking", kwargs["enable_thinking"])  # DeepSeek's name, and Granite's
        return kwargs

    def opened(self, text: str, kwargs: dict[str, object]) -> tuple[str, bool]:
        """The prompt, and whether it has opened the thoughts; those that may not be are closed again."""
        if isinstance(self.style.form, Harmony):
            return (text + BEGUN_THOUGHTS, True) if self.first else (text, False)
        if self.style.thoughts is None:
            return text, False
        opening, closing = self.style.thoughts
        end = text.rstrip()
        if end.endswith(opening):
            off = kwargs.get("enable_thinking") is False
            return (f"{end}\n\n{closing}\n\n", False) if off else (text, True)
        if self.first:
            return f"{text}{opening}\n", True
        if self.asked.thinking is False and self.known and not self._switched:
            return f"{text}{opening}\n\n{closing}\n\n", False
        return text, False

    @property
    def prelude(self) -> Prelude | None:
        """What comes before the forced part of the answer."""
        if not self.first:
            return None
        if isinstance(self.style.form, Harmony):
            return Prelude(CLOSED_THOUGHTS, NOT_IN_THOUGHTS)
        return Prelude((self.style.thoughts or THINK)[1])

    @property
    def after(self) -> str:
        """What stands between the thoughts and the forced part, as the body of a rule."""
        if not self.first:
            return ""
        return literal(AFTER_THOUGHTS) if isinstance(self.style.form, Harmony) else '("\\n"){0,2}'
