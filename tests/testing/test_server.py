"""The loopback server does what tests and examples rely on, seen by the real SDK."""

from __future__ import annotations

import threading

import httpx2
import pytest
from openai import APIConnectionError, OpenAI, RateLimitError

from router.testing.server import LoopbackServer, Received, Reply, serve_in_child


def client(server: LoopbackServer) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key="any", max_retries=0)


def ask(sdk: OpenAI, model: str = "any") -> str | None:
    answer = sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi there"}])
    return answer.choices[0].message.content


def test_it_answers_and_keeps_what_it_was_asked() -> None:
    with LoopbackServer("Hello!") as server, client(server) as sdk:
        assert ask(sdk) == "Hello!"
        assert server.requests[0].body["messages"] == [{"role": "user", "content": "Hi there"}]
        assert server.requests[0].headers["authorization"] == "Bearer any"
        assert server.wait_until(lambda s: s.in_flight == 0)
        assert list(sdk.models.list()) == []


def test_it_streams_with_usage_if_asked() -> None:
    with LoopbackServer(Reply(text="one two three", chunk=4)) as server, client(server) as sdk:
        stream = sdk.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3


def test_it_answers_by_model_in_turn_and_by_callable() -> None:
    def echo(request: Received) -> str:
        return f"you asked {request.model}"

    with (
        LoopbackServer("other", models={"turns": ["first", "last"], "echo": echo}) as server,
        client(server) as sdk,
    ):
        assert [ask(sdk, "turns") for _ in range(3)] == ["first", "last", "last"]
        assert ask(sdk, "echo") == "you asked echo"
        assert ask(sdk, "unheard of") == "other"
        server.script("new", model="turns")
        assert ask(sdk, "turns") == "new"


def test_it_fails_as_scripted() -> None:
    with LoopbackServer(Reply(status=429, headers={"retry-after": "3"})) as server, client(server) as sdk:
        with pytest.raises(RateLimitError) as caught:
            ask(sdk)
        assert caught.value.response.headers["retry-after"] == "3"
        server.script(Reply(fault="disconnect"))
        with pytest.raises(APIConnectionError):
            ask(sdk)


def test_it_counts_what_is_in_flight_and_who_went_away() -> None:
    with LoopbackServer(Reply(fault="hang")) as server:

        def give_up() -> None:
            with client(server) as sdk, pytest.raises(APIConnectionError):
                ask(sdk.with_options(timeout=0.3))

        threads = [threading.Thread(target=give_up) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert server.wait_until(lambda s: s.in_flight == 3)
        for thread in threads:
            thread.join()
        assert server.wait_until(lambda s: s.disconnects == 3 and s.in_flight == 0)
        assert server.most_in_flight == 3


def test_it_stops_with_its_block() -> None:
    with LoopbackServer(Reply(fault="hang")) as server:
        url = server.base_url
    server.close()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


def test_it_runs_in_a_process_of_its_own() -> None:
    with serve_in_child("from afar") as url, OpenAI(base_url=url, api_key="any", max_retries=0) as sdk:
        assert ask(sdk) == "from afar"
