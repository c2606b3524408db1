"""The fault server of the benchmark does what it is told, and counts right: else its figures mean nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator

import pytest

from tests.benchmarks.faults.behaviour import Behaviour, Model
from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.server import whole_text


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def ask(server: FaultServer, *, timeout: float = 5.0, **fields: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    body = {"model": "a", "messages": [{"role": "user", "content": "two words"}], **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def test_an_answer_is_as_long_as_told_and_is_billed(server: FaultServer) -> None:
    server.behave(a=Behaviour(median=0.0, least=0.5, most=0.5, price_in=1.0, price_out=10.0))
    connection = ask(server, max_tokens=40)
    usage = json.loads(connection.getresponse().read())["usage"]
    connection.close()
    assert usage == {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    assert server.counts()["a"].usd == pytest.approx((10 * 1.0 + 20 * 10.0) / 1e6)


def test_a_connection_serves_one_request_after_the_other(server: FaultServer) -> None:
    server.behave(a=Behaviour(median=0.0))
    connection = ask(server)
    connection.getresponse().read()
    local = connection.sock.getsockname()
    connection.request("POST", "/v1/chat/completions", '{"model": "a", "messages": []}')
    assert connection.getresponse().status == 200
    assert connection.sock.getsockname() == local
    connection.close()


def test_who_is_never_answered_stays_in_flight_until_it_goes_away(server: FaultServer) -> None:
    server.behave(a=Behaviour(fault="silent"))
    connection = ask(server, timeout=0.1)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    assert server.counts()["a"].in_flight == 1
    connection.close()
    assert server.wait_until(lambda one: one.in_flight() == 0, 5.0)
    assert server.counts()["a"].left == 1


def test_a_cut_stream_ends_in_the_middle(server: FaultServer) -> None:
    server.behave(a=Behaviour(median=0.0, fault="cut", chunks=4))
    connection = ask(server, stream=True)
    answer = connection.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as broken:
        answer.read()
    connection.close()
    if isinstance(broken.value, http.client.IncompleteRead):
        assert b"[DONE]" not in broken.value.partial


def test_a_stream_goes_on_where_the_request_leaves_it(server: FaultServer) -> None:
    server.behave(a=Behaviour(median=0.0, chunks=4))
    begun = whole_text(2)[:-2]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": begun}]
    connection = ask(server, stream=True, messages=messages)
    events = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"])
    assert begun + text == whole_text(4)


def test_a_limit_lets_so_many_through_in_a_window_and_tells_the_rest_how_long_to_wait() -> None:
    model = Model()
    model.behaviour = Behaviour(limit=2, window=10.0)
    assert [model.wait_for_limit(at) for at in (0.0, 4.0, 5.0)] == [0.0, 0.0, 5.0]
    assert [model.wait_for_limit(at) for at in (10.0, 11.0)] == [0.0, 3.0]


async def test_seats_are_handed_over_in_turn_and_given_back_by_those_who_go_away() -> None:
    model = Model()
    model.behaviour = Behaviour(seats=1, queue=2)
    order: list[int] = []

    async def sit(number: int, leave: asyncio.Event) -> None:
        async with model.seat():
            order.append(number)
            await leave.wait()

    leaves = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(sit(number, leaves[number])) for number in range(3)]
    await asyncio.sleep(0)
    assert model.full
    tasks[1].cancel()
    await asyncio.sleep(0)
    leaves[0].set()
    await asyncio.wait_for(tasks[0], 5)
    tasks.append(asyncio.create_task(sit(3, leaves[3])))
    leaves[2].set()
    leaves[3].set()
    await asyncio.wait_for(asyncio.gather(tasks[2], tasks[3]), 5)
    assert order == [0, 2, 3]
    assert not model.full
