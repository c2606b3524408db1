"""Checks of what the SDK let through: it validates nothing, so nonsense looks like an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.hosted.failures import error_in_answer, filtered
from adapters.hosted.halves import Halves, check_texts
from adapters.hosted.shapes import odd_choice_field, odd_delta_field, odd_frame_field, odd_message_field
from router.errors import ModelProtocolError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
    from openai.types.chat.chat_completion import Choice
    from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice

__all__ = ["StreamCheck", "check_completion"]


#: The types of a chunk's own fields, where a host leaves none of them out.
_FRAME = (str, str, str, int)
_NONE = (None, None)
#: All that is told in most deltas.
_PLAIN = {"content"}


def check_completion(answer: ChatCompletion, model: str, asked: int = 1) -> None:
    """Checks an answer in one piece.

    Raises:
        ModelHTTPError: if it is an error in an answer's clothes, or a content filter left nothing of it.
        ModelProtocolError: if it says nothing, has fewer choices than were asked for, or has not the shape
            of an answer.
    """
    choices: object = answer.choices
    if not isinstance(choices, list) or not choices:
        error: object = getattr(answer, "error", None)
        if error:
            raise error_in_answer(error, model=model)
        raise ModelProtocolError("the answer has no choices", model=model)
    if len(choices) < asked:
        raise ModelProtocolError(f"the answer has {len(choices)} choices, asked were {asked}", model=model)
    if len(choices) > 1:
        _check_distinct(choices, model)
    odd = odd_frame_field(answer)
    if odd is not None:
        raise _misshapen(odd, model)
    for choice in answer.choices:
        _check_choice(choice, model)


def _check_distinct(choices: list[object], model: str) -> None:
    """No two choices may be the same one: which of them is the answer, nobody could tell."""
    told = [getattr(choice, "index", None) for choice in choices]
    places = [place for place in told if type(place) is int]
    if len(set(places)) < len(places):
        raise ModelProtocolError("two choices of the answer have the same index", model=model)


def _misshapen(field: str, model: str) -> ModelProtocolError:
    text = f"the answer has not the shape of one: {field!r} is of another kind"
    return ModelProtocolError(text, model=model)


def _check_choice(choice: Choice, model: str) -> None:
    reason: object = getattr(choice, "finish_reason", None)
    message: ChatCompletionMessage | None = getattr(choice, "message", None)
    if reason == "error":
        raise error_in_answer(getattr(choice, "error", None), model=model)
    if not isinstance(reason, str) or not reason:
        raise ModelProtocolError("the answer has no finish reason", model=model)
    if message is None:
        raise ModelProtocolError("the answer has no message", model=model)
    odd = odd_choice_field(choice) or odd_message_field(message)
    if odd is not None:
        raise _misshapen(odd, model)
    check_texts(message, model)
    if reason == "content_filter" and not _shows_something(message):
        raise filtered(model=model)
    if _says_something(message) or reason == "length":
        # With "length", hidden reasoning can have used up all that was allowed.
        return
    raise ModelProtocolError(
        "the answer says nothing: no content, tool calls, refusal or reasoning", model=model
    )


def _says_something(part: object) -> bool:
    """Whether a message or a delta holds any kind of output; an empty text counts, null does not."""
    # Content first: it decides nearly always, and this runs for each chunk until something was said.
    if getattr(part, "content", None) is not None or getattr(part, "tool_calls", None):
        return True
    return any(
        getattr(part, kind, None) is not None
        for kind in ("refusal", "reasoning_content", "reasoning", "function_call", "audio")
    )


def _shows_something(part: object) -> bool:
    """The same, but an empty text does not count."""
    if getattr(part, "content", None) or getattr(part, "tool_calls", None):
        return True
    return any(
        getattr(part, kind, None)
        for kind in ("refusal", "reasoning_content", "reasoning", "function_call", "audio")
    )


class StreamCheck:
    """Follows the chunks of one stream.

    Args:
        model: The model's name, for errors.
        asked: How many choices were asked for; None: nobody knows.
        begun: Whether it goes on with an answer that was begun, to which nothing may be left to say.
    """

    def __init__(self, model: str, *, asked: int | None = 1, begun: bool = False) -> None:
        self._model = model
        self._asked = asked
        self._spoken = begun
        self._reason = ""
        self._halves = Halves(model)
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def whole(self) -> bool:
        """Whether every choice that was begun has its finish reason."""
        return bool(self._finished) and self._begun <= self._finished

    def see(self, chunk: ChatCompletionChunk) -> bool:
        """Checks a chunk; whether it is to be handed on.

        Raises:
            ModelHTTPError: if it is an error in a chunk's clothes.
            ModelProtocolError: if it has not the shape of a chunk.
        """
        choices: object = getattr(chunk, "choices", None)
        if not isinstance(choices, list):
            return self._see_odd(chunk, choices)
        frame = (type(chunk.id), type(chunk.model), type(chunk.object), type(chunk.created))
        labels = (chunk.system_fingerprint, chunk.service_tier)
        if frame != _FRAME or labels != _NONE:
            self._check(odd_frame_field(chunk))
        if len(choices) > 1:
            _check_distinct(choices, self._model)
        for choice in chunk.choices:
            if not self._is_more(choice):
                self._see_choice(choice)
        return True

    def _is_more(self, choice: ChunkChoice) -> bool:
        """Whether it is one more piece of plain text, as nearly all are: then there is nothing to check."""
        delta: object = getattr(choice, "delta", None)
        if getattr(delta, "__pydantic_fields_set__", None) != _PLAIN:
            return False
        delta = choice.delta
        text = delta.content
        return (
            type(text) is str
            and text.isascii()
            and choice.finish_reason is None
            and choice.logprobs is None
            and choice.index in self._begun
            and type(choice.index) is int
            and self._spoken
            and not delta.__pydantic_extra__
            and not self._halves.waiting
        )

    def _check(self, odd: str | None) -> None:
        if odd is not None:
            raise ModelProtocolError(
                f"a chunk has not the shape of one: {odd!r} is of another kind", model=self._model
            )

    def _see_choice(self, choice: ChunkChoice) -> None:
        delta: object = getattr(choice, "delta", None)
        reason: object = getattr(choice, "finish_reason", None)
        index: object = getattr(choice, "index", None)
        if (index is not None and type(index) is not int) or getattr(choice, "logprobs", None) is not None:
            self._check(odd_choice_field(choice))
        self._check(odd_delta_field(delta))
        place = index if type(index) is int else 0
        if delta is not None:
            self._halves.mend(place, choice.delta)
        if not 0 <= place < (place + 1 if self._asked is None else self._asked):
            raise ModelProtocolError(
                f"a chunk is of choice {place}, which nobody asked for", model=self._model
            )
        if not (reason is None or isinstance(reason, str)):
            self._check("finish_reason")
        if not self._spoken:
            self._spoken = _says_something(delta)
        if not reason:
            if delta is None:
                raise ModelProtocolError("a chunk has neither a delta nor a finish reason", model=self._model)
            self._begun.add(place)
            return
        if reason == "error":
            raise error_in_answer(getattr(choice, "error", None), model=self._model)
        self._reason = str(reason)
        self._finished.add(place)

    def _see_odd(self, chunk: object, choices: object) -> bool:
        """A chunk without choices: usage alone is legal, in some dialects with null for the list."""
        if choices is None and getattr(chunk, "usage", None) is not None:
            chunk.choices = []  # type: ignore[attr-defined]  # a chunk whose shape the SDK did not check
            return True
        raise ModelProtocolError("a chunk has not the shape of one", model=self._model)

    def end(self) -> None:
        """Checks the stream as a whole, once it has ended.

        Raises:
            ModelHTTPError: if a content filter left nothing of the answer.
            ModelProtocolError: if it broke off, or said nothing.
        """
        if not self.whole:
            raise ModelProtocolError("the stream ended without a finish reason", model=self._model)
        self._halves.end()
        if self._spoken or self._reason == "length":
            return
        if self._reason == "content_filter":
            raise filtered(model=self._model)
        raise ModelProtocolError("the stream said nothing", model=self._model)
