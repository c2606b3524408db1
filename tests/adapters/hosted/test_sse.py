"""Every legal way to write server-sent events is read alike, however the network cuts it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.hosted.sse import EventCleaner
from router.errors import ModelHTTPError, ModelProtocolError
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of


def chunk(text: str, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return json.dumps({"id": "x", "choices": [choice]}, ensure_ascii=False)


ONE, TWO = chunk("Grüße "), chunk("世界🌍", "stop")
SPREAD = TWO.replace(", ", ",\ndata: ")

DIALECTS = {
    "lf": f"data: {ONE}\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "crlf": f"data: {ONE}\r\n\r\ndata: {TWO}\r\n\r\ndata: [DONE]\r\n\r\n",
    "cr": f"data: {ONE}\r\rdata: {TWO}\r\rdata: [DONE]\r\r",
    "mixed": f"data: {ONE}\r\n\ndata: {TWO}\r\r\ndata: [DONE]\n\r\n",
    "byte order mark": f"\ufeffdata: {ONE}\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "no space": f"data:{ONE}\n\ndata:{TWO}\n\ndata:[DONE]\n\n",
    "comments": f": hello\n\ndata: {ONE}\n\n: ping\n\n:\n\ndata: {TWO}\n\n: bye\n\ndata: [DONE]\n\n",
    "comment inside": f"data: {ONE}\n: ping\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "ids": f"id: 1\ndata: {ONE}\n\n: ping\n\nid: 2\ndata: {TWO}\n\n\ndata: [DONE]\n\n",
    "retry": f"retry: 3000\n\ndata: {ONE}\n\nretry: x\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "event names": f"event: message\ndata: {ONE}\n\nevent: completion.chunk\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "event without data": f"event: ping\n\ndata: {ONE}\n\nevent: ping\ndata: {{}}\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "empty data": f"data: {ONE}\n\ndata:\n\ndata\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "data on several lines": f"data: {ONE}\n\ndata: {SPREAD}\n\ndata: [DONE]\n\n",
    "unknown fields": f"foo: bar\ndata: {ONE}\nbaz\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "no done": f"data: {ONE}\n\ndata: {TWO}\n\n",
    "no last blank line": f"data: {ONE}\n\ndata: {TWO}\n",
    "no last line end": f"data: {ONE}\n\ndata: {TWO}",
    "two spaces": f"data:  {ONE}\n\ndata:   {TWO}\n\ndata: [DONE]\n\n",
    "a tab": f"data:\t{ONE}\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "all fields": f"id: 7\nevent: message\nretry: 9\n: x\ndata: {ONE}\n\nid:\nevent:\ndata:{TWO}\n\n",
    "fields after data": f"data: {ONE}\nevent: message\nid: 1\n\ndata: {TWO}\nretry: 5\n\ndata: [DONE]\n\n",
    "an id with a zero byte": f"id: a\0b\ndata: {ONE}\n\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "a byte order mark and CRLF": f"\ufeffdata: {ONE}\r\n\r\ndata: {TWO}\r\n\r\n",
    "a byte order mark and a comment": f"\ufeff: hi\n\ndata: {ONE}\n\ndata: {TWO}\n\n",
    "blank lines": f"\n\n\r\n\rdata: {ONE}\n\n\n\n\ndata: {TWO}\n\n\n",
    "CRLF inside an event": f"data: {ONE}\r\n\ndata: {SPREAD.replace(chr(10), chr(13) + chr(10))}\r\n\r\n",
    "done without a space": f"data: {ONE}\n\ndata: {TWO}\n\ndata:[DONE]\n\n",
    "done without an end": f"data: {ONE}\n\ndata: {TWO}\n\ndata: [DONE]",
    "capitals": f"DATA: {{broken\n\ndata: {ONE}\n\nData: x\ndata: {TWO}\n\ndata: [DONE]\n\n",
    "data after done": f"data: {ONE}\n\ndata: {TWO}\n\ndata: [DONE]\n\ndata: {{broken\n\ndata: {ONE}\n\n",
}


def texts(pieces: list[bytes]) -> list[str]:
    """The contents that a reader of the one plain form finds in what the cleaner makes of the pieces."""
    cleaner = EventCleaner()
    clean = b"".join([cleaner.feed(piece) for piece in pieces if not cleaner.done] + [cleaner.finish()])
    found = []
    for event in clean.decode().split("\n\n"):
        if event:
            lines = event.split("\n")
            assert all(line.startswith("data: ") for line in lines)
            body = json.loads("\n".join(line.removeprefix("data: ") for line in lines))
            found.append(body["choices"][0]["delta"]["content"])
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_is_read_alike(server: LoopbackServer, make: Make, dialect: str) -> None:
    server.script(Reply(raw=[DIALECTS[dialect].encode()]))
    assert await text_of(make()) == "Grüße 世界🌍"


@pytest.mark.parametrize("dialect", ["lf", "crlf", "cr", "byte order mark", "ids"])
async def test_a_stream_may_arrive_byte_by_byte(server: LoopbackServer, make: Make, dialect: str) -> None:
    raw = DIALECTS[dialect].encode()
    server.script(Reply(raw=[raw[i : i + 1] for i in range(len(raw))]))
    assert await text_of(make()) == "Grüße 世界🌍"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_cut_anywhere_changes_nothing(dialect: str) -> None:
    raw = DIALECTS[dialect].encode()
    for cut in range(len(raw) + 1):
        assert texts([raw[:cut], raw[cut:]]) == ["Grüße ", "世界🌍"], cut


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_byte_may_come_by_itself(dialect: str) -> None:
    raw = DIALECTS[dialect].encode()
    assert texts([raw[i : i + 1] for i in range(len(raw))]) == ["Grüße ", "世界🌍"]


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize("place", ["before", "with", "after", "everywhere", "after with null choices"])
async def test_usage_may_come_before_with_or_after_the_end(
    server: LoopbackServer, make: Make, place: str
) -> None:
    told: dict[str, object] = {"id": "x", "choices": None if "null" in place else [], "usage": USAGE}
    usage = f"data: {json.dumps(told)}\n\n"
    first, last = json.loads(ONE), json.loads(TWO)
    if place in ("with", "everywhere"):
        last["usage"] = USAGE
    if place == "everywhere":
        first["usage"] = {**USAGE, "completion_tokens": 1, "total_tokens": 4}
    events = [f"data: {json.dumps(one)}\n\n" for one in (first, last)]
    if place == "before":
        events.insert(1, usage)
    if place.startswith(("after", "every")):
        events.append(usage)
    server.script(Reply(raw=["".join(events).encode() + b"data: [DONE]\n\n"]))
    chunks = [chunk async for chunk in make().stream(call())]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Grüße 世界🌍"
    assert [c.usage for c in chunks if c.usage is not None][-1].total_tokens == 5


@given(st.sampled_from(sorted(DIALECTS)), st.sets(st.integers(1, 400)))
def test_the_cuts_of_the_network_change_nothing(dialect: str, cuts: set[int]) -> None:
    raw = DIALECTS[dialect].encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    assert texts([raw[a:b] for a, b in itertools.pairwise(edges)]) == ["Grüße ", "世界🌍"]


def test_plain_events_pass_through_as_the_same_bytes() -> None:
    raw = f"data: {ONE}\n\ndata: {TWO}\n\n".encode()
    assert EventCleaner().feed(raw) is raw


async def test_a_chunk_that_breaks_off_at_the_end_is_no_answer(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(raw=[f"data: {ONE}\n\ndata: {TWO[:-5]}".encode()]))
    with pytest.raises(ModelProtocolError, match="finish reason"):
        await text_of(make())


async def test_text_that_is_no_utf_8_is_refused(server: LoopbackServer, make: Make) -> None:
    server.script(
        Reply(raw=[b'data: {"choices":[{"index":0,"delta":{"content":"\xff"},"finish_reason":"stop"}]}\n\n'])
    )
    with pytest.raises(ModelProtocolError):
        await text_of(make())


@pytest.mark.parametrize(
    "data",
    ['{"message": "no room", "code": 503}', '{"error": {"message": "no room", "code": 503}}', "no room"],
)
async def test_an_error_event_of_any_shape_is_an_error(server: LoopbackServer, make: Make, data: str) -> None:
    server.script(Reply(raw=[f"event: error\ndata: {data}\n\n".encode()]))
    with pytest.raises(ModelHTTPError, match="no room") as caught:
        await text_of(make())
    assert caught.value.status_code in (502, 503)


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf", b"  \n", b""])
async def test_a_byte_order_mark_before_json_does_no_harm(
    server: LoopbackServer, make: Make, body: bytes
) -> None:
    answer = b'{"id":"x","choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}]}'
    server.script(Reply(raw=[body + answer]))
    assert (await make().complete(call())).choices[0].message.content == "ok"
