"""An OpenAI-compatible server that fails on purpose: run as a program, it prints its port and serves.

It imports nothing of the router, runs in a process of its own, and is told at run time how each model behaves
(`POST /control`, see `Behaviour`) and asked what it saw (`GET /counts`, see `Counts`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields

from tests.benchmarks.faults.behaviour import Behaviour, Model
from tests.benchmarks.faults.wire import Connection

#: The share of its time that a stream takes until its first token.
FIRST_SHARE = 0.25
#: One token of an answer in one piece.
WORD = "abc "


class App:
    """All models of the server."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._random = random.Random(7)

    def model(self, name: str) -> Model:
        """A model; unknown ones come into being."""
        return self._models.setdefault(name, Model())

    async def serve(self, connection: Connection, what: bytes, body: bytes) -> None:
        """Answers one request."""
        if what == b"POST /control":
            self._control(json.loads(body))
            connection.answer({})
        elif what == b"GET /counts":
            connection.answer({name: asdict(model.counts) for name, model in self._models.items()})
        else:
            await self._complete(connection, json.loads(body))

    def _control(self, told: dict[str, dict[str, float | str | bool]]) -> None:
        known = {field.name for field in fields(Behaviour)}
        for name, behaviour in told.items():
            if name == "reset":
                for model in self._models.values():
                    model.reset()
                continue
            if unknown := behaviour.keys() - known:
                raise ValueError(f"no such behaviour: {unknown}")
            self.model(name).behaviour = Behaviour(**behaviour)  # type: ignore[arg-type]  # checked above

    async def _complete(self, connection: Connection, request: dict[str, object]) -> None:
        model = self.model(str(request["model"]))
        counts = model.counts
        counts.accepted += 1
        counts.in_flight += 1
        counts.peak = max(counts.peak, counts.in_flight)
        try:
            await self._respond(connection, model, request)
        except asyncio.CancelledError:
            model.counts.left += 1
        finally:
            model.counts.in_flight -= 1

    async def _respond(self, connection: Connection, model: Model, request: dict[str, object]) -> None:
        behaviour, counts = model.behaviour, model.counts
        wait = model.wait_for_limit(time.monotonic())
        if wait:
            counts.limited += 1
            told = f"Retry-After: {math.ceil(wait)}\r\n" if behaviour.tells_wait else ""
            connection.answer(_error("rate limit reached"), 429, told)
            return
        if model.full:
            counts.shed += 1
            told = "Retry-After: 1\r\n" if behaviour.tells_wait else ""
            connection.answer(_error("overloaded"), 503, told)
            return
        broken = behaviour.fault and self._random.random() < behaviour.fault_share
        if broken and behaviour.fault != "cut":
            counts.faults += 1
            await _break(connection, behaviour)
            return
        async with model.seat():
            seconds = self._seconds(behaviour)
            if request.get("stream"):
                await self._stream(connection, model, request, seconds, cut=bool(broken))
            else:
                await asyncio.sleep(seconds)
                usage = self._usage(model, request)
                text = WORD * usage["completion_tokens"]
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body = {**_frame("chat.completion"), "choices": [choice], "usage": usage}
                connection.answer(body)

    def _seconds(self, behaviour: Behaviour) -> float:
        if self._random.random() < behaviour.slow_share:
            return behaviour.slow_seconds
        return behaviour.median * math.exp(self._random.gauss(0.0, behaviour.sigma))

    def _usage(self, model: Model, request: dict[str, object]) -> dict[str, int]:
        """The tokens of an answer, which is booked with them."""
        behaviour = model.behaviour
        asked = int(str(request.get("max_tokens") or request.get("max_completion_tokens") or 16))
        messages = request["messages"]
        assert isinstance(messages, list)
        prompt = sum(len(str(message["content"]).split()) for message in messages) + 8
        tokens = round(asked * self._random.uniform(behaviour.least, behaviour.most))
        model.counts.answered += 1
        model.counts.usd += (prompt * behaviour.price_in + tokens * behaviour.price_out) / 1e6
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    async def _stream(
        self, connection: Connection, model: Model, request: dict[str, object], seconds: float, *, cut: bool
    ) -> None:
        connection.send(_STREAM_HEAD)
        connection.chunk(_delta({"role": "assistant"}))
        await asyncio.sleep(seconds * FIRST_SHARE)
        chunks = model.behaviour.chunks
        pause = seconds * (1 - FIRST_SHARE) / max(chunks, 1)
        text = _left_to_say(request, whole_text(chunks))
        size = len(whole_text(1))
        for start in range(0, len(text), size):
            if cut and start >= len(text) // 2:
                model.counts.faults += 1
                connection.abort()
                return
            connection.chunk(_delta({"content": text[start : start + size]}))
            await asyncio.sleep(pause)
        connection.chunk(_delta({}, "stop"))
        usage = self._usage(model, request)
        connection.chunk(json.dumps({**_frame("chat.completion.chunk"), "choices": [], "usage": usage}))
        connection.chunk("[DONE]")
        connection.send(b"0\r\n\r\n")


async def _break(connection: Connection, behaviour: Behaviour) -> None:
    """Does what a broken backend does."""
    match behaviour.fault:
        case "error":
            await asyncio.sleep(behaviour.error_seconds)
            told = f"Retry-After: {behaviour.retry_after:g}\r\n" if behaviour.retry_after else ""
            connection.answer(_error("broken on purpose"), behaviour.status, told)
        case "reset":
            connection.abort()
        case "headers":
            connection.send(_STREAM_HEAD)
            await asyncio.get_running_loop().create_future()
        case "silent":
            await asyncio.get_running_loop().create_future()
        case unknown:
            raise ValueError(f"no such fault: {unknown}")


def whole_text(chunks: int) -> str:
    """The text of a stream of so many chunks: no two of them are alike."""
    return "".join(f"w{number:03} " for number in range(chunks))


def _left_to_say(request: dict[str, object], whole: str) -> str:
    """What is missing behind the beginning of the answer, if the request brings that as its last message."""
    messages = request["messages"]
    assert isinstance(messages, list)
    begun = str(messages[-1]["content"]) if messages[-1]["role"] == "assistant" else ""
    return whole.removeprefix(begun)


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _frame(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "any"}


def _delta(delta: dict[str, str], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({**_frame("chat.completion.chunk"), "choices": [choice]})


def _error(text: str) -> dict[str, object]:
    return {"error": {"message": text, "type": "server_error", "code": None, "param": None}}


async def _main(say: Callable[[str], object]) -> None:
    app = App()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(app), "127.0.0.1", 0, backlog=4096)
    say(str(server.sockets[0].getsockname()[1]))
    await loop.run_in_executor(None, sys.stdin.read)  # whoever started it ends it by closing this


if __name__ == "__main__":
    asyncio.run(_main(lambda port: print(port, flush=True)))
