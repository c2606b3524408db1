"""What is computed for private requests is kept in memory only, also where sessions are kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router import AsyncRouter, LocalModel
from tests.adapters.local.conftest import Tiny

pytestmark = pytest.mark.gguf

SYSTEM = "you are a helpful assistant that answers questions and calls tools when they are needed " * 24


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("privacy", ["any", "private"])
async def test_a_session_is_written_to_the_disk_unless_it_is_private(
    tiny: Tiny, tmp_path: Path, privacy: str, isolation: str
) -> None:
    model = LocalModel.parse(
        {
            "name": "m",
            "path": tiny("qwen3"),
            "threads": 1,
            "n_ctx": 2048,
            "session_dir": tmp_path / "sessions",
            "isolation": isolation,
        }
    )
    messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "hi"}]
    async with AsyncRouter([model]) as router:
        for stream in (False, True):
            answer: Any = await router.chat.completions.create(
                messages=messages, routing={"privacy": privacy}, stream=stream, max_tokens=4
            )
            if stream:
                async for _ in answer:
                    pass
    folder = tmp_path / "sessions"
    kept = _files(folder)
    assert bool(kept) is (privacy == "any")
    assert {file.stat().st_mode & 0o777 for file in kept} <= {0o600}


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []
