"""Many chats on one model: who shares, who waits, who makes room, and that no company changes a text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.local.batching import BatchingEngine
from adapters.local.batching.loaded import cells_for
from adapters.local.batching.tree import common_prefix
from adapters.local.context import MOST_ROWS
from adapters.local.engine import Job, Sampling
from tests.adapters.local.batching.kit import Greedy, Heard, engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until

pytestmark = pytest.mark.gguf

SYSTEM = "you are a helpful assistant that answers questions and calls tools when they are needed " * 4
#: A token that is drawn for ever: a letter of the vocabulary's own order.
ENDLESS = Sampling(temperature=0, logit_bias={65: 100.0})


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[BatchingEngine]:
    made = engine_of(tiny("qwen3"))
    yield made
    made.close()


def said(engine: BatchingEngine, prompt: str, most: int = 8) -> Heard:
    job, heard = job_of(prompt, most)
    engine.submit(job)
    assert heard.text is not None
    return heard


def endless(
    heard: Heard | None = None, session: str | None = None, most: int | None = None
) -> tuple[Job, Heard]:
    heard = heard or Heard()
    return (
        Job(prompt="the cat", listener=heard, sampling=ENDLESS, session=session, max_tokens=most),
        heard,
    )


#: Logits that two ways through the kernels may round apart: these random weights spread theirs over some ten
#: units, SmolLM2 over some thirty.
CLOSE = 0.5


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_eight_short_prompts_at_once_say_what_each_says_alone(tiny: Tiny, architecture: str) -> None:
    path = tiny(architecture)  # type: ignore[arg-type]  # one of the names
    prompts = [f"question {number}: " + "the dog and " * (number % 4) for number in range(8)]
    assert together(path, prompts, 24, n_ctx=2048) == []


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_after_a_shared_beginning_only_tokens_that_are_as_likely_change_places(
    tiny: Tiny, architecture: str
) -> None:
    """Alone, a long prompt is computed at once; in company only the first one is, the others' ends are not."""
    path = tiny(architecture)  # type: ignore[arg-type]  # one of the names
    prompts = [f"{SYSTEM}question {number}: " + "the dog and " * number for number in range(8)]
    assert max(together(path, prompts, 24, n_ctx=2048), default=0) < CLOSE


def test_smollm_answers_the_same_in_company_but_for_ties(smollm: Path) -> None:
    short = [f"What is {number} + {number}?" for number in range(4)]
    assert together(smollm, short, 6, n_ctx=1024) == []
    long = [SYSTEM + prompt for prompt in short]
    assert max(together(smollm, long, 12, n_ctx=1024), default=0) < CLOSE


def together(path: Path, prompts: list[str], most: int, *, n_ctx: int) -> list[float]:
    """Asks all at once. How much less likely, in logits, the first tokens are that differ from those alone."""
    engine, greedy = engine_of(path, n_ctx=n_ctx), Greedy(path, n_ctx)
    jobs = [job_of(prompt, most) for prompt in prompts]
    for job, _ in jobs:
        engine.submit(job)
    gaps = []
    try:
        for prompt, (_, heard) in zip(prompts, jobs, strict=True):
            assert heard.text is not None
            alone = greedy.pieces(prompt, most)
            if heard.pieces != alone:
                place = common_prefix(heard.pieces, alone)
                other = heard.pieces[place] if place < len(heard.pieces) else None
                gaps.append(greedy.gap(prompt, place, other))
    finally:
        engine.close()
        greedy.close()
    return gaps


def test_a_shared_beginning_is_computed_once_even_if_all_come_at_once(engine: BatchingEngine) -> None:
    started = threading.Event()
    engine.open(lambda _: started.set())
    assert started.wait(20)
    jobs = [job_of(f"{SYSTEM} question {number}") for number in range(6)]
    for job, _ in jobs:
        engine.submit(job)
    heards = [heard for _, heard in jobs]
    assert all(heard.text is not None for heard in heards)
    fresh = sorted(heard.prompt_tokens - heard.cached_tokens for heard in heards)
    assert fresh[-1] == heards[0].prompt_tokens  # the first one's
    assert fresh[-2] < 20


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(engine: BatchingEngine) -> None:
    first = said(engine, SYSTEM, 12)
    prompt = SYSTEM + first.text.decode("utf-8", "replace") + " and the dog"
    second = said(engine, prompt)
    assert second.cached_tokens >= first.prompt_tokens


def test_the_same_prompt_again_computes_one_token(engine: BatchingEngine) -> None:
    first, second = said(engine, SYSTEM), said(engine, SYSTEM)
    assert (first.cached_tokens, second.cached_tokens) == (0, first.prompt_tokens - 1)
    assert first.text == second.text


def test_a_session_with_many_requests_does_not_starve_another(tiny: Tiny) -> None:
    engine = engine_of(tiny("qwen3"), max_parallel=2)
    finished: list[str] = []

    class Noted(Heard):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
            super().started(prompt_tokens, cached_tokens)
            finished.append(self.name)

    blockers = [endless() for _ in range(2)]
    for job, heard in blockers:
        engine.submit(job)
        assert heard.begun.wait(20)
    jobs = [job_of("dog", 2, session="busy", heard=Noted(f"busy{number}")) for number in range(20)]
    jobs.append(job_of("cat", 2, session="calm", heard=Noted("calm")))
    for job, _ in jobs:
        engine.submit(job)
    until(lambda: engine.load().waiting == 21)
    for job, _ in blockers:
        engine.cancel(job)
    assert all(heard.text is not None for _, heard in jobs)
    assert finished.index("calm") < 3
    assert [name for name in finished if name != "calm"] == [f"busy{number}" for number in range(20)]
    engine.close()


def test_an_answer_goes_on_while_a_long_prompt_is_read(tiny: Tiny) -> None:
    engine = engine_of(tiny("qwen3"))
    running, heard = endless()
    engine.submit(running)
    until(lambda: len(heard.pieces) > 3)
    before = len(heard.pieces)
    seen: list[int] = []

    class Looking(Heard):
        def piece(self, text: bytes, *_score: object) -> bool:
            seen.append(len(heard.pieces))
            return super().piece(text)

    long, reads = job_of("the lazy dog " * 450, 1, heard=Looking())
    engine.submit(long)
    assert reads.over.wait(60)
    assert reads.prompt_tokens > 1000
    assert seen[0] - before >= reads.prompt_tokens // MOST_ROWS
    engine.cancel(running)
    engine.close()


def test_answers_longer_than_expected_make_room_for_each_other_and_lose_nothing(tiny: Tiny) -> None:
    """Six windows do not fit at once: the youngest begin again, and nobody hears of it."""
    path = tiny("qwen3")
    engine = engine_of(path, n_ctx=2048, max_parallel=8)
    assert cells_for(2048, 8, 1024) < 8 * 1900
    jobs = [endless(most=1900) for _ in range(8)]
    prompts = ["the dog", " spain", " rain", " today", " mat", " sat", " fox", " over"]
    for (job, _), prompt in zip(jobs, prompts, strict=True):
        job.prompt = prompt
        engine.submit(job)
    for _, heard in jobs:
        assert heard.text
        assert (heard.finish, heard.count, len(heard.pieces)) == ("length", 1900, 1900)
        assert len(set(heard.pieces)) == 1
    assert engine.load().running == 0
    engine.close()


def test_one_alone_can_use_the_whole_window_however_much_is_kept(tiny: Tiny) -> None:
    engine = engine_of(tiny("qwen3"), n_ctx=256, max_parallel=1)
    for number in range(8):
        said(engine, f"{number} " + "the dog " * 20, 30)
    job, heard = endless()
    engine.submit(job)
    assert heard.text
    assert heard.prompt_tokens + heard.count == 256
    engine.close()


def test_cancelling_one_leaves_the_others_text_alone(engine: BatchingEngine, tiny: Tiny) -> None:
    greedy = Greedy(tiny("qwen3"), 2048)
    expected = b"".join(greedy.pieces("the quick brown", 60))
    greedy.close()
    blocker, begun = endless()
    engine.submit(blocker)
    assert begun.begun.wait(20)
    job, heard = job_of("the quick brown", 60)
    engine.submit(job)
    until(lambda: len(heard.pieces) > 5)
    engine.cancel(blocker)
    assert heard.text == expected
    assert not begun.over.is_set()


def test_a_bad_grammar_fails_its_own_job_only(engine: BatchingEngine) -> None:
    good, heard = job_of("the dog", 40)
    bad, told = job_of("the cat")
    bad.grammar = "root ::= nowhere"
    engine.submit(good)
    engine.submit(bad)
    with pytest.raises(Exception, match="schema"):
        assert told.text
    assert heard.text


@pytest.mark.parametrize(
    ("window", "slots", "bytes_per_token", "cells"),
    [
        (8192, 1, 20_000, 8192),
        (8192, 8, 20_000, 16_384),
        (1024, 8, 20_000, 8192),
        (8192, 8, 1 << 20, 8192 + 1024),
    ],
)
def test_cells_are_one_window_and_a_bounded_rest(
    window: int, slots: int, bytes_per_token: int, cells: int
) -> None:
    assert cells_for(window, slots, bytes_per_token) == cells
