"""Which finished sequences are not on disk yet, and which must never be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.local.batching.disk import Block, Disk

__all__ = ["Saving"]


class Saving:
    """What of the sequences in memory goes to the disk, and when.

    Args:
        disk: Where they go; None: nowhere, and nothing here does anything.
        held: What a sequence holds, as far as it may be copied.
    """

    def __init__(self, disk: Disk | None, held: Callable[[int], list[int]]) -> None:
        self._disk = disk
        self._held = held
        # The newest last, and what of them is not on disk; None: unknown.
        self._unsaved: dict[int, list[Block] | None] = {}
        self._private: set[int] = set()

    def begun(self, sequence: int, *, private: bool) -> None:
        """A sequence is somebody's; if `private`, nothing of it may be written."""
        self._private.discard(sequence)  # whose it was before
        if private:
            self._private.add(sequence)

    def kept(self, sequence: int, length: int) -> None:
        """A sequence of so many tokens is over, and kept."""
        if self._worth(sequence, length):
            self._unsaved[sequence] = None

    def trimmed(self, sequence: int) -> None:
        """A sequence lost its end."""
        if sequence in self._unsaved:
            self._unsaved[sequence] = None

    def gone(self, sequence: int) -> None:
        """A sequence is kept no more."""
        self._unsaved.pop(sequence, None)

    def leaves(self, sequence: int, length: int) -> None:
        """Before a kept sequence of so many tokens, or its end, has to leave: copies what the disk takes."""
        if self._worth(sequence, length):
            for block in self._missing(sequence):
                self._save(block, sequence)

    def may_leave(self, sequence: int) -> bool:
        """Copies what is missing of a kept sequence while the disk keeps up. Whether all of it is there."""
        if self._disk is None or sequence not in self._unsaved:
            return True
        for block in self._missing(sequence):
            if self._disk.full:
                return False
            self._save(block, sequence)
        return True

    def save(self, stop: Callable[[], bool]) -> None:
        """Copies kept sequences, the most recently used first, until all are there.

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
                    self._save(blocks.pop(), sequence)
                if not blocks:
                    del self._unsaved[sequence]

    def _save(self, block: Block, sequence: int) -> None:
        if self._disk is not None:
            self._disk.save(block, sequence)

    def _missing(self, sequence: int) -> list[Block]:
        return [] if self._disk is None else self._disk.missing(self._held(sequence))

    def _worth(self, sequence: int, length: int) -> bool:
        return self._disk is not None and sequence not in self._private and self._disk.worth(length)
