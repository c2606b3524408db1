"""Random chats over several lives of an engine with little memory and a disk, against each one alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from adapters.local.batching.disk.blocks import Block
from adapters.local.batching.disk.disk import Disk
from tests.adapters.local.batching import test_fuzz
from tests.adapters.local.batching.kit import engine_of
from tests.adapters.local.batching.test_fuzz import CLOSE, N_CTX, SECONDS, SEED, Asker
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until

pytestmark = pytest.mark.gguf

LIVES = 3
#: More than fit into memory at once.
BEGINNINGS = [f"{n} the quick brown fox jumps over the lazy dog " + "and the cat " * n for n in range(1, 19)]


@pytest.mark.timeout(SECONDS + 110)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_whatever_happens_each_chat_gets_its_text_in_every_life(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """The memory is full all the time, so rounding differs; what belongs elsewhere would differ by far more."""
    monkeypatch.setattr(Disk.__init__, "__kwdefaults__", {"block": 16, "least": 32})
    monkeypatch.setattr(test_fuzz, "SYSTEM", BEGINNINGS)
    restored: list[bool] = []
    restore = Disk.restore

    def noted(self: Disk, block: Block, state: memoryview, sequence: int) -> bool:
        restored.append(restore(self, block, state, sequence))
        return restored[-1]

    monkeypatch.setattr(Disk, "restore", noted)
    path = tiny(architecture)  # type: ignore[arg-type]  # one of the names
    for life in range(LIVES):
        engine = engine_of(path, n_ctx=N_CTX, max_parallel=5, session_dir=tmp_path / "sessions")
        asker = Asker(path, engine, SEED + life)
        try:
            end = time.monotonic() + SECONDS / 2 / LIVES
            while time.monotonic() < end or asker.checked < 20:
                while len(asker.open) < asker.chance.randint(0, 12):
                    asker.ask()
                asker.look()
                time.sleep(0.0005)
            while asker.open:
                asker.look()
                time.sleep(0.0005)
            until(lambda engine=engine: engine.load().running == 0)  # type: ignore[misc]  # bound as it is now
            assert max(asker.gaps, default=0) < CLOSE
        finally:
            engine.close(wait=20)
            asker.reference.close()
    assert len(restored) > 50
    assert all(restored)
