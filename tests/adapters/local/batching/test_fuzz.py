"""Random arrivals, lengths, cancels and stops, against what the model says when asked alone.

`ROUTER_FUZZ_SECONDS` says how long (10 unless set), `ROUTER_FUZZ_SEED` from which seed.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from adapters.local.batching import BatchingEngine
from adapters.local.batching.memory import Memory
from adapters.local.batching.tree import common_prefix
from adapters.local.engine import Job
from tests.adapters.local.batching.kit import Greedy, Heard, engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until

pytestmark = pytest.mark.gguf

SECONDS = float(os.environ.get("ROUTER_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("ROUTER_FUZZ_SEED", "7"))
N_CTX = 192
#: The memory is kept full, and where no free cell is left behind a sequence's own, llama.cpp adds up in another
#: order. Then another token may be taken that is as likely within so much: these random weights spread their
#: logits over some ten units.
CLOSE = 1.0
SYSTEM = [
    "",
    "you are a helpful assistant that answers questions ",
    "the quick brown fox jumps over the lazy dog " * 3,
]


class Asker:
    """Keeps an engine busy with random jobs, and checks each one that is over."""

    def __init__(self, path: Path, engine: BatchingEngine, seed: int) -> None:
        self.engine = engine
        self.chance = random.Random(seed)
        self.reference = Greedy(path, N_CTX)
        self.open: list[tuple[Job, Heard]] = []
        self.gaps: list[float] = []  # between what was said and what is said alone, where they part
        self.checked = self.cancelled = 0

    def ask(self) -> None:
        words = self.chance.choices(
            ["cat", " dog", " rain", " in", " spain", " today"], k=self.chance.randint(1, 9)
        )
        heard = Heard(self.chance.choice([None, None, self.chance.randint(1, 12)]))
        job, _ = job_of(
            self.chance.choice(SYSTEM) + "".join(words),
            self.chance.randint(1, 60),
            session=self.chance.choice(["a", "b", None]),
            heard=heard,
        )
        self.engine.submit(job)
        self.open.append((job, heard))

    def look(self) -> None:
        for job, heard in list(self.open):
            if heard.over.is_set():
                self.open.remove((job, heard))
                self.check(job, heard)
            elif self.chance.random() < 0.002:
                self.engine.cancel(job)
                self.open.remove((job, heard))
                self.cancelled += 1

    def check(self, job: Job, heard: Heard) -> None:
        assert heard.error is None
        assert job.max_tokens is not None
        most = min(job.max_tokens, heard.enough or job.max_tokens)
        expected = self.reference.pieces(job.prompt, most)
        self.checked += 1
        assert heard.count == len(heard.pieces)
        assert 0 <= heard.cached_tokens < heard.prompt_tokens
        if heard.pieces == expected:
            ended = len(expected) < most or most == heard.enough
            assert heard.finish == ("stop" if ended else "length")
            return
        place = common_prefix(heard.pieces, expected)
        other = heard.pieces[place] if place < len(heard.pieces) else None
        self.gaps.append(self.reference.gap(job.prompt, place, other))


@pytest.mark.timeout(SECONDS + 110)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_whatever_happens_each_chat_gets_the_text_that_it_gets_alone(tiny: Tiny, architecture: str) -> None:
    path = tiny(architecture)  # type: ignore[arg-type]  # one of the names
    engine = engine_of(path, n_ctx=N_CTX, max_parallel=5)
    asker = Asker(path, engine, SEED)
    try:
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end or asker.checked < 20:
            while len(asker.open) < asker.chance.randint(0, 12):
                asker.ask()
            asker.look()
            time.sleep(0.0005)
        until(lambda: asker.look() or not asker.open)  # type: ignore[func-returns-value]  # it empties it
        until(lambda: engine.load().running == 0)
        assert engine.load().waiting == 0
        serving = engine._worker._serving
        assert serving is not None
        memory = serving._memory
        assert isinstance(memory, Memory)
        until(lambda: len(memory._free) + memory.kept == serving._loaded.sequences)
        assert asker.cancelled
        assert len(asker.gaps) < 0.1 * asker.checked
        assert max(asker.gaps, default=0) < CLOSE
    finally:
        engine.close()
        asker.reference.close()
