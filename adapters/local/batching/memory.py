"""Sequences in a model's memory: those in use, and finished ones, kept as long as nobody needs room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from adapters.local.batching.cells import Cells, Store
from adapters.local.batching.tree import PrefixTree

if TYPE_CHECKING:
    from adapters.local.batching.disk import Block, Disk

__all__ = ["Memory"]

#: The least to give up at once, in tokens: one by one would be a walk over all cells for each.
_LEAST_TRIMMED = 256


class Memory:
    """Beginnings that were computed are shared, and kept. Pure but for the `Store` it commands.

    Args:
        store: What it commands.
        cells: Tokens that can be held at once.
        window: The most tokens of one sequence.
        sequences: Sequences that can be held at once.
        plugs: Further sequences of the store, for free cells (see `cells`); the one after them is for copies.
        tile: Cells that long prompts are summed up in at once (see `cells`); 0: that does not matter.
        disk: Where beginnings go that leave; None: nowhere.
    """

    def __init__(
        self,
        store: Store,
        *,
        cells: int,
        window: int,
        sequences: int,
        plugs: int,
        tile: int = 0,
        disk: Disk | None = None,
    ) -> None:
        self._store = store
        self._tree = PrefixTree()
        last = sequences + plugs
        self._cells = Cells(
            store, cells=cells, window=window, plugs=range(sequences, last), scratch=last if tile else None
        )
        self._tile = tile
        self._free = list(range(sequences))[::-1]
        self._kept: dict[int, None] = {}  # the least recently used first
        self._disk = disk
        # Kept sequences that may not be on disk, the newest last, and what of them is not; None: unknown.
        self._unsaved: dict[int, list[Block] | None] = {}
        self._private: set[int] = set()  # sequences of which nothing may be written

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self._cells.free

    @property
    def kept(self) -> int:
        """Sequences that are held in case that they are wanted again."""
        return len(self._kept)

    def held(self, tokens: list[int]) -> int:
        """How many tokens at the beginning are in memory. The last one is always computed."""
        return self._tree.match(tokens[:-1])[0]

    def room_for(self, tokens: list[int]) -> tuple[int, int]:
        """What a new sequence could take if nothing else were kept for later.

        Returns:
            Cells, at least: what kept sequences share counts as used. And the tokens of it that are held.
        """
        cells = self.free + sum(self._cells.sole(sequence) for sequence in self._kept)
        held, source = self._tree.match(tokens[:-1])
        if source is not None and source in self._kept:
            cells -= self._cells.sole(source, held)
        return cells, held

    def open(self, tokens: list[int], answer: int = 0, *, private: bool = False) -> tuple[int, int]:
        """A sequence to compute `tokens` in.

        Args:
            tokens: The prompt.
            answer: Tokens that are expected to follow.
            private: Whether nothing of it may be written to the disk.

        Returns:
            Its number, and how many tokens it holds already: from memory, or read from the disk.
        """
        count, source = self._source(tokens)
        if self._tile and len(tokens) - count >= self._tile:
            count -= count % self._tile  # what is left is computed in tiles, and begins with one
        blocks = self._disk.find(tokens[:-1], count) if self._disk is not None else []
        if blocks:
            count = min(count, blocks[0].start)
        sequence = self._begin(tokens, count, source)
        self._private.discard(sequence)  # whose it was before
        if private:
            self._private.add(sequence)
        self._clear_ahead(sequence, len(tokens) - count + answer)
        return sequence, self._restore(sequence, count, blocks)

    def _clear_ahead(self, sequence: int, count: int) -> None:
        """Gives up kept sequences that are in the way of one that is to grow in order."""
        while (missing := count - self._cells.ahead(sequence)) > 0:
            in_the_way = (kept for kept in self._kept if self._cells.reaches(kept, sequence))
            other = next(in_the_way, None)
            if other is None:
                return
            self._give_up(other, missing)

    def _source(self, tokens: list[int]) -> tuple[int, int | None]:
        """How many tokens are in memory, and who holds them."""
        count, source = self._tree.match(tokens[:-1])
        while source is not None and not self._store.holds(source, count):
            if source not in self._kept:
                return 0, None
            self._drop(source)  # of no use for others; and what only goes on at its end is computed again
            count, source = self._tree.match(tokens[:-1])
        return count, source

    def _begin(self, tokens: list[int], count: int, source: int | None) -> int:
        if source is not None and source in self._kept:
            self._kept[source] = self._kept.pop(source)
        if not self._free:
            oldest = next(iter(self._kept))
            if oldest == source:  # the only one that is kept: it goes on as the new sequence
                self._save(oldest)
                self._kept.pop(oldest)
                self._unsaved.pop(oldest, None)
                self._trim(oldest, count)
                return oldest
            self._save(oldest)
            self._drop(oldest)
        sequence = self._free.pop()
        self._cells.add(sequence, source, count)
        self._tree.add(sequence, tokens[:count])
        return sequence

    def _restore(self, sequence: int, count: int, blocks: list[Block]) -> int:
        """Appends blocks from the disk, as far as that goes. Returns the tokens that are held then."""
        for block in blocks:
            state = self._disk.read(block) if self._disk is not None else None
            if self._disk is None or state is None or not self.reclaim(len(block.tokens)):
                break
            (cells,) = self._cells.place([(sequence, len(block.tokens))])
            if not self._disk.restore(block, state, sequence):
                self._cells.undo([(sequence, cells)])
                break
            self._tree.grow(sequence, block.tokens)
            count = block.end
        return count

    def place(self, wanted: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Cells for the next tokens of each sequence; see `cells.Cells.place`."""
        tiles = self._tile and len(wanted) == 1 and wanted[0][1] >= self._tile
        return self._cells.place(wanted, self._tile if tiles else 0)

    def undo(self, placed: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Takes back what was placed: it was not computed."""
        self._cells.undo(placed)

    def computed(self, sequence: int, tokens: list[int]) -> None:
        """Notes tokens that were computed where `place` said: from now on others can share them."""
        self._tree.grow(sequence, tokens)

    def close(self, sequence: int, *, keep: bool = True) -> None:
        """Ends the use of a sequence. What it holds is kept for others, unless it is not worth it."""
        if not keep or self._tree.covered(sequence):
            self._drop(sequence)
            return
        for other in self._tree.beginnings(sequence):  # it holds all that those hold
            if other in self._kept:
                self._drop(other)
        self._kept[sequence] = None
        if self._worth_saving(sequence):
            self._unsaved[sequence] = None

    def reclaim(self, cells: int) -> bool:
        """Gives up kept sequences, the least recently used first, until so many cells are free.

        Returns:
            Whether they are.
        """
        while (missing := cells - self.free) > 0:
            if not self._kept:
                return False
            self._give_up(next(iter(self._kept)), missing)
        return True

    def _give_up(self, sequence: int, cells: int) -> None:
        """Frees so many cells of a kept sequence's end, or all that it has."""
        self._save(sequence)
        own, length = self._cells.sole_tail(sequence), self._tree.length(sequence)
        trimmed = max(cells, _LEAST_TRIMMED)
        if trimmed < own:
            self._trim(sequence, length - trimmed)
        else:
            self._drop(sequence)

    def save(self, stop: Callable[[], bool]) -> None:
        """Copies kept sequences to the disk, the most recently used first, until all are there.

        Args:
            stop: Asked before each block; True ends it early.
        """
        while self._disk is not None and self._unsaved and not stop():
            if self._disk.ready():
                sequence = next(reversed(self._unsaved))
                blocks = self._unsaved[sequence]
                if blocks is None:
                    blocks = self._unsaved[sequence] = self._missing(sequence)[::-1]
                if blocks:
                    self._disk.save(blocks.pop(), sequence)
                if not blocks:
                    del self._unsaved[sequence]

    def _save(self, sequence: int) -> None:
        """Before a kept sequence, or its end, leaves."""
        if self._disk is not None and self._worth_saving(sequence):
            for block in self._missing(sequence):
                self._disk.save(block, sequence)

    def _missing(self, sequence: int) -> list[Block]:
        if self._disk is None:
            return []
        # What was computed out of order is rounded otherwise, and a block would keep that.
        return self._disk.missing(self._tree.tokens(sequence)[: self._cells.ordered(sequence)])

    def _worth_saving(self, sequence: int) -> bool:
        if self._disk is None or sequence in self._private:
            return False
        return self._disk.worth(self._tree.length(sequence))

    def _trim(self, sequence: int, length: int) -> None:
        self._cells.cut(sequence, length)
        self._tree.trim(sequence, length)
        if sequence in self._unsaved:
            self._unsaved[sequence] = None

    def _drop(self, sequence: int) -> None:
        self._kept.pop(sequence, None)
        self._unsaved.pop(sequence, None)
        self._cells.drop(sequence)
        self._tree.drop(sequence)
        self._free.append(sequence)
