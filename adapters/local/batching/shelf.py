"""Finished sequences in plain memory, out of the way of those that run.

On a CPU llama.cpp looks at every cell up to the last one in use for every token that it computes, whosever
they are: 3,000 cells that are kept for later make a step of 16 chats a fifth to a half longer (SmolLM2, two
cores). To copy 64 tokens out of the cells takes 80 us there, to copy them back 70 us, to compute them 130 ms.

Pieces form a tree, as the sequences do: each goes on from somewhere in another one. Unlike in `tree`, nothing
is ever split, since a state cannot be: who shares only the beginning of a piece goes on from its middle.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from adapters.local.batching.states import Copier, State, StateStore
from adapters.local.batching.tree import common_prefix
from adapters.local.residency.prediction import shelf_for

if TYPE_CHECKING:
    from adapters.local.context import NativeContext

__all__ = ["Piece", "Shelf", "shelf_of"]

#: Tokens of a piece at most: of one that is shared in part, the rest is copied for nothing.
_SIZE = 64
#: What is larger than this part of the shelf would clear it for one sequence's sake.
_LARGEST = 0.5


class Piece:
    """Some tokens of a sequence and what was computed for them.

    Attributes:
        start: The position of the first one.
        tokens: Which.
        state: What was computed, for all of them together.
        parent: The piece that it goes on from, not always at its end; None: it is a beginning.
        children: Those that go on from it, by the position where they do and the token there: no two of them
            begin alike.
    """

    __slots__ = ("children", "parent", "start", "state", "tokens")

    def __init__(self, parent: Piece | None, start: int, tokens: list[int], state: State) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.state = state
        self.children: dict[tuple[int, int], Piece] = {}

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)


class Shelf:
    """Keeps copies of sequences, as many as there is room for. For the thread that owns the model.

    Args:
        store: The model's memory.
        scratch: See `Copier`.
        limit: Tokens that may be kept; the least recently used go first.
        size: Tokens of a piece, at most.
    """

    def __init__(self, store: StateStore, scratch: int, limit: int, *, size: int = _SIZE) -> None:
        self._copier = Copier(store, scratch)
        self._limit = limit
        self._size = size
        self._first: dict[tuple[int, int], Piece] = {}
        # The least recently used first. Who uses a piece uses all before it: the first one has no children.
        self._order: OrderedDict[Piece, None] = OrderedDict()
        self._held = 0  # tokens

    @property
    def empty(self) -> float:
        """The share of it that is; other threads may ask."""
        return 1 - self._held / self._limit

    def reach(self, tokens: list[int]) -> int:
        """How many tokens from the first are here."""
        return self._walk(tokens)[1]

    def find(self, tokens: list[int], held: int) -> tuple[list[Piece], int]:
        """What goes on from the first `held` tokens, which are somewhere else.

        Returns:
            Pieces that follow each other, of which the first may begin before `held`, and how far their
            tokens are the ones wanted. None if more would be there twice than is won.
        """
        path, reach = self._walk(tokens)
        self._use(path)
        ends = [*(piece.start for piece in path[1:]), reach]  # of what is used of each
        found = [piece for piece, end in zip(path, ends, strict=False) if end > held]
        if not found or reach - held <= held - found[0].start:
            return [], held
        return found, reach

    def put(self, sequence: int, tokens: list[int]) -> bool:
        """Copies what a sequence holds and is not here yet.

        Args:
            sequence: Where it is.
            tokens: What it holds.

        Returns:
            Whether all of it is here now. If not, as much as there was room for.
        """
        path, start = self._walk(tokens)
        if len(tokens) - start > self._limit * _LARGEST:
            return False
        self._use(path)
        while start < len(tokens):
            end = min(len(tokens), (start // self._size + 1) * self._size)
            if not self._make_room(end - start, path[-1:]):
                return False
            state = self._copier.out(sequence, start, end)
            if state is None:
                return False
            piece = Piece(path[-1] if path else None, start, tokens[start:end], state)
            self._siblings(piece)[start, tokens[start]] = piece
            self._held += end - start
            path.append(piece)
            self._use(path)
            start = end
        return True

    def read(self, piece: Piece) -> State:
        """What was computed for a piece."""
        return piece.state

    def restore(self, piece: Piece, state: State, sequence: int) -> bool:
        """Puts a piece into the first empty cells, as the end of a sequence. Whether that succeeded."""
        return self._copier.back(state, piece.start, piece.end, sequence)

    def clear(self) -> None:
        """Frees everything at once: pieces know each other, and would be left to the collector."""
        for piece in self._order:
            piece.children.clear()
        self._order.clear()
        self._first.clear()
        self._held = 0

    def _walk(self, tokens: list[int]) -> tuple[list[Piece], int]:
        """The pieces that hold a sequence's beginning, and how long that is."""
        path: list[Piece] = []
        at, children = 0, self._first
        while at < len(tokens) and (piece := children.get((at, tokens[at]))) is not None:
            at += common_prefix(piece.tokens, tokens[at : at + len(piece.tokens)])
            path.append(piece)
            children = piece.children
        return path, at

    def _use(self, path: list[Piece]) -> None:
        for piece in reversed(path):
            self._order[piece] = None
            self._order.move_to_end(piece)

    def _make_room(self, count: int, needed: list[Piece]) -> bool:
        while self._held + count > self._limit:
            oldest = next(iter(self._order), None)
            if oldest is None or oldest in needed:
                return False
            del self._order[oldest], self._siblings(oldest)[oldest.start, oldest.tokens[0]]
            self._held -= len(oldest.tokens)
        return True

    def _siblings(self, piece: Piece) -> dict[tuple[int, int], Piece]:
        return self._first if piece.parent is None else piece.parent.children


def shelf_of(context: NativeContext, scratch: int, window: int) -> Shelf | None:
    """The shelf beside a model's memory; None if there can be none.

    Args:
        context: Where it computes.
        scratch: See `Copier`.
        window: Tokens of one request's whole context.
    """
    room = shelf_for(window, context.cells)
    # llama.cpp leaves out what is further back than a sliding window: a piece would have holes.
    short = 0 < context.window < 2 * _SIZE
    return Shelf(context, scratch, room) if room and not short else None
