"""Renders chat templates within a time limit that really ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

from jinja2 import Template, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from adapters.local.offload import offload
from adapters.local.sandbox import ChatEnvironment, RefusedError
from adapters.local.sandbox_limits import CLOCK, MOST_CHARACTERS, ClockError
from adapters.local.traits import Traits, probed
from router.errors import ModelError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.failures import BAD_TEMPLATE

__all__ = ["CHATML", "TIME_LIMIT", "ChatTemplate"]

#: Seconds that a template may take; a real one takes less than a thousandth of it.
TIME_LIMIT = 2.0
#: Characters of a template's source; real ones have some thousands.
_MOST_SOURCE = 500_000
#: Seconds after which a rendering that does not look at the clock is ended by force.
_GRACE = 0.5

#: For files without a template: the format that most models have met.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_environment = ChatEnvironment()

T = TypeVar("T")

_MOST_TRAITS = 32
_traits: dict[str, Traits] = {}


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    return _environment.from_string(source)


class ChatTemplate:
    """One chat template of one model.

    Args:
        source: Jinja.
        model: The model's name, for errors.
        limit: Seconds that it may take, compiling included.
        declared: Whether the app declared it; else it is the file's.
    """

    def __init__(self, source: str, *, model: str, limit: float = TIME_LIMIT, declared: bool = False) -> None:
        self.source = source
        self._model = model
        self._limit = limit
        self._advice = "correct chat_template" if declared else "set chat_template to one that works"

    async def render(self, variables: Mapping[str, object]) -> str:
        """Renders in a thread of its own, so that neither the event loop nor the engine waits.

        Raises:
            ModelLoadError: if the template cannot be parsed.
            ModelHTTPError: 400 `chat_template`, if it refuses these messages.
            ModelProtocolError: if it takes too long, grows too large, tries to get out, or breaks.
        """
        return await self._offloaded(lambda: self._render(variables))

    async def traits(self) -> Traits:
        """What it can show, found out by trying, once per template.

        Raises:
            ModelLoadError, ModelProtocolError: as `render`.
        """
        known = _traits.get(self.source)
        if known is None:
            known = await self._offloaded(self._probed)
            while len(_traits) >= _MOST_TRAITS:
                _traits.pop(next(iter(_traits)), None)
            _traits[self.source] = known
        return known

    async def _offloaded(self, work: Callable[[], T]) -> T:
        if len(self.source) > _MOST_SOURCE:
            raise ModelLoadError(f"the chat template has {len(self.source)} characters", model=self._model)

        def timed() -> T:
            CLOCK.deadline = time.monotonic() + self._limit
            return work()

        try:
            return await offload(timed, limit=self._limit + _GRACE, stop=ClockError)
        except Exception as error:
            raise self._error(error) from error

    def _probed(self) -> Traits:
        def attempt(variables: Mapping[str, object]) -> str | None:
            try:
                return self._render(variables)
            except (ClockError, TemplateSyntaxError):
                raise
            except Exception:  # noqa: BLE001 - a template can break in any of Python's ways: then it cannot show it
                return None

        return probed(attempt)

    def _render(self, variables: Mapping[str, object]) -> str:
        parts = []
        size = 0
        for part in _compiled(self.source).generate(**variables):
            size += len(part)
            if size > MOST_CHARACTERS:
                raise SecurityError("more output than any context holds")
            CLOCK.tick()
            parts.append(part)
        return "".join(parts)

    def _error(self, error: Exception) -> ModelError:
        if isinstance(error, RefusedError):
            text = f"the chat template refuses these messages: {error}"
            return ModelHTTPError(text, model=self._model, status_code=400, code=BAD_TEMPLATE)
        if isinstance(error, TemplateSyntaxError):
            text = f"the chat template cannot be parsed (line {error.lineno}: {error.message})"
            return ModelLoadError(f"{text}; {self._advice}", model=self._model)
        if isinstance(error, ClockError):
            text = f"the chat template was not done after {self._limit:g} s"
        elif isinstance(error, SecurityError):
            text = f"the chat template does what it must not: {error}"
        else:  # a template can break in any of Python's ways
            text = f"the chat template broke: {type(error).__name__}: {str(error)[:300]}"
        return ModelProtocolError(f"{text}; {self._advice}", model=self._model, code=BAD_TEMPLATE)
