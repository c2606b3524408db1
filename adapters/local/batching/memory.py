"""Sequences in a model's memory: those in use, and finished ones, kept as long as nobody needs room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from adapters.local.batching.cells import Cells, Store
from adapters.local.batching.saving import Saving
from adapters.local.batching.tree import PrefixTree

if TYPE_CHECKING:
    from adapters.local.batching.disk import Disk
    from adapters.local.batching.shelf import Shelf
    from adapters.local.batching.states import State

__all__ = ["Memory"]

#: The least to give up at once, in tokens: one by one would be a walk over all cells for each.
_LEAST_TRIMMED = 256
#: Tokens of its own that a sequence must have to be put on the shelf: fewer are computed at once, if need be.
_LEAST_SHELVED = 16
#: Free cells among those of finished sequences from which on a new one is not begun behind them.
_MOST_GAPS = 256


class _Copy(Protocol):
    """A piece of a sequence that is somewhere else."""

    @property
    def start(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def end(self) -> int: ...


C_contra = TypeVar("C_contra", bound=_Copy, contravariant=True)


class _Tier(Protocol[C_contra]):
    """Where such pieces are: `Shelf`, `Disk`."""

    def read(self, copy: C_contra, /) -> State | None: ...
    def restore(self, copy: C_contra, state: State, sequence: int, /) -> bool: ...


class Memory:
    """Beginnings that were computed are shared, and kept. Pure but for the `Store` it commands.

    Args:
        store: What it commands.
        cells: Tokens that can be held at once.
        window: The most tokens of one sequence.
        sequences: Sequences that can be held at once.
        plugs: Further sequences of the store, for free cells (see `cells`); the one after them is for copies.
        tile: Cells that long prompts are summed up in at once (see `cells`); 0: that does not matter.
        shelf: Where finished sequences go that are in the way; None: nowhere.
        clear: Whether they are as soon as another one is at work, and not only when it needs their room.
        disk: Where beginnings go that are to outlast the model; None: nowhere.
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
        shelf: Shelf | None = None,
        clear: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self._store = store
        self._tree = PrefixTree()
        last = sequences + plugs
        self._cells = Cells(
            store, cells=cells, window=window, plugs=range(sequences, last), scratch=last if tile else None
        )
        self._tile = tile
        self._sequences = sequences
        self._free = list(range(sequences))[::-1]
        self._kept: dict[int, None] = {}  # the least recently used first
        self._shelf = shelf
        self._clear = clear and shelf is not None
        self._disk = disk
        self._saving = Saving(disk, self._in_order)

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self._cells.free

    @property
    def kept(self) -> int:
        """Sequences that are held in case that they are wanted again."""
        return len(self._kept)

    def held(self, tokens: list[int]) -> int:
        """How many tokens at the beginning need not be computed. The last one always is."""
        held = self._tree.match(tokens[:-1])[0]
        return held if self._shelf is None else max(held, self._shelf.reach(tokens[:-1]))

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
            Its number, and how many tokens it holds already: from memory, or copied back.
        """
        if self._clear and self._cells.gaps >= _MOST_GAPS and not self._busy:
            self._put_all_by()  # and what is wanted of it comes back without gaps
        count, source = self._source(tokens)
        pieces, reach = ([], count) if self._shelf is None else self._shelf.find(tokens[:-1], count)
        if not pieces:
            count = self._in_tiles(count, len(tokens))
        sequence = self._begin(tokens, count, source)
        self._saving.begun(sequence, private=private)
        if self._clear:
            self._put_all_by()
        self._clear_ahead(sequence, len(tokens) - count + answer)
        if self._shelf is not None and pieces:
            count = min(reach, self._restore(sequence, count, pieces, self._shelf))
            count = self._in_tiles(count, len(tokens))
            self._trim(sequence, count)
        if self._disk is not None:
            count = self._restore(sequence, count, self._disk.find(tokens[:-1], count), self._disk)
        return sequence, count

    def _in_tiles(self, held: int, length: int) -> int:
        """How much of what is held is used: a long rest is computed in tiles, and begins with one."""
        return held - held % self._tile if self._tile and length - held >= self._tile else held

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
                self._saving.gone(oldest)
                self._trim(oldest, count)
                return oldest
            self._save(oldest)
            self._drop(oldest)
        sequence = self._free.pop()
        self._cells.add(sequence, source, count)
        self._tree.add(sequence, tokens[:count])
        return sequence

    def _restore(self, sequence: int, held: int, copies: Sequence[C_contra], tier: _Tier[C_contra]) -> int:
        """Appends copies, as far as that goes. Returns the tokens that are held then."""
        for copy in copies:
            if copy.start < held:  # it goes on from the middle of what is held
                held = copy.start
                self._trim(sequence, held)
            state = tier.read(copy)
            if state is None or not self.reclaim(len(copy.tokens)):
                break
            (cells,) = self._cells.place([(sequence, len(copy.tokens))])
            if not tier.restore(copy, state, sequence):
                self._cells.undo([(sequence, cells)])
                break
            self._tree.grow(sequence, copy.tokens)
            held = copy.end
        return held

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
        self._saving.kept(sequence, self._tree.length(sequence))
        if self._clear and self._busy:
            self._put_by(sequence)

    @property
    def _busy(self) -> bool:
        return len(self._free) + len(self._kept) < self._sequences

    def _put_all_by(self) -> None:
        for sequence in list(self._kept):
            self._put_by(sequence)

    def _put_by(self, sequence: int) -> None:
        """Takes a kept sequence out of the way of those at work, if nothing is lost with it."""
        if self._shelf is not None and self._cells.sole(sequence) >= _LEAST_SHELVED:
            tokens = self._in_order(sequence)
            disordered = self._tree.length(sequence) - len(tokens) >= _LEAST_SHELVED
            if disordered or not self._saving.may_leave(sequence) or not self._shelf.put(sequence, tokens):
                return
        self._drop(sequence)

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
        """Copies kept sequences to the disk, until all are there or `stop` says so. See `Saving.save`."""
        self._saving.save(stop)

    def _save(self, sequence: int) -> None:
        """Before a kept sequence, or its end, leaves."""
        if self._shelf is not None:
            self._shelf.put(sequence, self._in_order(sequence))
        self._saving.leaves(sequence, self._tree.length(sequence))

    def _in_order(self, sequence: int) -> list[int]:
        """What a sequence holds, without what was computed out of order: that is rounded otherwise."""
        return self._tree.tokens(sequence)[: self._cells.ordered(sequence)]

    def _trim(self, sequence: int, length: int) -> None:
        self._cells.cut(sequence, length)
        self._tree.trim(sequence, length)
        self._saving.trimmed(sequence)

    def _drop(self, sequence: int) -> None:
        self._kept.pop(sequence, None)
        self._saving.gone(sequence)
        self._cells.drop(sequence)
        self._tree.drop(sequence)
        self._free.append(sequence)
