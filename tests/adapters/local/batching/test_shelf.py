"""Finished sequences leave the cells when others are at work, and come back as they were."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.local.batching import BatchingEngine, memory
from adapters.local.batching.memory import Memory
from adapters.local.batching.shelf import Piece, Shelf
from adapters.local.batching.tree import common_prefix
from tests.adapters.local.batching.disk.test_memory import PLUGS, SCRATCH, SEQUENCES, StateStore
from tests.adapters.local.batching.kit import Greedy, engine_of, job_of
from tests.adapters.local.batching.test_memory import compute
from tests.adapters.local.batching.test_serving import CLOSE
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until

SIZE = 8


def made(
    cells: int = 400, *, limit: int = 400, tile: int = 0, clear: bool = True
) -> tuple[StateStore, Memory, Shelf]:
    store = StateStore(cells)
    shelf = Shelf(store, SCRATCH, limit, size=SIZE)
    held = Memory(
        store,
        cells=cells,
        window=cells,
        sequences=SEQUENCES,
        plugs=PLUGS,
        tile=tile,
        shelf=shelf,
        clear=clear,
    )
    return store, held, shelf


def filled(store: StateStore, memory: Memory, tokens: list[int]) -> tuple[int, int]:
    """A sequence that has computed these tokens, and how many of them it did not have to."""
    sequence, held = memory.open(tokens)
    assert store.tokens(sequence) == tokens[:held]
    compute(store, memory, [(sequence, held, tokens[held:])])
    return sequence, held


def asked(store: StateStore, memory: Memory, tokens: list[int]) -> int:
    sequence, held = filled(store, memory, tokens)
    memory.close(sequence)
    return held


def chat(number: int, length: int = 40) -> list[int]:
    return [number * 1000 + place for place in range(length)]


SYSTEM = list(range(60))


class TestLeaving:
    def test_what_is_over_while_another_one_is_at_work_leaves_the_cells_and_comes_back(self) -> None:
        store, memory, shelf = made()
        filled(store, memory, [1])
        asked(store, memory, chat(2))
        assert (memory.kept, store.used(SEQUENCES), shelf.empty) == (0, 1, 0.9)
        assert memory.held([*chat(2), 9]) == 40
        sequence, held = filled(store, memory, [*chat(2), 9])
        assert held == 40
        assert store.cells(sequence) == list(range(1, 42))

    def test_what_is_over_when_nobody_is_at_work_stays_until_somebody_is(self) -> None:
        store, memory, shelf = made()
        asked(store, memory, chat(1))
        assert (memory.kept, shelf.empty) == (1, 1.0)
        sequence, _ = filled(store, memory, chat(2))
        assert (memory.kept, shelf.empty) == (0, 0.9)
        assert store.cells(sequence) == list(range(40))

    def test_the_conversation_that_goes_on_stays(self) -> None:
        store, memory, shelf = made()
        asked(store, memory, chat(1))
        _, held = filled(store, memory, [*chat(1), 9])
        assert (held, memory.kept, shelf.empty) == (40, 0, 1.0)

    def test_what_is_shared_with_one_at_work_stays_for_it(self) -> None:
        store, memory, _ = made()
        asked(store, memory, [*SYSTEM, *chat(1)])
        sequence, held = filled(store, memory, [*SYSTEM, *chat(2)])
        assert held == 60
        assert store.cells(sequence) == list(range(100))
        assert store.used(SEQUENCES) == 100

    def test_a_few_tokens_are_not_worth_a_copy(self) -> None:
        store, memory, shelf = made()
        filled(store, memory, [1])
        asked(store, memory, chat(2, 15))
        assert (memory.kept, store.used(SEQUENCES), shelf.empty) == (0, 1, 1.0)

    def test_what_would_clear_the_shelf_stays_in_the_cells(self) -> None:
        store, memory, shelf = made(limit=100)
        filled(store, memory, [1])
        asked(store, memory, chat(2, 51))
        assert (memory.kept, shelf.empty) == (1, 1.0)
        assert asked(store, memory, [*chat(2, 51), 9]) == 51

    def test_what_was_computed_out_of_order_stays_in_the_cells(self) -> None:
        """Its numbers are right, but whoever restores it would sum them up in another order."""
        store, memory, shelf = made(100)
        one, _ = filled(store, memory, [1] * 20)
        two, _ = filled(store, memory, [2] * 70)
        memory.close(one, keep=False)
        compute(store, memory, [(two, 70, [2] * 25)])
        busy, _ = filled(store, memory, [3])
        memory.close(two)
        assert (memory.kept, shelf.empty) == (1, 1.0)
        memory.close(busy)

    def test_on_a_gpu_only_what_must_make_room_leaves(self) -> None:
        store, memory, shelf = made(100, clear=False)
        filled(store, memory, [1])
        asked(store, memory, chat(2))
        assert (memory.kept, shelf.empty) == (1, 1.0)
        assert memory.reclaim(99)
        assert asked(store, memory, [*chat(2), 9]) == 40

    def test_the_next_one_begins_where_the_cells_do(self) -> None:
        """The last of many is left alone far behind; a beginning that it shares would keep all others there."""
        store, memory, _ = made(1000, limit=1000)
        first, _ = filled(store, memory, chat(1, 300))
        last, _ = filled(store, memory, [*SYSTEM, *chat(2)])
        memory.close(first)
        memory.close(last)
        assert store.used(SEQUENCES) == 100
        sequence, held = filled(store, memory, [*SYSTEM, *chat(3)])
        assert held == 60
        assert store.cells(sequence) == list(range(100))


class TestComingBack:
    def test_a_beginning_is_there_once_and_goes_on_in_the_middle_of_a_piece(self) -> None:
        store, memory, shelf = made()
        filled(store, memory, [1])
        for number in (2, 3):
            asked(store, memory, [*SYSTEM, *chat(number)])
        assert shelf.empty == 1 - 140 / 400
        for number in (2, 3):
            assert asked(store, memory, [*SYSTEM, *chat(number), 9]) == 100

    def test_who_begins_alike_gets_just_what_is_alike(self) -> None:
        store, memory, _ = made()
        filled(store, memory, [1])
        asked(store, memory, [*SYSTEM, *chat(2)])
        sequence, held = filled(store, memory, [*SYSTEM[:58], *chat(3)])
        assert held == 58
        assert store.cells(sequence) == list(range(1, 99))
        assert memory.free == 400 - 99

    def test_what_the_cells_hold_is_not_copied_back(self) -> None:
        store, memory, _ = made()
        filled(store, memory, [*SYSTEM, 1])
        asked(store, memory, [*SYSTEM, *chat(2)])
        sequence, held = filled(store, memory, [*SYSTEM, *chat(2), 9])
        assert held == 100
        assert store.cells(sequence)[:56] == list(range(56))  # up to where its first own piece begins
        assert store.used(SEQUENCES) == 61 + 4 + 41

    def test_who_goes_on_from_the_middle_of_a_piece_gets_nothing_twice(self) -> None:
        store, memory, _ = made()
        filled(store, memory, [*SYSTEM, 1])
        for number in (2, 3):
            asked(store, memory, [*SYSTEM, *chat(number)])
        _, held = filled(store, memory, [*SYSTEM, *chat(3), 9])
        assert held == 100
        assert store.used(SEQUENCES) == 61 + 41

    def test_not_if_more_would_be_there_twice_than_is_won(self) -> None:
        store, memory, _ = made()
        filled(store, memory, [*SYSTEM, 1])
        asked(store, memory, [*SYSTEM, *chat(2)])
        _, held = filled(store, memory, [*SYSTEM, *chat(2, 3), 9])
        assert held == 60

    def test_a_long_rest_is_computed_from_a_tile_on(self) -> None:
        store, memory, _ = made(tile=8)
        filled(store, memory, [1])
        asked(store, memory, chat(2, 30))
        assert memory.open([*chat(2, 30), *chat(3, 8)])[1] == 24
        assert memory.open([*chat(2, 30), *chat(3, 7)])[1] == 30

    def test_what_llama_cpp_does_not_take_is_computed(self) -> None:
        store, memory, _ = made()
        filled(store, memory, [1])
        asked(store, memory, chat(2))
        store.refuses = True
        assert asked(store, memory, [*chat(2), 9]) == 0
        assert 400 - memory.free == store.used(SEQUENCES)

    def test_no_more_comes_back_than_there_is_room_for(self) -> None:
        store, memory, _ = made(60)
        busy, _ = filled(store, memory, [1])
        asked(store, memory, chat(2))
        compute(store, memory, [(busy, 1, [1] * 29)])
        sequence, held = memory.open([*chat(2), 9])
        assert held == 24
        assert store.tokens(sequence) == chat(2)[:24]


class TestTheLeastRecentlyUsed:
    def test_it_goes_first(self) -> None:
        store, memory, shelf = made(limit=100)
        filled(store, memory, [1])
        asked(store, memory, chat(2))
        asked(store, memory, chat(3))
        assert asked(store, memory, [*chat(2), 9]) == 40
        asked(store, memory, chat(4))
        assert [memory.held([*chat(number), 9]) for number in (2, 3, 4)] == [40, 16, 40]
        assert 0 <= shelf.empty < 0.05

    def test_a_sequences_end_goes_before_its_beginning(self) -> None:
        store, memory, _ = made(limit=100)
        filled(store, memory, [1])
        asked(store, memory, [*SYSTEM[:24], *chat(2, 24)])
        asked(store, memory, [*SYSTEM[:24], *chat(3, 24)])
        asked(store, memory, chat(4, 45))
        held = [memory.held([*SYSTEM[:24], *chat(number, 24), 9]) for number in (2, 3)]
        assert held == [24, 48]

    def test_one_that_has_room_for_nothing_else_goes_as_far_as_it_can(self) -> None:
        store, memory, shelf = made(limit=40)
        filled(store, memory, [1])
        for number in (2, 3):
            sequence, _ = filled(store, memory, chat(number, 20))
            memory.close(sequence)
        grown, held = filled(store, memory, [*chat(2, 20), *chat(5, 20)])
        assert held == 20
        memory.close(grown)
        assert shelf.empty == 0
        assert not shelf.put(0, chat(6, 21)), "more than half of it for one"

    def test_all_of_it_is_freed_at_once(self) -> None:
        store, memory, shelf = made()
        filled(store, memory, [1])
        asked(store, memory, chat(2))
        gc.disable()
        try:
            before = alive(Piece)
            shelf.clear()
            assert before - alive(Piece) == 5
        finally:
            gc.enable()
        assert (shelf.empty, memory.held([*chat(2), 9])) == (1.0, 0)


def alive(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12)
steps = st.lists(
    st.tuples(st.integers(0, 3), prompts, st.integers(1, 6), st.sampled_from(["go", "go", "keep", "refuse"])),
    max_size=50,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([48, 400]), st.sampled_from([6, 30, 400]), st.sampled_from([0, 3]))
def test_whatever_comes_back_is_what_was_computed_and_its_figures_are_the_cells(
    done: list[tuple[int, list[int], int, str]], cells: int, limit: int, tile: int
) -> None:
    """Four chats come and go; llama.cpp may refuse what it is given."""
    store = StateStore(cells)
    shelf = Shelf(store, SCRATCH, limit, size=3)
    running: dict[int, tuple[int, list[int], int]] = {}  # its sequence, its tokens, how many are computed
    orderly = cells == 400
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory, "_LEAST_SHELVED", 2)
        patched.setattr(memory, "_MOST_GAPS", 4)
        held = Memory(
            store,
            cells=cells,
            window=14,
            sequences=SEQUENCES,
            plugs=PLUGS,
            tile=tile,
            shelf=shelf,
            clear=True,
        )
        for number, tokens, size, what in done:
            store.refuses = what == "refuse"
            orderly = orderly and not store.refuses  # what was let go for nothing is used first
            if number not in running:
                known = held.held(tokens)
                sequence, ready = held.open(tokens)
                assert ready <= known < len(tokens)
                running[number] = (sequence, tokens, ready)
            elif what == "keep":
                held.close(running.pop(number)[0])
            else:
                parts = [(s, now, t[now : now + size]) for s, t, now in running.values() if t[now:]]
                if held.reclaim(sum(len(part) for *_, part in parts)):
                    compute(store, held, parts)
                    running = {c: (s, t, min(len(t), now + size)) for c, (s, t, now) in running.items()}
            assert cells - held.free == store.used(SEQUENCES) <= cells
            assert not any(who == SCRATCH for owners in store.owners for who, _ in owners)
            assert 0 <= shelf.empty <= 1
            for sequence, wanted, ready in running.values():
                assert store.tokens(sequence) == wanted[:ready]
                assert not orderly or store.cells(sequence) == sorted(store.cells(sequence))


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[BatchingEngine]:
    made = engine_of(tiny("qwen3"), n_ctx=512, max_parallel=4)
    yield made
    made.close()


@pytest.mark.gguf
class TestWithAModel:
    def test_a_conversation_that_was_out_of_the_way_goes_on_as_if_it_never_was(
        self, engine: BatchingEngine, tiny: Tiny
    ) -> None:
        greedy = Greedy(tiny("qwen3"), 512)
        busy, hears = job_of("the cat", 400)
        engine.submit(busy)
        assert hears.begun.wait(20)
        try:
            prompts = [f"question {number}: " + "the dog and the cat " * 3 for number in range(3)]
            known = [0, 0, 0]
            for _ in range(2):
                for place, prompt in enumerate(prompts):
                    job, heard = job_of(prompt, 24)
                    engine.submit(job)
                    assert heard.text is not None
                    alone = greedy.pieces(prompt, 24)
                    if heard.pieces != alone:  # a longer one is computed in two ways, in company and alone
                        at = common_prefix(heard.pieces, alone)
                        assert greedy.gap(prompt, at, heard.pieces[at]) < CLOSE
                    prompts[place] = prompt + heard.text.decode("utf-8", "replace") + " and then"
                    assert heard.cached_tokens >= known[place]
                    known[place] = heard.prompt_tokens
            loaded = engine._worker._loaded
            assert loaded is not None
            assert loaded.shelf is not None
            assert 0 < loaded.shelf.empty == engine._worker.untaken() < 1
        finally:
            engine.cancel(busy)
            greedy.close()

    def test_it_goes_with_the_model(self, engine: BatchingEngine) -> None:
        jobs = [job_of(f"question {number}: " + "the dog and the cat " * 3, 8) for number in range(4)]
        for job, _ in jobs:
            engine.submit(job)
        assert all(heard.text for _, heard in jobs)
        until(lambda: engine.load().running == 0)
        shelf = engine._worker._loaded.shelf  # type: ignore[union-attr]  # it is loaded
        assert shelf is not None
        assert shelf.empty < 1
        assert engine._worker.leave()
        until(lambda: not engine.load().resident)
        assert shelf.empty == 1
        assert engine._worker.untaken() == 1

    def test_a_model_for_one_request_at_a_time_has_none(self, tiny: Tiny) -> None:
        single = engine_of(tiny("qwen3"), n_ctx=512, max_parallel=1)
        try:
            job, heard = job_of("the cat", 2)
            single.submit(job)
            assert heard.text is not None
            assert single._worker._loaded.shelf is None  # type: ignore[union-attr]  # it is loaded
        finally:
            single.close()


@pytest.mark.gguf
def test_states_come_back_bit_by_bit(smollm: Path) -> None:
    """A chat is asked again after its cells were given to others: each token must be as likely as before."""
    engine, greedy = engine_of(smollm, n_ctx=1024, max_parallel=4), Greedy(smollm, 1024)
    prompt = "The capital of France is"
    try:
        jobs = [job_of(prompt, 16), *(job_of(f"{number} cats and", 16) for number in range(3))]
        for job, _ in jobs:
            engine.submit(job)
        first = jobs[0][1].text
        assert first == b"".join(greedy.pieces(prompt, 16))
        again = prompt + first.decode()
        rest = [job_of(again, 16), *(job_of(f"{number} dogs and", 16) for number in range(3))]
        for job, _ in rest:
            engine.submit(job)
        assert rest[0][1].text == b"".join(greedy.pieces(again, 16))
        assert rest[0][1].cached_tokens >= 16
    finally:
        engine.close()
        greedy.close()
