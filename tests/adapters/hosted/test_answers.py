"""No nonsense gets through: every bad answer becomes a typed error."""

from __future__ import annotations

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from router.errors import (
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelProtocolError,
    ModelTimeoutError,
)
from router.testing.replies import Fault
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of

WHOLE = [
    ("html", ModelProtocolError),
    ("null", ModelProtocolError),
    ("empty", ModelProtocolError),
    ("not_json", ModelProtocolError),
    ("wrong_json", ModelProtocolError),
    ("no_choices", ModelProtocolError),
    ("null_content", ModelProtocolError),
    ("error_in_200", ModelHTTPError),
    ("truncated", ModelConnectionError),
    ("gzip_bomb", ModelProtocolError),
    ("oversize", ModelProtocolError),
    ("redirect", ModelProtocolError),
    ("disconnect", ModelConnectionError),
]
STREAMED = [
    *WHOLE,
    ("no_finish", ModelProtocolError),
    ("corrupt", ModelProtocolError),
    ("error_first", ModelHTTPError),
    ("error_later", ModelHTTPError),
    ("json_for_stream", ModelProtocolError),
]


async def test_a_good_answer_comes_back_as_the_sdk_gives_it(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(text="Hello!", usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}))
    answer = await make().complete(call())
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


async def test_a_good_stream_comes_back_with_its_usage_chunk(server: LoopbackServer, make: Make) -> None:
    chunks = [chunk async for chunk in make().stream(call())]
    assert all(isinstance(chunk, ChatCompletionChunk) for chunk in chunks)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello!"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


@pytest.mark.parametrize(("fault", "kind"), WHOLE)
async def test_a_bad_answer_is_a_typed_error(
    server: LoopbackServer, make: Make, fault: Fault, kind: type[ModelError]
) -> None:
    server.script(Reply(fault=fault))
    with pytest.raises(ModelError) as caught:
        await make().complete(call())
    assert type(caught.value) is kind
    assert caught.value.model == "m"


@pytest.mark.parametrize(("fault", "kind"), STREAMED)
async def test_a_bad_stream_is_a_typed_error(
    server: LoopbackServer, make: Make, fault: Fault, kind: type[ModelError]
) -> None:
    server.script(Reply(fault=fault))
    with pytest.raises(ModelError) as caught:
        await text_of(make())
    assert type(caught.value) is kind
    assert caught.value.model == "m"


@pytest.mark.parametrize("fault", ["hang", "keep_alive"])
async def test_a_host_that_never_answers_times_out(server: LoopbackServer, make: Make, fault: Fault) -> None:
    server.script(Reply(fault=fault))
    with pytest.raises(ModelTimeoutError) as caught:
        await make().complete(call(timeout=0.2))
    assert caught.value.timeout == 0.2
    with pytest.raises(ModelTimeoutError):
        await text_of(make(), call(timeout=0.2))


async def test_a_stream_of_comments_times_out_without_a_timeout_of_the_call(
    server: LoopbackServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.hosted.guard._IDLE_SECONDS", 0.2)
    server.script(Reply(fault="keep_alive"))
    with pytest.raises(ModelTimeoutError, match="nothing but comments"):
        await text_of(make(), call(timeout=None))


@pytest.mark.parametrize(
    ("code", "status"),
    [(429, 429), ("rate_limit_exceeded", 429), ("server_error", 500), (None, 502), ("odd", 502)],
)
@pytest.mark.parametrize("fault", ["error_in_200", "error_first", "error_later"])
async def test_an_error_in_an_answers_clothes_keeps_its_code(
    server: LoopbackServer, make: Make, fault: Fault, code: object, status: int
) -> None:
    server.script(Reply(fault=fault, error={"message": "too busy", "code": code}))
    attempt = make().complete(call()) if fault == "error_in_200" else text_of(make())
    with pytest.raises(ModelHTTPError, match="too busy") as caught:
        await attempt
    assert caught.value.status_code == status
    assert caught.value.code == (None if code is None else str(code))


async def test_tool_calls_need_no_content(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(text=None, tool_calls=[("weather", '{"city": "Oslo"}')]))
    answer = await make().complete(call())
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = [chunk async for chunk in make().stream(call())]
    assert any(c.choices and c.choices[0].delta.tool_calls for c in chunks)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="", finish_reason="stop"),
        Reply(text="", reasoning="hm", finish_reason="length"),
        Reply(text=None, reasoning="hm", finish_reason="stop"),
        Reply(text=None, finish_reason="length"),
        Reply(text=None, refusal="I cannot help with that."),
        Reply(text="half", finish_reason="content_filter"),
    ],
)
async def test_an_answer_without_text_can_be_legal(server: LoopbackServer, make: Make, reply: Reply) -> None:
    server.script(reply)
    answer = await make().complete(call())
    assert answer.choices[0].message.content == reply.text
    assert answer.choices[0].finish_reason == (reply.finish_reason or "stop")
    assert await text_of(make()) == (reply.text or "")


async def test_an_answer_that_a_filter_emptied_is_the_hosts_refusal(
    server: LoopbackServer, make: Make
) -> None:
    server.script(Reply(text=None, finish_reason="content_filter"))
    for attempt in (make().complete(call()), text_of(make())):
        with pytest.raises(ModelHTTPError) as caught:
            await attempt
        assert (caught.value.status_code, caught.value.code) == (400, "content_filter")


@pytest.mark.parametrize(
    "choice",
    [
        '{"index":0,"message":{"role":"assistant","content":"x"}}',
        '{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":null}',
        '{"index":0,"finish_reason":"stop"}',
        '{"index":0,"message":"x","finish_reason":"stop"}',
        '{"index":0,"message":{"role":"assistant","content":{"a":1}},"finish_reason":"stop"}',
        '{"index":0,"message":{"role":"assistant","content":["x"]},"finish_reason":"stop"}',
        '{"index":0,"message":{"role":"assistant","tool_calls":{}},"finish_reason":"stop"}',
        '{"index":0,"message":{"role":"assistant","tool_calls":[{"type":"function"}]},"finish_reason":"stop"}',
        '{"index":0,"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},"finish_reason":"stop"}',
        '"x"',
        "null",
        "[]",
    ],
)
async def test_a_malformed_choice_is_refused(server: LoopbackServer, make: Make, choice: str) -> None:
    server.script(Reply(raw=[b'{"id":"x","object":"chat.completion","choices":[' + choice.encode() + b"]}"]))
    with pytest.raises(ModelProtocolError):
        await make().complete(call())


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"1", b"{}", b'{"choices":"x"}', b'{"choices":{}}', b"[" * 200_000]
)
async def test_json_of_another_shape_is_refused(server: LoopbackServer, make: Make, body: bytes) -> None:
    server.script(Reply(raw=[body]))
    with pytest.raises(ModelProtocolError):
        await make().complete(call())
    with pytest.raises(ModelProtocolError):
        await text_of(make())


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "1",
        '"x"',
        "[]",
        '{"choices":"x"}',
        '{"choices":["x"]}',
        '{"choices":[null]}',
        '{"choices":[{"index":0,"delta":{"tool_calls":"x"},"finish_reason":"stop"}]}',
    ],
)
async def test_a_malformed_chunk_is_refused(server: LoopbackServer, make: Make, data: str) -> None:
    server.script(Reply(raw=[f"data: {data}\n\n".encode(), b"data: [DONE]\n\n"]))
    with pytest.raises(ModelProtocolError):
        await text_of(make())


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/octet-stream", "text/html", "application/x-json"]
)
async def test_an_odd_content_type_does_no_harm_if_the_body_is_right(
    server: LoopbackServer, make: Make, content_type: str
) -> None:
    server.script(Reply(text="fine", content_type=content_type))
    assert (await make().complete(call())).choices[0].message.content == "fine"
    assert await text_of(make()) == "fine"


async def test_a_connection_that_breaks_after_the_finish_reason_took_nothing(
    server: LoopbackServer, make: Make
) -> None:
    chunk = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"all"},"finish_reason":"stop"}]}\n\n'
    server.script(Reply(raw=[chunk], fault="truncated"))
    assert await text_of(make()) == "all"


async def test_each_of_several_choices_needs_its_finish_reason(server: LoopbackServer, make: Make) -> None:
    def chunk(index: int, reason: str) -> bytes:
        return b'data: {"id":"x","choices":[{"index":%d,"delta":{"content":"a"},"finish_reason":%b}]}\n\n' % (
            index,
            reason.encode(),
        )

    both = [chunk(0, "null"), chunk(1, "null"), chunk(0, '"stop"')]
    server.script(Reply(raw=[*both, b"data: [DONE]\n\n"]))
    with pytest.raises(ModelProtocolError, match="finish reason"):
        await text_of(make(), call(params={"n": 2}))
    server.script(Reply(raw=[*both, chunk(1, '"stop"'), b"data: [DONE]\n\n"]))
    assert await text_of(make(), call(params={"n": 2})) == "aaaa"


async def test_fewer_choices_than_asked_for_are_no_answer(server: LoopbackServer, make: Make) -> None:
    server.script("only one")
    with pytest.raises(ModelProtocolError, match="1 choices, asked were 2"):
        await make().complete(call(params={"n": 2}))


SPLIT = ["smile: \ud83d", "\ude00!"]


@pytest.mark.parametrize("kind", ["content", "reasoning_content", "arguments"])
async def test_a_character_cut_in_two_is_whole_again(server: LoopbackServer, make: Make, kind: str) -> None:
    def said(text: str) -> dict[str, object]:
        call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": text}}
        return {"tool_calls": [call]} if kind == "arguments" else {kind: text}

    server.script(Reply(raw=[event(said(text)) for text in SPLIT] + [event({}, "stop")]))
    deltas = [one.choices[0].delta async for one in make().stream(call())]
    found = [
        getattr(delta, kind, None)
        or "".join(c.function.arguments or "" for c in delta.tool_calls or () if c.function)
        for delta in deltas
    ]
    assert "".join(text or "" for text in found) == "smile: 😀!"
    assert all((text or "").encode() is not None for text in found)


@pytest.mark.parametrize(
    "texts", [["a\ud83d", "b"], ["a\ude00"], ["a\ud83d\ud83d", "\ude00"], ["a", "\ud83d"]]
)
async def test_half_a_character_is_never_told(server: LoopbackServer, make: Make, texts: list[str]) -> None:
    server.script(Reply(raw=[event({"content": text}) for text in texts] + [event({}, "stop")]))
    told = ""
    with pytest.raises(ModelProtocolError, match="half a character"):
        async for one in make().stream(call()):
            told += one.choices[0].delta.content or ""
    assert told in ("", "a")


def event(delta: dict[str, object], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"
