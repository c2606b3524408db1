"""What the tests of the local adapter share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openai.types.chat import ChatCompletion

from adapters.local.context import MOST_ROWS, NativeContext
from adapters.local.engine import Job, ModelFacts, Opened
from adapters.local.files import load_settings
from adapters.local.native import NativeModel
from adapters.local.sampling import Sampler
from router.adapter import Call, Load
from router.models import LocalModel
from router.request import ChatRequest

__all__ = ["Alone", "ScriptedEngine", "asking", "calls_of", "eventually", "until", "weather_tool"]


def asking(
    text: str = "Hello", *, stream: bool = False, messages: Any = None, extra: Any = None, **params: Any
) -> Call:
    """A call with one user message, unless others are given."""
    said = messages or [{"role": "user", "content": text}]
    return Call(request=ChatRequest(messages=said, params=params, stream=stream, extra_body=extra or {}))


def weather_tool(name: str = "get_weather") -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "minLength": 1, "maxLength": 20},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }


def calls_of(completion: ChatCompletion) -> list[tuple[str, str]]:
    """The names and arguments of the functions that were called."""
    calls = completion.choices[0].message.tool_calls or ()
    return [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]


class Alone:
    """One sequence of a model, computed token by token or in pieces: the reference for all else."""

    def __init__(self, path: Path, *, n_ctx: int | None = None, **options: Any) -> None:
        settings = load_settings(LocalModel("alone", path=path, n_ctx=n_ctx, **options))
        self.model = NativeModel(settings)
        self.context = NativeContext(self.model, settings, cells=self.model.n_ctx)
        self._length = self._row = 0

    def reset(self) -> None:
        self.context.clear()
        self._length = 0

    def decode(self, tokens: list[int], *, piece: int | None = None) -> None:
        """At once as far as possible, or in pieces of this size."""
        while tokens:
            size = piece or MOST_ROWS
            part, tokens = tokens[:size], tokens[size:]
            self._row = self.context.put(0, part, self._length, output=not tokens)
            self.context.compute()
            self._length += len(part)

    def sample(self, sampler: Sampler) -> int:
        return self.context.draw(sampler, self._row)

    def logits(self) -> np.ndarray:
        """After the last token."""
        return self.context.logits(self._row).copy()

    def close(self) -> None:
        self.context.close()
        self.model.close()


class ScriptedEngine:
    """An engine that says what it is told to, from a thread of its own, and keeps what it was asked."""

    def __init__(self, pieces: Sequence[bytes | str], *, template: str | None = None) -> None:
        self.pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        self.facts = ModelFacts(
            n_ctx=2048,
            bos="<s>",
            eos="</s>",
            metadata={} if template is None else {"tokenizer.chat_template": template},
        )
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []
        self.told = 0
        self.pause: Callable[[], None] = lambda: None

    def open(self, told: Opened) -> None:
        told(self.facts)

    def give_up(self, told: Opened) -> None:
        pass

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        threading.Thread(target=self._answer, args=(job,), daemon=True).start()

    def _answer(self, job: Job) -> None:
        job.listener.started(7)
        count = 0
        for piece in self.pieces:
            if job.cancelled:
                return
            count += 1
            self.told = count
            if not job.listener.piece(piece):
                break
            self.pause()
        job.listener.finished("stop", count)

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        self.cancelled.append(job)

    def load(self) -> Load:
        return Load()

    def close(self, *, wait: float = 2.0) -> None:
        pass

    @property
    def ended(self) -> bool:
        return True


def until(holds: Callable[[], bool], patience: float = 20.0) -> None:
    """Waits for something that another thread brings about."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


async def eventually(holds: Callable[[], bool], patience: float = 20.0) -> None:
    """Waits on the loop for something that another thread brings about."""
    async with asyncio.timeout(patience):
        while not holds():  # noqa: ASYNC110 - it is a thread that brings it about
            await asyncio.sleep(0.001)
