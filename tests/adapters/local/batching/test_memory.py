"""The memory's figures and commands, against cells that are only simulated."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.local.batching.memory import Memory
from adapters.local.batching.separate import Separate


class FakeStore:
    """What llama.cpp does: new tokens go into the first empty cells, a cell may be of several sequences."""

    def __init__(self, cells: int) -> None:
        self.owners: list[set[tuple[int, int]]] = [set() for _ in range(cells)]  # (sequence, position)
        self.token = [-1] * cells
        self._head = 0
        self.worn: set[int] = set()  # sequences whose window was given to others

    def compute(self, rows: list[tuple[int, int, int]]) -> None:
        """Appends tokens: (sequence, position, token)."""
        if self._head > sum(map(bool, self.owners)) + 2 * len(rows):
            self._head = 0
        for sequence, position, token in rows:
            empty = [cell for cell, owners in enumerate(self.owners) if not owners]
            cell = next((cell for cell in empty if cell >= self._head), None)
            if cell is None:
                cell = empty[0]
            self.owners[cell] = {(sequence, position)}
            self.token[cell] = token
            self._head = cell + 1

    def share(self, source: int, target: int, start: int, end: int) -> None:
        for owners in self.owners:
            shared = {(target, at) for who, at in owners if who == source and start <= at < end}
            owners.update(shared)

    def cut(self, sequence: int, start: int, end: int = -1) -> None:
        for cell, owners in enumerate(self.owners):
            gone = {
                (who, at) for who, at in owners if who == sequence and at >= start and (end < 0 or at < end)
            }
            owners.difference_update(gone)
            if gone and not owners:
                self._head = min(self._head, cell)

    def holds(self, sequence: int, length: int) -> bool:
        return sequence not in self.worn

    def double(self, source: int, target: int, count: int) -> bool:
        tokens = self.tokens(source)[:count]
        assert len(tokens) == count
        self.compute([(target, position, token) for position, token in enumerate(tokens)])
        return True

    def cells(self, sequence: int) -> list[int]:
        """In the order of the positions."""
        found = {at: cell for cell, owners in enumerate(self.owners) for who, at in owners if who == sequence}
        assert sorted(found) == list(range(len(found))), "positions have no holes"
        return [found[position] for position in sorted(found)]

    def tokens(self, sequence: int) -> list[int]:
        return [self.token[cell] for cell in self.cells(sequence)]

    def used(self, sequences: int) -> int:
        return sum(any(who < sequences for who, _ in owners) for owners in self.owners)


def compute(store: FakeStore, memory: Memory, parts: list[tuple[int, int, list[int]]]) -> list[list[int]]:
    """One step: tokens for each sequence, from a position on."""
    placed = memory.place([(sequence, len(tokens)) for sequence, _, tokens in parts])
    rows = [
        (cell, (sequence, start + place, token))
        for (sequence, start, tokens), cells in zip(parts, placed, strict=True)
        for place, (token, cell) in enumerate(zip(tokens, cells, strict=True))
    ]
    store.compute([row for _, row in sorted(rows)])
    for sequence, _, tokens in parts:
        memory.computed(sequence, tokens)
    return placed


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=10)
steps = st.lists(
    st.tuples(
        st.integers(0, 3), prompts, st.integers(1, 6), st.sampled_from(["go", "go", "keep", "drop", "undo"])
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([48, 400]), st.sampled_from([0, 3]))
def test_its_figures_are_the_cells_and_nothing_held_is_computed_again(
    done: list[tuple[int, list[int], int, str]], cells: int, tile: int
) -> None:
    """Four chats come and go: each step begins one, or goes on with all, or ends one, or is broken off."""
    store = FakeStore(cells)
    memory = Memory(store, cells=cells, window=12, sequences=7, plugs=12, tile=tile)
    running: dict[int, tuple[int, list[int], int]] = {}  # its sequence, its tokens, how many are computed
    orderly = True
    for chat, tokens, size, what in done:
        if chat not in running:
            held = memory.held(tokens)
            sequence, ready = memory.open(tokens)
            assert ready == held - (held % tile if tile and len(tokens) - held >= tile else 0) < len(tokens)
            assert store.tokens(sequence) == tokens[:ready]
            running[chat] = (sequence, tokens, ready)
        elif what in ("keep", "drop"):
            memory.close(running.pop(chat)[0], keep=what == "keep")
        else:
            parts = [(s, at, t[at : at + size]) for s, t, at in running.values() if t[at:]]
            if not memory.reclaim(sum(len(part) for *_, part in parts)):
                continue
            if what == "undo":
                orderly = False  # what was let go for nothing is used first, wherever it is
                placed = memory.place([(s, len(part)) for s, _, part in parts])
                memory.undo([(s, found) for (s, *_), found in zip(parts, placed, strict=True)])
                continue
            placed = compute(store, memory, parts)
            for (s, at, part), found in zip(parts, placed, strict=True):
                assert store.cells(s)[at:] == found
                assert store.tokens(s)[at:] == part
            running = {c: (s, t, min(len(t), at + size)) for c, (s, t, at) in running.items()}
        assert cells - memory.free == store.used(7) <= cells
        if orderly and cells == 400:
            assert all(store.cells(s) == sorted(store.cells(s)) for s, *_ in running.values())
    for sequence, *_ in running.values():
        memory.close(sequence, keep=False)
    assert memory.reclaim(cells)
    assert store.used(7) == memory.kept == 0


def filled(store: FakeStore, memory: Memory, tokens: list[int]) -> None:
    sequence, held = memory.open(tokens)
    compute(store, memory, [(sequence, held, tokens[held:])])
    memory.close(sequence)


def made(cells: int, *, sequences: int = 8, tile: int = 0) -> tuple[FakeStore, Memory]:
    store = FakeStore(cells)
    return store, Memory(store, cells=cells, window=cells, sequences=sequences, plugs=8, tile=tile)


def test_the_least_recently_used_goes_first_and_what_others_share_stays() -> None:
    store, memory = made(900)
    system = list(range(300))
    for user in (5001, 5002):
        filled(store, memory, [*system, *[user] * 290])
    filled(store, memory, [*system, *[5001] * 290, 1])  # used again: 5002 is the oldest now
    assert memory.reclaim(memory.free + 290)
    assert memory.held([*system, *[5002] * 290, 1]) == 300
    assert memory.held([*system, *[5001] * 290, 1]) == 590


def test_an_old_conversation_loses_its_end_before_its_beginning() -> None:
    store, memory = made(600)
    filled(store, memory, list(range(600)))
    assert memory.reclaim(200)
    assert memory.held(list(range(601))) == 344  # 256 tokens at least go at once


def test_a_grown_conversation_is_kept_once() -> None:
    store, memory = made(100)
    filled(store, memory, list(range(10)))
    filled(store, memory, list(range(20)))
    assert (memory.kept, store.used(8)) == (1, 20)


def test_what_another_one_holds_is_not_kept_twice() -> None:
    store, memory = made(100)
    one, _ = memory.open([1, 2, 3, 4])
    two, _ = memory.open([1, 2, 3])
    compute(store, memory, [(one, 0, [1, 2, 3, 4]), (two, 0, [1, 2, 3])])
    assert store.used(8) == 7
    memory.close(one)
    memory.close(two)
    assert (memory.kept, store.used(8)) == (1, 4)


def test_what_a_sliding_window_lost_is_computed_again_and_not_shared() -> None:
    store, memory = made(100)
    filled(store, memory, [1, 2, 3, 4])
    store.worn = {0}
    sequence, held = memory.open([1, 2, 3, 9])
    assert (held, memory.kept) == (0, 0)
    store.worn = {sequence}  # one that is at work stays, and is not shared
    compute(store, memory, [(sequence, 0, [1, 2, 3, 9])])
    assert memory.open([1, 2, 3, 9])[1] == 0


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    store, memory = made(100)
    filled(store, memory, [1, 2, 3])
    assert memory.open([1, 2, 3])[1] == 2


def test_when_sequences_run_out_the_oldest_kept_one_makes_way() -> None:
    store, memory = made(100, sequences=2)
    filled(store, memory, [1, 2])
    filled(store, memory, [3, 4])
    assert memory.open([5, 6])[1] == 0
    assert memory.open([3, 4, 5])[1] == 2  # the only kept one goes on as the new one
    with pytest.raises(StopIteration):
        memory.open([7])


def test_a_sequences_cells_stay_in_order_when_others_come_and_go() -> None:
    store, memory = made(60)
    early, _ = memory.open([0])
    filled(store, memory, [7] * 10)
    compute(store, memory, [(early, 0, [1] * 5)])  # behind the kept ones
    assert memory.reclaim(memory.free + 10)  # the kept ones' cells are free now, and before it
    compute(store, memory, [(early, 5, [2] * 5)])
    assert store.cells(early) == list(range(10, 20))
    late, _ = memory.open([9])
    compute(store, memory, [(late, 0, [3] * 12), (early, 10, [2])])
    assert store.cells(late) == [*range(10), 20, 21]
    assert store.cells(early) == [*range(10, 20), 22]


def test_a_long_prompt_begins_with_a_tile_and_what_is_before_it_stays_free() -> None:
    store, memory = made(60, tile=4)
    filled(store, memory, [1] * 10)
    long, held = memory.open([2] * 9)
    assert held == 0
    compute(store, memory, [(long, 0, [2] * 9)])
    assert store.cells(long) == list(range(12, 21))
    assert memory.free == 60 - 19
    short, _ = memory.open([3, 3])
    compute(store, memory, [(short, 0, [3, 3])])
    assert store.cells(short) == [10, 11]  # copies were there, which nobody needs


def test_a_long_prompt_finds_a_tile_among_cells_that_were_given_up() -> None:
    store, memory = made(40, tile=4)
    filled(store, memory, [1] * 6)
    filled(store, memory, [2] * 20)
    filled(store, memory, [3, 3])  # stays, behind them
    assert memory.reclaim(memory.free + 12)
    blocker, _ = memory.open([4])
    compute(store, memory, [(blocker, 0, [4])])
    sequence, _ = memory.open([5] * 8)
    compute(store, memory, [(sequence, 0, [5] * 8)])
    cells = store.cells(sequence)
    assert cells[0] % 4 == 0
    assert cells == list(range(cells[0], cells[0] + 8))
    assert cells[0] < 28  # none of those that were never used


def test_a_long_prompt_begins_with_a_tile_however_little_there_is_to_copy() -> None:
    store, memory = made(40, tile=4)
    filled(store, memory, [1])
    sequence, _ = memory.open([2] * 8)
    compute(store, memory, [(sequence, 0, [2] * 8)])
    assert store.cells(sequence) == list(range(4, 12))


def test_cells_behind_the_last_one_in_use_are_empty_again() -> None:
    """llama.cpp looks at all cells up to the last that is not, in every step."""
    store, memory = made(40, tile=4)
    filled(store, memory, [1] * 3)
    chats = [memory.open([number] * 9)[0] for number in (2, 3)]
    for number, sequence in enumerate(chats, 2):
        compute(store, memory, [(sequence, 0, [number] * 9)])
    for sequence in chats:  # the one that is over first was not the last
        memory.close(sequence, keep=False)
    assert [bool(owners) for owners in store.owners] == [True] * 3 + [False] * 37
    sequence, _ = memory.open([4])
    compute(store, memory, [(sequence, 0, [4])])
    assert store.cells(sequence) == [3]


def test_only_whole_tiles_of_a_beginning_are_shared_if_a_tile_is_to_be_computed() -> None:
    store, memory = made(100, tile=4)
    filled(store, memory, list(range(10)))
    assert memory.open([*range(10), 91, 92, 93, 94])[1] == 8
    assert memory.open([*range(10), 91, 92, 93])[1] == 10
    assert memory.open([*range(3), 91, 92, 93, 94])[1] == 0


def test_kept_ones_make_way_for_one_that_could_not_grow_in_order() -> None:
    store, memory = made(40)
    filled(store, memory, [*range(5), *[1] * 20])
    sequence, held = memory.open([*range(5), 7, 7], answer=20)
    assert held == 5
    for position in range(5, 27):
        compute(store, memory, [(sequence, position, [7])])
    assert store.cells(sequence) == sorted(store.cells(sequence))


def test_kept_ones_that_are_not_in_the_way_stay() -> None:
    store, memory = made(40)
    filled(store, memory, [1] * 20)
    memory.open([7, 7], answer=15)
    assert memory.kept == 1


def test_recurrent_models_share_nothing() -> None:
    store = FakeStore(20)
    memory = Separate(store, cells=20, sequences=2)
    sequence, held = memory.open([1, 2, 3])
    memory.place([(sequence, 3)])
    memory.computed(sequence, [1, 2, 3])
    assert (held, memory.held([1, 2, 3]), memory.free) == (0, 0, 17)
    memory.undo([(sequence, [0])])
    assert memory.room_for([1]) == (18, 0)
    memory.close(sequence)
    assert memory.reclaim(20)
    assert not memory.reclaim(21)
