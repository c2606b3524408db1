"""Texts that UTF-8 cannot hold: hosts that count in UTF-16 cut a character between its two halves.

JSON may say such a half, and Python takes it; the program that prints or stores the text breaks on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from router.errors import ModelProtocolError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessage
    from openai.types.chat.chat_completion_chunk import ChoiceDelta

__all__ = ["Halves", "check_texts"]

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
_FIRST_HALVES = ("\ud800", "\udbff")

_Place = tuple[object, str, str]


class Halves:
    """Puts the halves of one stream's characters together where two chunks hold them.

    Args:
        model: The model's name, for errors.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._held: dict[tuple[int, str], str] = {}

    @property
    def waiting(self) -> bool:
        """Whether a half waits for the other."""
        return bool(self._held)

    def mend(self, choice: int, delta: ChoiceDelta) -> None:
        """Takes the half at a text's end from a delta, and gives it to the text's next piece.

        Raises:
            ModelProtocolError: if a half stands alone.
        """
        for holder, name, kind in _texts(delta):
            text = getattr(holder, name)
            key = choice, kind
            if key in self._held or not _is_whole(text):
                setattr(holder, name, self._mended(key, text))

    def end(self) -> None:
        """The stream is over.

        Raises:
            ModelProtocolError: if a half was left alone.
        """
        if self._held:
            raise _alone(self._model)

    def _mended(self, key: tuple[int, str], text: str) -> str:
        text = self._held.pop(key, "") + text
        if _FIRST_HALVES[0] <= text[-1:] <= _FIRST_HALVES[1]:
            self._held[key], text = text[-1], text[:-1]
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _alone(self._model) from None


def check_texts(message: ChatCompletionMessage, model: str) -> None:
    """Checks the texts of an answer in one piece.

    Raises:
        ModelProtocolError: if half a character stands in one.
    """
    if not all(_is_whole(getattr(holder, name)) for holder, name, _ in _texts(message)):
        raise _alone(model)


def _is_whole(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _texts(said: ChoiceDelta | ChatCompletionMessage) -> Iterator[_Place]:
    """Where the texts of a message or a delta are: the object, its attribute, and which text it is."""
    for name in _TEXTS:
        if getattr(said, name, None):
            yield said, name, name
    for place, call in enumerate(said.tool_calls or ()):
        function: object = getattr(call, "function", None)
        if function is None or isinstance(function, Mapping):
            continue
        for name in ("name", "arguments"):
            if getattr(function, name, None):
                yield function, name, f"{name} {getattr(call, 'index', place)}"


def _alone(model: str) -> ModelProtocolError:
    return ModelProtocolError("a text of the answer holds half a character", model=model)
