"""What no caller may ever see: every kind of nonsense is healed by the next model, or is a typed error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router import AsyncRouter, HostedModel, ModelError, Price, Recovery
from router.errors import ModelHTTPError
from router.testing import LoopbackServer, Reply
from tests.helpers import HELLO, hosted, router_of, text_of

pytestmark = pytest.mark.usefixtures("no_network")

ODD: list[object] = [1, 1.5, True, False, 0, "x", "", ["x"], {"a": 1}, [], {}]
PATIENT = Recovery(attempt_timeout=20, ttft_timeout=20, max_response_bytes=200_000)


def completion(choice: Mapping[str, object] | None = None, /, **over: object) -> bytes:
    message = {"role": "assistant", "content": "bad"}
    whole = {"index": 0, "message": message, "finish_reason": "stop", **(choice or {})}
    frame = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [whole]}
    return json.dumps({**frame, **over}).encode()


def chunk(choice: Mapping[str, object] | None = None, /, delta: object = None, **over: object) -> bytes:
    said = {"content": "bad"} if delta is None else delta
    whole = {"index": 0, "delta": said, "finish_reason": None, **(choice or {})}
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [whole]}
    return b"data: " + json.dumps({**frame, **over}).encode() + b"\n\n"


END = chunk({"finish_reason": "stop"}, {}) + b"data: [DONE]\n\n"

TEXT = (str,)
#: Fields, and the types of JSON that they may have; null and nothing at all are common, and let through.
FRAME: dict[str, tuple[type, ...]] = {
    "id": TEXT,
    "object": TEXT,
    "model": TEXT,
    "created": (int, float),
    "system_fingerprint": TEXT,
    "service_tier": TEXT,
    "choices": (),
}
SAID: dict[str, tuple[type, ...]] = {
    "role": TEXT,
    "content": TEXT,
    "refusal": TEXT,
    "reasoning_content": TEXT,
    "reasoning": TEXT,
    "audio": (dict,),
}
MESSAGE: dict[str, tuple[type, ...]] = {**SAID, "annotations": (list,), "function_call": (), "tool_calls": ()}
DELTA: dict[str, tuple[type, ...]] = {**SAID, "function_call": (dict,), "tool_calls": ()}
CHOICE: dict[str, tuple[type, ...]] = {"index": (int,), "finish_reason": TEXT, "logprobs": (dict,)}

#: Calls of tools that no program could read.
CALLS: list[object] = [
    [None],
    ["x"],
    [{}],
    [1],
    [{"index": 0, "function": "x"}],
    [{"index": 0, "function": {"name": 1, "arguments": "x"}}],
    [{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}],
    [{"index": 0, "id": 5, "function": {"name": "f", "arguments": "{}"}}],
    [{"index": 0, "type": 5, "id": "a", "function": {"name": "f", "arguments": "{}"}}],
]


def wrong(right: tuple[type, ...]) -> list[object]:
    """Values of every other type; `True` is no number."""
    return [value for value in ODD if type(value) not in right]


def whole_answers() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, right in FRAME.items():
        found |= {f"{name}={value!r}": completion(**{name: value}) for value in wrong(right)}
    for name, right in CHOICE.items():
        found |= {f"choice.{name}={value!r}": completion({name: value}) for value in wrong(right)}
    said = {"role": "assistant", "content": "bad"}
    for name, right in MESSAGE.items():
        values = [value for value in wrong(right) if (name, value) != ("tool_calls", [])]
        for value in values:
            found[f"message.{name}={value!r}"] = completion({"message": {**said, name: value}})
    for calls in CALLS:
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        found[f"calls={calls!r}"] = completion({"message": message})
    found |= {f"message={value!r}": completion({"message": value}) for value in ODD}
    return found


def streams() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, right in FRAME.items():
        values = [value for value in wrong(right) if (name, value) != ("choices", [])]
        found |= {f"{name}={value!r}": chunk(**{name: value}) + END for value in values}
    for name, right in CHOICE.items():
        found |= {f"choice.{name}={value!r}": chunk({name: value}) + END for value in wrong(right)}
    for name, right in DELTA.items():
        values = [value for value in wrong(right) if (name, value) != ("tool_calls", [])]
        found |= {f"delta.{name}={value!r}": chunk(delta={name: value}) + END for value in values}
    found |= {f"calls={calls!r}": chunk(delta={"tool_calls": calls}) + END for calls in CALLS}
    found |= {f"delta={value!r}": chunk({"delta": value}) + END for value in wrong((dict,))}
    found["another choice"] = chunk({"index": 1}) + END
    found["a negative choice"] = chunk({"index": -1}) + END
    return found


async def answered(router: AsyncRouter, *, stream: bool) -> tuple[str, Any]:
    if stream:
        read = await router.chat.completions.create(messages=HELLO, stream=True)
        return text_of([one async for one in read]), read.routing
    whole = await router.chat.completions.create(messages=HELLO)
    return whole.choices[0].message.content or "", whole.routing


class TestTypes:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_field_of_another_type_is_healed_by_the_next_model(self, *, stream: bool) -> None:
        with LoopbackServer(models={"second": "good"}) as server:
            for label, raw in (streams() if stream else whole_answers()).items():
                server.script(Reply(raw=[raw]), model="first")
                async with router_of(hosted("first", server), hosted("second", server, usd=9)) as router:
                    text, decision = await answered(router, stream=stream)
                assert text == "good", label
                assert isinstance(decision.attempts[0].error, ModelError), label

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        "usage",
        [
            *(value for value in ODD if value != {}),
            {"prompt_tokens": -1, "completion_tokens": 2, "total_tokens": 1},
            {"prompt_tokens": 10**12, "completion_tokens": 2, "total_tokens": 1},
            {"prompt_tokens": 3, "completion_tokens": 10**9, "total_tokens": 1},
            {"prompt_tokens": "3", "completion_tokens": "2", "total_tokens": "5"},
            {"prompt_tokens": [3], "completion_tokens": {}, "total_tokens": None},
            {"prompt_tokens": 1.5, "completion_tokens": 2, "total_tokens": 3.5},
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": 7},
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": ["x"]},
        ],
        ids=str,
    )
    async def test_absurd_usage_never_reaches_the_caller(self, usage: object, *, stream: bool) -> None:
        raw = [
            chunk(),
            END.removesuffix(b"data: [DONE]\n\n"),
            chunk(choices=[], usage=usage),
            b"data: [DONE]\n\n",
        ]
        with LoopbackServer(Reply(raw=raw if stream else [completion(usage=usage)])) as server:
            async with router_of(hosted("m", server)) as router:
                if stream:
                    read = await router.chat.completions.create(
                        messages=HELLO, stream=True, stream_options={"include_usage": True}
                    )
                    shown = [one async for one in read][-1].usage
                    decision = read.routing
                else:
                    whole = await router.chat.completions.create(messages=HELLO)
                    shown, decision = whole.usage, whole.routing
        assert decision.cost is not None
        if not usage:  # as good as none
            return
        assert shown is not None
        assert (shown.prompt_tokens, shown.completion_tokens) <= (100, 100)
        assert min(shown.prompt_tokens, shown.completion_tokens) >= 0
        assert shown.total_tokens == shown.prompt_tokens + shown.completion_tokens
        assert getattr(shown.prompt_tokens_details, "cached_tokens", 0) is not None


# --- below HTTP's rules


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    told = [f"content-length: {len(body) if length is None else length}"] if length != -1 else []
    head = [f"HTTP/1.1 {status}", *headers, *told, "connection: close", "", ""]
    return "\r\n".join(head).encode() + body


SPACES = b" " * 20_000_000
TWICE = [
    {
        "index": 0,
        "delta": {"content": "bad"},
        "message": {"role": "assistant", "content": "bad"},
        "finish_reason": "stop",
    }
] * 2
JSON, EVENTS = "content-type: application/json", "content-type: text/event-stream"
ANSWER, ANSWERS = completion(), chunk() + END


def bodies(*, stream: bool) -> dict[str, bytes]:
    good, kind = (ANSWERS, EVENTS) if stream else (ANSWER, JSON)
    found = {
        "gzip bomb": response(gzip.compress(SPACES), kind, "content-encoding: gzip"),
        "gzip bomb of members": response(gzip.compress(b" " * 100_000) * 50, kind, "content-encoding: gzip"),
        "gzip bomb with a long header": response(
            gzip.compress(SPACES), kind, "content-encoding: gzip", f"x-long: {'x' * 8000}"
        ),
        "gzip in gzip": response(gzip.compress(gzip.compress(SPACES)), kind, "content-encoding: gzip, gzip"),
        "deflate bomb": response(zlib.compress(SPACES), kind, "content-encoding: deflate"),
        "bare deflate bomb": response(bare_deflate(SPACES), kind, "content-encoding: deflate"),
        "brotli": response(good, kind, "content-encoding: br"),
        "zstd": response(good, kind, "content-encoding: zstd"),
        "unknown packing": response(good, kind, "content-encoding: frobnicated"),
        "said to be packed": response(good, kind, "content-encoding: gzip"),
        "said to be deflated": response(good, kind, "content-encoding: deflate"),
        "packed and not said": response(gzip.compress(good), kind),
        "far longer than is allowed": response(good, kind, length=10**15),
        "a length that is none": response(good, kind).replace(b"content-length: ", b"content-length: x"),
        "a negative length": response(good, kind).replace(b"content-length: ", b"content-length: -"),
        "two lengths": response(good, kind, "content-length: 3"),
        "a length of nothing": response(good, kind, length=0),
        "a piece of odd size": response(b"zz\r\n" + good, kind, "transfer-encoding: chunked", length=-1),
        "pieces that break off": response(
            b"ff\r\n" + good[:9], kind, "transfer-encoding: chunked", length=-1
        ),
        "no content": response(b"", kind, status="204 No Content"),
        "reset content": response(b"", kind, status="205 Reset Content"),
        "accepted, later": response(b'{"status":"queued"}', kind, status="202 Accepted"),
        "a part": response(good[:40], kind, "content-range: bytes 0-39/900", status="206 Partial Content"),
        "not modified": response(b"", kind, status="304 Not Modified"),
        "several choices": response(b"", kind, status="300 Multiple Choices"),
        "switching": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
        + good,
        "early and nothing else": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
        "an odd status": response(good, kind, status="299 Odd").replace(b"299 Odd", b"999 Odd"),
        "a status of two digits": response(good, kind, status="20 OK"),
        "no status at all": good,
        "HTTP/0.9": b"<html>It works!</html>",
        "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
        "binary": bytes(range(256)) * 20,
        "a header without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2_000_000,
        "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000,
        "half a header": b"HTTP/1.1 200 OK\r\ncontent-ty",
        "a web page": response(b"<!doctype html><html>Welcome</html>", "content-type: text/html"),
        "a web page said to be right": response(b"\n\n <html>Welcome</html>", kind),
        "plain text": response(b"upstream connect error", "content-type: text/plain"),
        "nothing": response(b"", kind),
        "blanks": response(b" \n " * 99, kind),
        "null": response(b"null", kind),
        "a list": response(b"[]", kind),
        "NaN": response(b"NaN", kind),
        "a number of many digits": response(b"1" * 10_000, kind),
        "deep": response(b'{"a":' * 60_000, kind),
        "two objects": response(b"{}{}", kind),
        "zeros": response(b"\0" * 5000, kind),
        "not UTF-8": response(good.replace(b"bad", b"\xff\xfe\xfd"), kind),
        "an error as an answer": response(b'{"error": {"message": "no", "code": 500}}', kind),
        "an error as a text": response(b'{"error": "no"}', kind),
        "an error with an answer's frame": response(
            b'{"id":"x","object":"chat.completion","choices":null,"error":{"message":"no"}}', kind
        ),
        "another kind of answer": response(b'{"object":"list","data":[]}', kind),
        "half a character": response(
            completion({"message": {"role": "assistant", "content": "a\ud83d"}}), JSON
        )
        if not stream
        else response(chunk(delta={"content": "\ude00bad"}) + END, EVENTS),
        "one choice twice": response(completion(choices=TWICE), JSON)
        if not stream
        else response(chunk(choices=TWICE) + END, EVENTS),
        "an old completion": response(b'{"choices":[{"index":0,"text":"old","finish_reason":"stop"}]}', kind),
    }
    for code in (301, 302, 303, 307, 308):
        found[f"redirect {code}"] = response(b"", "location: /v1/chat/other", status=f"{code} Moved")
    return found | (event_streams() if stream else cut_answers())


def cut_answers() -> dict[str, bytes]:
    """Answers in one piece that end too early. A stream is whole once its finish reason is there."""
    vast = b"f" * 15 + b"\r\n" + ANSWER
    return {
        "packing that breaks off": response(gzip.compress(ANSWER)[:-9], JSON, "content-encoding: gzip"),
        "shorter than it says": response(ANSWER[:-5], JSON, length=len(ANSWER) + 100),
        "a piece of vast size": response(vast, JSON, "transfer-encoding: chunked", length=-1),
    }


def event_streams() -> dict[str, bytes]:
    """Streams that break before they showed anything."""
    role = chunk(delta={"role": "assistant", "content": ""})
    return {
        "a role, and an end in order": response(role, EVENTS),
        "a role, and a reason to end": response(role + END, EVENTS),
        "a role, and a cut": response(role, EVENTS, length=10_000),
        "a role, and nothing but the end mark": response(role + b"data: [DONE]\n\n", EVENTS),
        "packing that breaks off": response(gzip.compress(role * 9)[:-9], EVENTS, "content-encoding: gzip"),
        "UTF-16": response(ANSWERS.decode().encode("utf-16"), EVENTS),
        "only the end mark": response(b"data: [DONE]\n\n", EVENTS),
        "only comments": response(b": ping\n\n" * 9, EVENTS),
        "an error first": response(b'data: {"error":{"message":"no"}}\n\n', EVENTS),
        "an error event first": response(b"event: error\ndata: no\n\n", EVENTS),
        "an error after the role": response(role + b'data: {"error":{"message":"no"}}\n\n', EVENTS),
        "empty choices": response(chunk(choices=[]) + b"data: [DONE]\n\n", EVENTS),
        "null choices": response(chunk(choices=None) + b"data: [DONE]\n\n", EVENTS),
        "a chunk that is half": response(b'data: {"id":"x","cho\n\n' + ANSWERS, EVENTS),
        "a chunk that is text": response(b"data: hello\n\n" + ANSWERS, EVENTS),
        "a finish that says nothing": response(END, EVENTS),
        "a finish of an error": response(role + chunk({"finish_reason": "error"}, {}), EVENTS),
        "JSON lines": response(ANSWERS.replace(b"data: ", b"").replace(b"\n\n", b"\n"), EVENTS),
        "an answer in one piece": response(ANSWER, JSON),
        "an answer in one piece, as events": response(b"data: " + ANSWER + b"\n\n", EVENTS),
        "a line without end": response(b"data: " + b"x" * 300_000, EVENTS),
        "an event without end": response(b"data: x\n" * 60_000, EVENTS),
    }


@asynccontextmanager
async def serving(raw: bytes) -> AsyncIterator[tuple[int, list[str]]]:
    """A server that writes these bytes for the model `first`, and a right answer for the other."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = next(
                int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")
            )
            body = json.loads(await reader.readexactly(size))
            asked.append(body["model"])
            good = completion({"message": {"role": "assistant", "content": "good"}})
            if body.get("stream"):
                good = chunk(delta={"content": "good"}) + END
            right = response(good, EVENTS if body.get("stream") else JSON)
            writer.write(raw if body["model"] == "first" else right)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)


def host(name: str, port: int, usd: float) -> HostedModel:
    url = f"http://127.0.0.1:{port}/v1"
    return HostedModel(name, base_url=url, model=name, price=Price(input=usd, output=usd))


async def healed(raw: bytes, *, stream: bool) -> None:
    async with serving(raw) as (port, asked):
        models = host("first", port, 1), host("second", port, 9)
        async with router_of(*models, recovery=PATIENT) as router:
            text, decision = await answered(router, stream=stream)
    assert text == "good"
    assert [one.outcome for one in decision.attempts] == ["failed", "succeeded"]
    assert isinstance(decision.attempts[0].error, ModelError)
    assert asked == ["first", "second"]


@pytest.mark.parametrize("label", bodies(stream=False))
async def test_nonsense_in_place_of_an_answer_is_healed(label: str) -> None:
    await healed(bodies(stream=False)[label], stream=False)


@pytest.mark.parametrize("label", bodies(stream=True))
async def test_nonsense_in_place_of_a_stream_is_healed(label: str) -> None:
    await healed(bodies(stream=True)[label], stream=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "hint", ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"]
)
async def test_what_comes_before_the_answer_is_no_answer(hint: str, *, stream: bool) -> None:
    right = response(ANSWERS, EVENTS) if stream else response(ANSWER, JSON)
    async with (
        serving(hint.encode() * 3 + right) as (port, asked),
        router_of(host("first", port, 1), recovery=PATIENT) as router,
    ):
        text, _ = await answered(router, stream=stream)
    assert text == "bad"
    assert asked == ["first"]


@pytest.mark.parametrize("make", [chunk, completion], ids=["stream", "whole"])
async def test_what_hosts_leave_out_does_no_harm(make: Callable[..., bytes]) -> None:
    bare = make(id=None, object=None, created=None, model=None)
    raw = response(bare + END, EVENTS) if make is chunk else response(bare, JSON)
    async with (
        serving(raw) as (port, _),
        router_of(host("first", port, 1), recovery=PATIENT) as router,
    ):
        text, _ = await answered(router, stream=make is chunk)
    assert text == "bad"


async def test_an_errors_body_is_read_only_as_far_as_it_tells() -> None:
    raw = response(gzip.compress(SPACES), JSON, "content-encoding: gzip", status="500 Oops")
    async with (
        serving(raw) as (port, _),
        router_of(host("first", port, 1), host("second", port, 9), recovery=PATIENT) as router,
    ):
        _, decision = await answered(router, stream=False)
    assert isinstance(decision.attempts[0].error, ModelHTTPError)
    assert len(str(decision.attempts[0].error)) < 1000
