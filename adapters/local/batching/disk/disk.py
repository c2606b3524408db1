"""The tier below a model's memory: beginnings that were computed, on disk."""

from __future__ import annotations

from adapters.local.batching.disk.blocks import Block, blocks_of, packed, unpacked
from adapters.local.batching.disk.folder import Folder
from adapters.local.batching.disk.writer import Writer
from adapters.local.batching.states import Copier, State, StateStore

__all__ = ["BLOCK", "Disk"]

#: Tokens of a block: what does not fill one is computed again, in a step or two.
BLOCK = 64
#: Tokens of the shortest sequence that is kept.
LEAST = 256
#: Seconds between two looks while the disk is slower than whoever waits for it.
_LOOK = 0.005


class Disk:
    """Copies blocks between sequences and a folder. For the thread that owns the model.

    Copying out is for that thread, writing for another; reading is done at once, since a block is read in a
    hundredth of the time that it takes to compute.

    Args:
        store: The model's memory.
        scratch: See `Copier`.
        model: Whose states they are; see `identity`.
        folder: Where they are.
        block: Tokens of a block.
        least: Tokens of the shortest sequence that is worth it.
    """

    def __init__(
        self,
        store: StateStore,
        scratch: int,
        model: bytes,
        folder: Folder,
        *,
        block: int = BLOCK,
        least: int = LEAST,
    ) -> None:
        self._copier = Copier(store, scratch)
        self._model = model
        self._folder = folder
        self._block = block
        self._least = least
        self._writer = Writer(folder)

    @property
    def dropped(self) -> int:
        """Blocks that should have been kept and were not: the disk was too slow, or refused."""
        return self._writer.dropped

    def worth(self, length: int) -> bool:
        """Whether a sequence of so many tokens is kept."""
        return length >= self._least

    def find(self, tokens: list[int], held: int) -> list[Block]:
        """The blocks that go on where memory ends.

        Args:
            tokens: What is wanted.
            held: How many of them, from the first, are in memory.

        Returns:
            Neighbours; the first may begin before `held`. Empty if they would add less than a block.
        """
        if len(tokens) < held + self._block:
            return []
        found = []
        for block in blocks_of(self._model, tokens, self._block):
            if block.end <= held:
                continue
            if not self._has(block):
                break
            found.append(block)
        return found if found and found[-1].end - held >= self._block else []

    def missing(self, tokens: list[int]) -> list[Block]:
        """The blocks of a sequence that are not on disk."""
        return [block for block in blocks_of(self._model, tokens, self._block) if not self._has(block)]

    def _has(self, block: Block) -> bool:
        return self._writer.waiting(block.name) is not None or self._folder.has(block.name, self._age(block))

    def _age(self, block: Block) -> int:
        """Seconds. A sequence's end is of no use without its beginning, and so it counts as used earlier."""
        return block.start // self._block

    def save(self, block: Block, sequence: int) -> None:
        """Copies a block out of a sequence, and has it written."""
        if self._writer.full:
            self._writer.dropped += 1
            return
        state = self._copier.out(sequence, block.start, block.end)
        if state is not None:
            self._writer.put(block.name, packed(self._model, block, state), self._age(block))

    def read(self, block: Block) -> State | None:
        """A block's state; None if it is not there (any more)."""
        parts = self._writer.waiting(block.name)
        if parts is not None:
            return parts[-1]
        data = self._folder.read(block.name)
        state = None if data is None else unpacked(self._model, block, data)
        if data is not None and state is None:
            self._folder.discard(block.name, "belongs to another model")
        return state

    def restore(self, block: Block, state: State, sequence: int) -> bool:
        """Puts a block into the first empty cells, as the end of a sequence. Whether that succeeded."""
        if not self._copier.back(state, block.start, block.end, sequence):
            self._folder.discard(block.name, "is not taken by llama.cpp")
            return False
        return True

    @property
    def full(self) -> bool:
        """Whether the next block would be dropped: the disk is slower than whoever computes."""
        return self._writer.full

    def ready(self) -> bool:
        """Waits a moment for the writing to get on, if need be. Whether a block can be saved now."""
        if self._writer.full:
            self._writer.wait(_LOOK)
        return not self._writer.full

    def close(self, seconds: float) -> None:
        """Waits for what is being written, at most so long."""
        self._writer.close(seconds)
