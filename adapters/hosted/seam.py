"""Where an answer that broke off and its continuation by another model meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

__all__ = ["Seam"]


class Seam:
    """Takes from a continuation's beginning what the answer had already.

    A host is sent the beginning without the white space at its end: some refuse it, some templates strip it,
    and tokens begin with their space. So the continuation begins with that space as a rule, and it must not
    be there twice; where it begins with a word instead, the space that was shown does for it.

    Args:
        prefix: The beginning of the answer.
    """

    def __init__(self, prefix: str) -> None:
        self._space = prefix[len(prefix.rstrip()) :]

    def close(self, chunk: ChatCompletionChunk) -> None:
        """Takes its part from a chunk, as long as there is something to take."""
        if not self._space:
            return
        for choice in chunk.choices:
            delta = choice.delta
            if not delta or not delta.content:
                continue
            text = delta.content
            shared = 0
            while shared < min(len(text), len(self._space)) and text[shared] == self._space[shared]:
                shared += 1
            delta.content = text[shared:]
            self._space = self._space[shared:] if shared == len(text) else ""
