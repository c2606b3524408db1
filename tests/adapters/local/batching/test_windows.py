"""Sliding windows: llama.cpp gives away what is further back, and who shares a beginning must not miss it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from adapters.local.batching.memory import Memory
from adapters.local.context import NativeContext
from adapters.local.files import load_settings
from router.models import LocalModel
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import Alone

pytestmark = pytest.mark.gguf

CELLS, PIECE = 768, 60


@pytest.fixture
def alone(tiny: Tiny) -> Iterator[Alone]:
    made = Alone(tiny("gemma3"), n_ctx=CELLS, threads=1)
    yield made
    made.close()


def test_a_shared_beginning_is_whole_or_computed_again(tiny: Tiny, alone: Alone) -> None:
    """Chats that come and go in a full memory; each one's next token is weighed as it is alone."""
    settings = load_settings(LocalModel("m", path=tiny("gemma3"), n_ctx=CELLS, threads=1))
    context = NativeContext(alone.model, settings, cells=CELLS, sequences=32)
    memory = Memory(context, cells=CELLS, window=CELLS, sequences=16, plugs=16)
    chance, shared = random.Random(1), 0
    beginnings = [[chance.randrange(20, 400) for _ in range(150)] for _ in range(4)]
    try:
        for _ in range(50):
            tokens = chance.choice(beginnings)[: chance.choice([60, 100, 150])]
            tokens = tokens + [chance.randrange(20, 400) for _ in range(chance.choice([5, 20, 150]))]
            sequence, held = memory.open(tokens)
            shared += held > 0
            for at in range(held, len(tokens), PIECE):
                part = tokens[at : at + PIECE]
                assert memory.reclaim(len(part))
                row = context.put(sequence, part, at, output=at + PIECE >= len(tokens))
                context.compute(memory.place([(sequence, len(part))])[0])
                memory.computed(sequence, part)
            alone.reset()
            alone.decode(tokens, piece=PIECE)
            assert abs(context.logits(row) - alone.logits()).max() < 1
            memory.close(sequence)
        assert shared > 10
    finally:
        context.close()
