"""Where an answer that broke off and its continuation by another model meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import ModelProtocolError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

__all__ = ["Seam"]

#: A beginning of so many characters that comes again, word for word, was not gone on with.
LEAST_REPEATED = 4
#: So many of them, and then others: the host began another answer.
LEAST_ANEW = 24
#: Characters of a beginning that tell whether it is periodic.
_LOOKED_AT = 200


class Seam:
    """Takes from a continuation's beginning what the answer had already.

    A host is sent the beginning without the white space at its end: some refuse it, some templates strip it,
    and tokens begin with their space. So the continuation begins with that space as a rule, and it must not
    be there twice; where it begins with a word instead, the space that was shown does for it.

    Some hosts repeat the beginning before they go on. What may be its repetition is held back until that is
    known; a text made of one piece over and over ("ha ha ") may well go on with the same.

    Args:
        prefix: The beginning of the answer.
        model: The model's name, for errors.
    """

    def __init__(self, prefix: str, model: str) -> None:
        said = prefix.rstrip()
        self._model = model
        self._space = prefix[len(said) :]
        self._due = said if len(said) >= LEAST_REPEATED and not _is_periodic(said) else ""
        #: So much of it came again already, and is held back.
        self._at = 0

    def close(self, chunk: ChatCompletionChunk) -> None:
        """Takes its part from a chunk, as long as there is something to take.

        Raises:
            ModelProtocolError: if the host answers anew instead of going on.
        """
        if not self._space and not self._due:
            return
        for choice in chunk.choices:
            delta = choice.delta
            if not delta:
                continue
            text = delta.content or ""
            if self._due:
                text = self._without_repetition(text, over=choice.finish_reason is not None)
            text = self._without_space(text)
            if delta.content or text:
                delta.content = text

    def _without_repetition(self, text: str, *, over: bool) -> str:
        """What of the continuation so far, if anything, is known to be new."""
        due, at = self._due, self._at
        shared = _shared(text, due[at : at + len(text)])
        self._at = at + shared
        if self._at < len(due) and shared == len(text) and not over:
            return ""
        self._due = ""
        if self._at == len(due):
            return text[shared:]
        if self._at >= LEAST_ANEW:
            raise ModelProtocolError(
                "the host began another answer instead of going on with this one", model=self._model
            )
        return due[:at] + text

    def _without_space(self, text: str) -> str:
        if not text:
            return text
        shared = _shared(text, self._space)
        self._space = self._space[shared:] if shared == len(text) else ""
        return text[shared:]


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginnings on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _is_periodic(text: str) -> bool:
    """Whether a text is a piece of it over and over, the last time maybe in part, white space aside."""
    bare = "".join(text[:_LOOKED_AT].split())
    return any(bare.startswith(bare[size:]) for size in range(1, len(bare) // 2 + 1))
