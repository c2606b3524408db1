"""Which cell of the model's memory each token is in, and which it gets next.

llama.cpp puts new tokens into the first cells that are empty, and sums up a sequence in the order of its
cells. Floats do not forgive another order: a chat's text would depend on what was in memory before it. So the
cells of a sequence are kept in the order of its tokens. llama.cpp cannot be told where to put a token, but it
can be left no choice: free cells are held by sequences that nobody computes (*plugs*), and those that are
wanted next are let go, exactly so many. A cell that nobody holds any more goes over to a plug; no data moves.

Long prompts are summed up in tiles of so many neighbouring cells. So that each tile holds the tokens that it
would hold in an empty memory, they begin where a tile begins; cells before it that are empty, and that
llama.cpp would use first, are filled with copies.

Pure but for the `Store` it commands. Should its picture ever be wrong, then only the order is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

__all__ = ["Cells", "Store"]


class Store(Protocol):
    """The cells themselves. A sequence is a number; positions count from 0."""

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Makes the source's cells of these positions the target's, too."""
        ...

    def cut(self, sequence: int, start: int, end: int = -1) -> None:
        """Takes positions from a sequence; -1: to its end. Cells without a sequence are empty."""
        ...

    def double(self, source: int, target: int, count: int) -> bool:
        """Copies the first `count` positions of the source into the first empty cells, as an empty target's.

        Returns:
            Whether it could. If not, the target is empty.
        """
        ...

    def holds(self, sequence: int, length: int) -> bool:
        """Whether a sequence's first tokens, so many, can be gone on from."""
        ...


class Cells:
    """The memory's cells.

    Args:
        store: What it commands.
        cells: How many there are.
        window: The most tokens of one sequence.
        plugs: Sequences of the store that it may use to hold free cells.
        scratch: One more, for copies; None: none are made.
    """

    def __init__(
        self, store: Store, *, cells: int, window: int, plugs: Sequence[int], scratch: int | None = None
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._total = cells
        self._owners = np.zeros(cells, np.int16)
        self._of: dict[int, list[int]] = {}
        self._frontier = 0  # from here on no cell is used: llama.cpp looks at none of them
        self._plugged: list[int] = []  # ascending
        self._plug_of: dict[int, tuple[int, int]] = {}  # a plugged cell's plug (by place) and position there
        self._plugs = plugs
        self._taken: np.ndarray[Any, np.dtype[np.bool_]] = np.zeros((len(plugs), window), np.bool_)
        self._empty: list[int] = []  # free without a plug: llama.cpp will use these first; ascending

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self._total - self._frontier + len(self._plugged) + len(self._empty)

    @property
    def gaps(self) -> int:
        """Free cells before the last one in use: they are looked at, too."""
        return len(self._plugged) + len(self._empty)

    def sole(self, sequence: int, end: int | None = None) -> int:
        """Cells of a sequence's first `end` tokens (None: of all) that no other sequence shares."""
        return int(np.count_nonzero(self._owners[self._of[sequence][:end]] == 1))

    def sole_tail(self, sequence: int) -> int:
        """Tokens at a sequence's end that no other sequence shares the cells of."""
        shared = np.flatnonzero(self._owners[self._of[sequence]] > 1)
        return len(self._of[sequence]) - (int(shared[-1]) + 1 if len(shared) else 0)

    def ordered(self, sequence: int) -> int:
        """How many tokens of a sequence, from the first, are in cells of their own order."""
        cells = self._of[sequence]
        if cells == sorted(cells):  # nearly always
            return len(cells)
        breaks = (place for place, (one, other) in enumerate(pairwise(cells), 1) if one > other)
        return next(breaks, len(cells))

    def add(self, sequence: int, source: int | None = None, count: int = 0) -> None:
        """A new sequence, which shares the first `count` cells of the source."""
        cells = self._of[source][:count] if source is not None else []
        self._of[sequence] = cells
        if source is not None and cells:
            self._owners[cells] += 1
            self._store.share(source, sequence, 0, count)

    def ahead(self, sequence: int) -> int:
        """Free cells behind a sequence's last one: so much it can grow in order."""
        last = self._last(sequence)
        plugged = len(self._plugged) - bisect_right(self._plugged, last)
        return plugged + self._total - self._frontier + sum(cell > last for cell in self._empty)

    def reaches(self, sequence: int, other: int) -> bool:
        """Whether a sequence has cells behind another one's last."""
        return self._last(sequence) > self._last(other)

    def _last(self, sequence: int) -> int:
        return max(self._of[sequence], default=-1)

    def place(self, wanted: Sequence[tuple[int, int]], tile: int = 0) -> list[list[int]]:
        """Finds cells for the next tokens, and leaves the store no others.

        Args:
            wanted: Sequences, each with how many tokens will be computed at its end; together no more than
                `free`.
            tile: Cells of a tile that they are to begin with, if there are such; 0: that does not matter.

        Returns:
            The cells of each, ascending. The store must be given the tokens in the order of these.
        """
        ahead = self._take_ahead(wanted)
        if ahead is not None:
            return ahead
        found = []
        for sequence, count in wanted:
            cells = self._take_next(sequence) if count == 1 and not self._empty else None
            if cells is not None:
                self._owners[cells[0]] = 1
            else:
                tiles = self._take_tiles(sequence, count, tile) if tile else None
                cells = tiles or self._take(sequence, count)
                self._owners[cells] = 1
            self._of[sequence] += cells
            found.append(cells)
        return found

    def _take_ahead(self, wanted: Sequence[tuple[int, int]]) -> list[list[int]] | None:
        """What `place` gives for one token each where no cell was let go yet; None: some were."""
        first, end = self._frontier, self._frontier + len(wanted)
        if self._plugged or self._empty or end > self._total or any(count != 1 for _, count in wanted):
            return None
        self._frontier = end
        self._owners[first:end] = 1
        for cell, (sequence, _) in enumerate(wanted, first):
            self._of[sequence].append(cell)
        return [[cell] for cell in range(first, end)]

    def _take_next(self, sequence: int) -> list[int] | None:
        """What `_take` gives for one token where no cell is empty, by a shorter way; None: there is none."""
        own = self._of[sequence]
        place = bisect_right(self._plugged, own[-1] if own else -1)
        if place == len(self._plugged):
            if self._frontier < self._total:
                self._frontier += 1
                return [self._frontier - 1]
            if not self._plugged:
                return None
            place = 0  # out of order: the memory is full
        cell = self._plugged.pop(place)
        plug, position = self._plug_of.pop(cell)
        self._taken[plug, position] = False
        self._store.cut(self._plugs[plug], position, position + 1)
        return [cell]

    def _take(self, sequence: int, count: int) -> list[int]:
        cells, self._empty = self._empty[:count], self._empty[count:]
        last = max((*self._of[sequence][-1:], *cells[-1:]), default=-1)
        start = bisect_right(self._plugged, last)
        cells += self._unplug(start, count - len(cells))
        fresh = min(count - len(cells), self._total - self._frontier)
        cells += range(self._frontier, self._frontier + fresh)
        self._frontier += fresh
        cells += self._unplug(0, count - len(cells))  # out of order: the memory is full
        return sorted(cells)

    def _take_tiles(self, sequence: int, count: int, tile: int) -> list[int] | None:
        """Neighbouring cells behind the sequence's last that begin with a tile; None: there are none such."""
        if self._empty or len(self._of[sequence]) % tile:
            return None
        last = self._last(sequence)
        free = np.asarray(self._plugged[bisect_right(self._plugged, last) :], np.intp)
        for first, end in _runs(free):
            start = -(-first // tile) * tile
            if start + count <= end:
                return self._unplug(bisect_left(self._plugged, start), count)
        start = -(-self._frontier // tile) * tile
        if start + count > self._total or not self._pad(start - self._frontier):
            return None
        self._frontier = start + count
        return list(range(start, start + count))

    def _pad(self, count: int) -> bool:
        """Fills empty cells with copies, which plugs hold. Whether it could."""
        while count:
            donor = max(self._of, key=lambda one: len(self._of[one]))  # the sequence to be placed is there
            size = min(count, len(self._of[donor]))
            if self._scratch is None or not size or not self._store.double(donor, self._scratch, size):
                return False
            cells = list(range(self._frontier, self._frontier + size))
            self._of[self._scratch] = cells
            self._owners[cells] = 1
            self._frontier += size
            self._let_go(self._scratch, 0)
            del self._of[self._scratch]
            if self._empty:
                return False
            count -= size
        return True

    def _unplug(self, start: int, count: int) -> list[int]:
        cells = self._plugged[start : start + count]
        del self._plugged[start : start + count]
        # Cells of chats that ran together lie among each other, a plug's positions do not: few cuts do.
        run: tuple[int, int, int] | None = None  # a plug, and its positions from - to
        for plug, position in sorted(self._plug_of.pop(cell) for cell in cells):
            self._taken[plug, position] = False
            if run is not None and run[0] == plug and run[2] == position:
                run = (plug, run[1], position + 1)
                continue
            if run is not None:
                self._store.cut(self._plugs[run[0]], run[1], run[2])
            run = (plug, position, position + 1)
        if run is not None:
            self._store.cut(self._plugs[run[0]], run[1], run[2])
        return cells

    def undo(self, placed: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Takes back what `place` found for each sequence: nothing of it was computed or is kept."""
        for sequence, cells in placed:
            self._owners[list(cells)] = 0
            del self._of[sequence][-len(cells) :]
            self._empty += cells
        self._empty.sort()

    def cut(self, sequence: int, length: int) -> None:
        """Takes cells from a sequence's end until it has `length`."""
        self._let_go(sequence, length)
        self._draw_back()

    def _let_go(self, sequence: int, length: int) -> None:
        own = self._of[sequence]
        if length >= len(own):
            return
        cells = np.asarray(own[length:])
        left = self._owners[cells] - 1
        self._owners[cells] = left
        gone = np.flatnonzero(left == 0)
        for start, end in _runs(gone):
            self._plug(sequence, length + start, length + end)
        self._store.cut(sequence, length)
        del own[length:]
        self._plugged.sort()
        self._empty.sort()

    def _draw_back(self) -> None:
        """Lets go of plugged cells behind the last one in use: each would be looked at in every step."""
        start = self._frontier
        place = len(self._plugged)
        while place and self._plugged[place - 1] == start - 1:
            start, place = start - 1, place - 1
        if start < self._frontier:
            self._unplug(place, self._frontier - start)
            self._frontier = start

    def drop(self, sequence: int) -> None:
        """Forgets a sequence."""
        self.cut(sequence, 0)
        del self._of[sequence]

    def _plug(self, sequence: int, start: int, end: int) -> None:
        """Hands cells that become free to a plug that has none at these positions."""
        cells = self._of[sequence][start:end]
        usable = np.flatnonzero(~self._taken[:, start:end].any(axis=1))
        if len(usable):
            plug = int(usable[0])
            self._store.share(sequence, self._plugs[plug], start, end)
            self._taken[plug, start:end] = True
            self._plugged += cells
            self._plug_of.update((cell, (plug, start + place)) for place, cell in enumerate(cells))
        elif end - start > 1:
            middle = (start + end) // 2
            self._plug(sequence, start, middle)
            self._plug(sequence, middle, end)
        else:
            self._empty += cells


def _runs(cells: np.ndarray[Any, np.dtype[np.intp]]) -> list[tuple[int, int]]:
    """Ascending cells as ranges of neighbours, each with the cell after its last."""
    return [(int(cells[start]), int(cells[end - 1]) + 1) for start, end in _neighbours(cells)]


def _neighbours(places: np.ndarray[Any, np.dtype[np.intp]]) -> list[tuple[int, int]]:
    """Where in ascending numbers neighbours follow each other, from - to."""
    if not len(places):
        return []
    breaks = [0, *(np.flatnonzero(np.diff(places) > 1) + 1).tolist(), len(places)]
    return list(pairwise(breaks))
