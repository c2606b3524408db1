"""A memory with a disk below it: what leaves the one is found on the other."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.local.batching.disk.disk import Disk
from adapters.local.batching.disk.folder import Data, Folder
from adapters.local.batching.memory import Memory
from adapters.local.batching.states import State
from tests.adapters.local.batching.test_memory import FakeStore, compute, prompts

SEQUENCES, PLUGS, BLOCK, LEAST = 7, 12, 3, 4
SCRATCH = SEQUENCES + PLUGS


class StateStore(FakeStore):
    """Gives and takes states as llama.cpp does: in the order of the cells."""

    refuses = False

    def state(self, sequence: int, start: int, end: int) -> bytes | None:
        found = [
            (at, self.token[cell])
            for cell, owners in enumerate(self.owners)
            for who, at in owners
            if who == sequence
        ]
        return (
            json.dumps(found).encode() if sorted(at for at, _ in found) == list(range(start, end)) else None
        )

    def restore(self, sequence: int, state: State, start: int, end: int) -> bool:
        assert not any(who == sequence for owners in self.owners for who, _ in owners)
        if self.refuses:
            return False
        self.compute([(sequence, at, token) for at, token in json.loads(bytes(state))])
        return True


class Shelf(Folder):
    """A folder in a dictionary, which files vanish from."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.files: dict[str, bytes] = {}
        self.written = 0
        self.lock = threading.Lock()

    def has(self, name: str, age: int = 0) -> bool:
        return name in self.files

    def read(self, name: str) -> memoryview | None:
        data = self.files.get(name)
        return None if data is None else memoryview(data)

    def write(self, name: str, parts: Sequence[Data], age: int = 0) -> bool:
        with self.lock:
            self.files[name] = b"".join(parts)
            self.written += 1
        return True

    def discard(self, name: str, why: str) -> None:
        self.files.pop(name, None)


@contextmanager
def made(shelf: Shelf, cells: int) -> Iterator[tuple[StateStore, Memory]]:
    store = StateStore(cells)
    disk = Disk(store, SCRATCH, b"m", shelf, block=BLOCK, least=LEAST)
    yield store, Memory(store, cells=cells, window=cells, sequences=SEQUENCES, plugs=PLUGS, disk=disk)
    disk.close(20)
    assert disk.dropped == 0


def filled(store: StateStore, memory: Memory, tokens: list[int]) -> int:
    sequence, held = memory.open(tokens)
    assert store.tokens(sequence) == tokens[:held]
    compute(store, memory, [(sequence, held, tokens[held:])])
    memory.close(sequence)
    return held


def saved(memory: Memory) -> None:
    memory.save(lambda: False)


steps = st.lists(
    st.tuples(
        st.integers(0, 3),
        prompts,
        st.integers(1, 6),
        st.sampled_from(["go", "go", "keep", "keep", "save", "vanish", "refuse"]),
    ),
    max_size=40,
)


class Run:
    """Chats that come and go on one memory, until it is lost."""

    def __init__(self, shelf: Shelf, store: StateStore, memory: Memory, *, roomy: bool) -> None:
        self.shelf, self.store, self.memory = shelf, store, memory
        self.running: dict[
            int, tuple[int, list[int], int]
        ] = {}  # its sequence, tokens, how many are computed
        self.orderly = roomy

    def do(self, chat: int, tokens: list[int], size: int, what: str) -> None:
        self.store.refuses = what == "refuse"
        self.orderly = self.orderly and not self.store.refuses  # what was let go for nothing is used first
        if what == "vanish":
            for name in list(self.shelf.files)[::2]:
                self.shelf.files.pop(name, None)
        elif what == "save":
            saved(self.memory)
        elif chat not in self.running:
            held = self.memory.held(tokens)
            sequence, ready = self.memory.open(tokens)
            assert held - BLOCK < ready < len(tokens)
            self.running[chat] = (sequence, tokens, ready)
        elif what == "keep":
            self.memory.close(self.running.pop(chat)[0])
        else:
            self.compute(size)

    def compute(self, size: int) -> None:
        parts = [(s, now, t[now : now + size]) for s, t, now in self.running.values() if t[now:]]
        if self.memory.reclaim(sum(len(part) for *_, part in parts)):
            compute(self.store, self.memory, parts)
            self.running = {c: (s, t, min(len(t), now + size)) for c, (s, t, now) in self.running.items()}

    def check(self, cells: int) -> None:
        assert cells - self.memory.free == self.store.used(SEQUENCES) <= cells
        assert not any(who == SCRATCH for owners in self.store.owners for who, _ in owners)
        for sequence, tokens, ready in self.running.values():
            assert self.store.tokens(sequence) == tokens[:ready]
            assert not self.orderly or self.store.cells(sequence) == sorted(self.store.cells(sequence))


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=4), st.sampled_from([48, 400]))
def test_what_comes_from_disk_is_what_was_computed_and_its_figures_are_the_cells(
    lives: list[list[tuple[int, list[int], int, str]]], cells: int
) -> None:
    """Four chats come and go in each life; at any time files may be lost, or llama.cpp refuse them."""
    shelf = Shelf()
    for done in lives:
        with made(shelf, cells) as (store, memory):
            run = Run(shelf, store, memory, roomy=cells == 400)
            for step in done:
                run.do(*step)
                run.check(cells)


CHAT = list(range(100, 120))


def test_a_kept_conversation_goes_on_after_a_restart() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        assert filled(store, memory, CHAT) == 0
        saved(memory)
    with made(shelf, 60) as (store, memory):
        assert memory.held([*CHAT, 1]) == 0
        assert filled(store, memory, [*CHAT, 1]) == 18  # six blocks of three
        assert store.cells(0) == list(range(21))


def test_what_makes_room_is_found_again() -> None:
    with made(Shelf(), 60) as (store, memory):
        filled(store, memory, CHAT)
        assert memory.reclaim(60)
        assert memory.held([*CHAT, 1]) == 0
        assert filled(store, memory, [*CHAT, 1]) == 18


def test_the_oldest_of_too_many_is_found_again() -> None:
    with made(Shelf(), 400) as (store, memory):
        for number in range(SEQUENCES + 1):
            filled(store, memory, [number, *CHAT])
        assert memory.held([0, *CHAT, 1]) == 0
        assert filled(store, memory, [0, *CHAT, 1]) == 21


def test_only_what_is_new_of_a_conversation_is_written() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT)
        saved(memory)
    assert shelf.written == 6
    with made(shelf, 60) as (store, memory):
        filled(store, memory, [*CHAT, 1, 2, 3, 4])
        saved(memory)
    assert shelf.written == 8


def test_a_beginning_that_several_share_is_written_once() -> None:
    shelf = Shelf()
    with made(shelf, 200) as (store, memory):
        for user in range(3):
            filled(store, memory, [*CHAT[:18], user, user, user])
        saved(memory)
    assert shelf.written == 6 + 3


def test_what_is_short_is_not_written() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT[: LEAST - 1])
        saved(memory)
        assert memory.reclaim(60)
    assert shelf.files == {}


def test_memory_and_disk_are_put_together() -> None:
    with made(Shelf(), 400) as (store, memory):
        filled(store, memory, CHAT)
        assert memory.reclaim(400)
        filled(store, memory, CHAT[:7])
        assert memory.held([*CHAT, 1]) == 7
        assert filled(store, memory, [*CHAT, 1]) == 18


def test_what_adds_less_than_a_block_is_not_read() -> None:
    shelf = Shelf()
    with made(shelf, 400) as (store, memory):
        filled(store, memory, CHAT)
        assert memory.reclaim(400)
        filled(store, memory, CHAT[:17])
        assert filled(store, memory, [*CHAT, 1]) == 17


def test_a_hole_on_the_disk_ends_what_is_restored() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT)
        saved(memory)
    del shelf.files[list(shelf.files)[3]]
    with made(shelf, 60) as (store, memory):
        assert filled(store, memory, [*CHAT, 1]) == 9


def test_a_state_that_is_refused_is_removed_and_computed() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT)
        saved(memory)
    with made(shelf, 60) as (store, memory):
        store.refuses = True
        assert filled(store, memory, [*CHAT, 1]) == 0
        assert len(shelf.files) == 5
        assert 60 - memory.free == store.used(SEQUENCES) == 21


def test_it_restores_no_more_than_there_is_room_for() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT)
        saved(memory)
    with made(shelf, 30) as (store, memory):
        busy, _ = memory.open([1])
        compute(store, memory, [(busy, 0, [1] * 20)])
        sequence, ready = memory.open([*CHAT, 1])
        assert ready == 9
        assert store.tokens(sequence) == CHAT[:9]


def test_saving_stops_when_it_is_told_to_and_goes_on_later() -> None:
    shelf = Shelf()
    with made(shelf, 60) as (store, memory):
        filled(store, memory, CHAT)
        asked = iter([False, False, True])
        memory.save(lambda: next(asked))
        saved(memory)
    assert shelf.written == 6


def test_what_is_out_of_order_is_not_written() -> None:
    """Its numbers are right, but whoever restores it would sum them up in another order."""
    shelf = Shelf()
    with made(shelf, 24) as (store, memory):
        one, _ = memory.open([1])
        compute(store, memory, [(one, 0, [1] * 10)])
        two, _ = memory.open([2])
        compute(store, memory, [(two, 0, [2] * 10)])
        memory.close(one, keep=False)
        compute(store, memory, [(two, 10, [2] * 10)])
        assert store.cells(two) == [*range(10, 20), *range(6), *range(20, 24)]
        memory.close(two)
        saved(memory)
    assert len(shelf.files) == 10 // BLOCK


@pytest.mark.parametrize("lost", [1, 2])
def test_a_conversation_that_lost_its_end_is_whole_on_disk(lost: int) -> None:
    shelf = Shelf()
    long = list(range(1000))
    with made(shelf, 1000) as (store, memory):
        filled(store, memory, long)
        for _ in range(lost):
            assert memory.reclaim(memory.free + 1)
        assert memory.held([*long, 1]) == 1000 - 256 * lost
        assert filled(store, memory, [*long[:990], 1]) == 990
