"""What may come before the part of an answer that a grammar holds."""

from __future__ import annotations

from adapters.local.engine import Prelude
from adapters.local.native import NativeModel

__all__ = ["Thoughts"]


class Thoughts:
    """Which tokens may stand in a prelude, and where it is over.

    Attributes:
        due: Tokens that are not drawn: the closing text, once the model would have ended its turn.
    """

    def __init__(self, model: NativeModel, prelude: Prelude) -> None:
        self.due: list[int] = []
        self._model = model
        self._prelude = prelude
        self._closing = prelude.closing.encode()
        self._without = [text.encode() for text in prelude.without]
        self._longest = max(map(len, (self._closing, *self._without)))
        self._tail = b""

    def takes(self, token: int) -> bytes | None:
        """The token's bytes; None if it cannot stand here.

        Control tokens cannot, and in the token that closes nothing but space may follow: what comes after is
        the grammar's. The end of the turn can, and means the end of the thoughts.
        """
        piece = self._model.piece(token, special=True)
        if self._model.ends_turn(token):
            return piece
        if self._model.is_control(token) and piece not in self._closing:
            return None
        _, closed, rest = (self._tail + piece).partition(self._closing)
        wrong = rest.strip() if closed else any(mark in self._tail + piece for mark in self._without)
        return None if wrong else piece

    def close(self) -> None:
        """The model would end its turn: the closing text is due."""
        tokens = self._model.tokenize(self._prelude.closing)
        self.due = [token for token in tokens if token != self._model.bos]

    def note(self, token: int) -> bool:
        """Goes on after a token; tells whether the prelude is over."""
        text = self._tail + self._model.piece(token, special=True)
        self._tail = text[-self._longest :]
        return self._closing in text
