"""Which pieces of a sequence are kept, and what they are called.

A sequence is kept in blocks of equal length. A block is named by the model and all tokens up to its end, so
that sequences which begin alike share their blocks, a conversation that grew adds only new ones, and no index
is needed: whoever knows the tokens knows the names. What was computed for a block holds for those tokens
before it and for no others, and the name says just that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapters.local.batching.states import State

__all__ = ["Block", "blocks_of", "packed", "unpacked"]


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a sequence.

    Attributes:
        name: Of the model, and of all tokens up to its end; hexadecimal.
        start: The position of its first token.
        tokens: Its tokens.
    """

    name: str
    start: int
    tokens: list[int]

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)


def blocks_of(model: bytes, tokens: list[int], size: int) -> Iterator[Block]:
    """The whole blocks of a sequence, from its beginning.

    Args:
        model: See `identity`.
        tokens: The sequence.
        size: Tokens of a block.
    """
    digest = hashlib.sha256(model + size.to_bytes(4, "little"))
    for start in range(0, len(tokens) - size + 1, size):
        part = tokens[start : start + size]
        digest.update(_bytes(part))
        yield Block(digest.hexdigest()[:40], start, part)


def packed(model: bytes, block: Block, state: State) -> list[State]:
    """A block's content for the disk, as parts that belong together."""
    return [_head(model, block), state]


def unpacked(model: bytes, block: Block, data: memoryview) -> memoryview | None:
    """The state in a block's content; None if it belongs to another model or other tokens."""
    head = _head(model, block)
    return data[len(head) :] if data[: len(head)] == head else None


def _head(model: bytes, block: Block) -> bytes:
    return model + block.start.to_bytes(4, "little") + _bytes(block.tokens)


def _bytes(tokens: list[int]) -> bytes:
    return np.asarray(tokens, "<i4").tobytes()
