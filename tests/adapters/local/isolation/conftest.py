"""Engines in processes of their own, ended when the test is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalAdapter
from adapters.local.engine import Finish, Job, ModelFacts
from adapters.local.isolation import ProcessEngine
from router.errors import ModelError
from router.models import LocalModel
from tests.adapters.local.conftest import Make
from tests.adapters.local.kit import until

Isolated = Callable[..., LocalAdapter]


@pytest.fixture
def isolated(make: Make) -> Isolated:
    """Builds adapters whose engine runs in a process of its own."""

    def build(path: Path, **options: Any) -> LocalAdapter:
        return make(path, isolation="process", **options)

    return build


@pytest.fixture
def engines() -> Iterator[Callable[..., ProcessEngine]]:
    """Builds bare engines."""
    made: list[ProcessEngine] = []

    def build(path: Path, **options: Any) -> ProcessEngine:
        made.append(ProcessEngine(LocalModel("m", path=path, isolation="process", **options)))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


class Ear:
    """A listener that keeps what it is told."""

    def __init__(self, enough: int | None = None) -> None:
        self.enough = enough
        self.prompt_tokens: int | None = None
        self.pieces: list[bytes] = []
        self.finish: tuple[Finish, int] | None = None
        self.error: ModelError | None = None

    def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens

    def piece(self, text: bytes, *_more: object) -> bool:
        self.pieces.append(text)
        return self.enough is None or len(self.pieces) < self.enough

    def finished(self, finish: Finish, completion_tokens: int, *_more: object) -> None:
        self.finish = (finish, completion_tokens)

    def failed(self, error: ModelError) -> None:
        self.error = error

    @property
    def over(self) -> bool:
        return self.finish is not None or self.error is not None


def engine_of(adapter: LocalAdapter) -> ProcessEngine:
    engine = adapter._engine
    assert isinstance(engine, ProcessEngine)
    return engine


def pid_of(engine: ProcessEngine) -> int:
    """The engine's process, once it is there."""
    until(lambda: engine.pid is not None)
    assert engine.pid is not None
    return engine.pid


async def pid_soon(engine: ProcessEngine) -> int:
    return await asyncio.to_thread(pid_of, engine)


def opened(engine: ProcessEngine) -> ModelFacts:
    """Loads the model."""
    told: list[ModelFacts | ModelError] = []
    engine.open(told.append)
    until(lambda: bool(told), 60)
    (outcome,) = told
    assert isinstance(outcome, ModelFacts), outcome
    return outcome


def job(ear: Ear, prompt: Any = "Once upon a time", **options: Any) -> Job:
    return Job(prompt=prompt, listener=ear, **options)
