"""Requests through the whole router to real HTTP servers, with all the ways in which hosts fail."""

from __future__ import annotations

import json
import logging
import traceback
from decimal import Decimal
from typing import Any, get_args

import pytest
from openai.types.chat import ChatCompletionFunctionToolParam

from router import (
    AllModelsFailedError,
    AsyncRouter,
    HostedModel,
    InvalidRequestError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelProtocolError,
    ModelTimeoutError,
    NoEligibleModelError,
    Policy,
    Price,
    Recovery,
    StreamInterruptedError,
)
from router.testing import LoopbackServer, ManualClock, Reply, check_adapter
from router.testing.replies import Fault
from router.testing.server import Script
from tests.helpers import HELLO, hosted, router_of, run_on, text_of

pytestmark = pytest.mark.usefixtures("no_network")

FAULTS: tuple[Fault, ...] = get_args(Fault)
#: Faults that only a stream has; an answer in one piece is whole.
ONLY_STREAMS = {"no_finish", "corrupt", "error_first", "error_later", "json_for_stream"}
#: Faults after a stream's first token, which cannot be healed without repeating it.
LATE = {"truncated", "no_finish", "corrupt", "error_later"}
#: Faults that only a time limit ends.
SILENT = {"hang", "keep_alive"}
QUICK = Recovery(attempt_timeout=1.0, ttft_timeout=1.0, max_response_bytes=300_000)
#: Only what never answers may run into a time limit: a machine may be busy for longer than a quick one.
PATIENT = QUICK.model_copy(update={"attempt_timeout": 60.0, "ttft_timeout": 60.0})

WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"yes": {"type": "boolean"}},
            "required": ["yes"],
            "additionalProperties": False,
        },
    },
}


def pair(server: LoopbackServer, **fields: Any) -> AsyncRouter:
    """A router that asks `first`, then `second`."""
    fields.setdefault("recovery", PATIENT)
    return router_of(hosted("first", server, usd=1), hosted("second", server, usd=9), **fields)


def limits_of(fault: Fault | None) -> Recovery:
    """Time limits under which only a silent host is late."""
    return QUICK if fault in SILENT else PATIENT


def models_of(fault: Fault) -> dict[str, Script]:
    """What a server answers for two models, of which the first fails."""
    return {"first": Reply(text="from the first", fault=fault), "second": "from the second"}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_fault_of_the_first_model_is_healed_by_the_second(self, fault: Fault) -> None:
        with LoopbackServer(models=models_of(fault)) as server:
            async with pair(server, recovery=limits_of(fault)) as router:
                completion = await router.chat.completions.create(messages=HELLO)
        decision = completion.routing
        if fault in ONLY_STREAMS:
            assert completion.choices[0].message.content == "from the first"
            return
        assert completion.choices[0].message.content == "from the second"
        assert [(a.model, a.outcome) for a in decision.attempts] == [
            ("first", "failed"),
            ("second", "succeeded"),
        ]
        assert isinstance(decision.attempts[0].error, ModelError)

    @pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in LATE])
    async def test_a_fault_before_the_first_token_of_a_stream_is_healed(self, fault: Fault) -> None:
        with LoopbackServer(models=models_of(fault)) as server:
            async with pair(server, recovery=limits_of(fault)) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                text = text_of([chunk async for chunk in stream])
            assert server.requests[0].model == "first"
        assert text == "from the second"
        assert [attempt.outcome for attempt in stream.routing.attempts] == ["failed", "succeeded"]

    @pytest.mark.parametrize("fault", sorted(LATE))
    async def test_a_fault_after_the_first_token_is_told_with_the_partial_text(self, fault: Fault) -> None:
        with LoopbackServer(models=models_of(fault)) as server:
            async with pair(server, recovery=limits_of(fault)) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                read = []
                with pytest.raises(StreamInterruptedError) as caught:
                    async for chunk in stream:
                        read.append(chunk)
            assert [request.model for request in server.requests] == ["first"]
        assert text_of(read) == caught.value.text
        assert "from the first".startswith(caught.value.text)
        assert caught.value.text
        assert isinstance(caught.value.__cause__, ModelError)
        assert stream.routing.attempts[0].outcome == "failed"
        assert stream.routing.cost

    @pytest.mark.parametrize("stream", [False, True])
    async def test_each_fault_has_its_type(self, *, stream: bool) -> None:
        kinds: dict[Fault, type[ModelError]] = {
            "html": ModelProtocolError,
            "oversize": ModelProtocolError,
            "gzip_bomb": ModelProtocolError,
            "redirect": ModelError,
            "hang": ModelTimeoutError,
            "keep_alive": ModelTimeoutError,
            "disconnect": ModelConnectionError,
        }
        for fault, kind in kinds.items():
            with LoopbackServer(Reply(fault=fault)) as server:
                recovery = limits_of(fault).model_copy(update={"max_attempts": 1})
                async with router_of(hosted("only", server), recovery=recovery) as router:
                    with pytest.raises(AllModelsFailedError) as caught:
                        await router.chat.completions.create(messages=HELLO, stream=stream)
                assert [isinstance(cause, kind) for cause in caught.value.causes] == [True], fault
                assert len(server.requests) == 1

    async def test_a_dead_host_is_healed(self) -> None:
        with LoopbackServer() as dead:
            gone = hosted("gone", dead)
        with LoopbackServer("alive") as server:
            async with router_of(gone, hosted("here", server, usd=9)) as router:
                completion = await router.chat.completions.create(messages=HELLO)
        assert completion.choices[0].message.content == "alive"
        assert isinstance(completion.routing.attempts[0].error, ModelConnectionError)

    async def test_a_stream_that_stalls_ends_at_the_deadline_and_is_closed_at_the_host(self) -> None:
        import asyncio

        from router import DeadlineExceededError

        with LoopbackServer(Reply(text="word " * 50, per_token=0.1)) as server:
            async with pair(server) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True, timeout=0.5)
                with pytest.raises(DeadlineExceededError):
                    [chunk async for chunk in stream]
                assert await asyncio.to_thread(
                    server.wait_until, lambda s: s.disconnects == 1 and not s.in_flight
                )

    async def test_the_slow_one_that_was_left_is_closed_at_the_host(self) -> None:
        import asyncio

        with LoopbackServer(models={"first": Reply(fault="hang"), "second": "quick"}) as server:
            async with pair(server, recovery=QUICK) as router:
                await router.chat.completions.create(messages=HELLO)
                assert await asyncio.to_thread(
                    server.wait_until, lambda s: s.disconnects == 1 and not s.in_flight
                )


class TestStatuses:
    async def test_retry_after_is_obeyed(self) -> None:
        import time

        busy = Reply(status=429, headers={"retry-after-ms": "300", "retry-after": "1"})
        with LoopbackServer([busy, "in time"]) as server:
            async with router_of(hosted("only", server)) as router:
                began = time.monotonic()
                completion = await router.chat.completions.create(messages=HELLO)
                waited = time.monotonic() - began
        assert completion.choices[0].message.content == "in time"
        error = completion.routing.attempts[0].error
        assert isinstance(error, ModelHTTPError)
        assert error.retry_after is not None
        assert waited >= error.retry_after >= 0.3

    async def test_a_long_retry_after_moves_on_at_once(self) -> None:
        busy = Reply(status=429, headers={"retry-after": "60"})
        with LoopbackServer(models={"first": busy, "second": "quick"}) as server:
            async with pair(server) as router:
                decisions = [
                    (await router.chat.completions.create(messages=HELLO, timeout=5)).routing
                    for _ in range(3)
                ]
            assert [request.model for request in server.requests] == ["first", "second", "second", "second"]
        assert decisions[0].attempts[0].error.retry_after == 60  # type: ignore[union-attr]
        assert len(decisions[1].attempts) == 1

    @pytest.mark.parametrize("status", [401, 402, 403, 404])
    async def test_what_only_a_person_can_heal_is_left_alone_from_then_on(self, status: int) -> None:
        with LoopbackServer(models={"first": Reply(status=status), "second": "fine"}) as server:
            async with pair(server) as router:
                for _ in range(3):
                    completion = await router.chat.completions.create(messages=HELLO)
                    assert completion.routing.model == "second"
            assert [request.model for request in server.requests].count("first") == 1

    async def test_a_bad_request_is_told_with_the_hosts_words(self) -> None:
        bad = Reply(status=400, error={"message": "top_p is too hot", "code": "bad_value", "param": "top_p"})
        with LoopbackServer(bad) as server:
            async with router_of(hosted("only", server)) as router:
                with pytest.raises(AllModelsFailedError, match="top_p is too hot") as caught:
                    await router.chat.completions.create(messages=HELLO)
            assert len(server.requests) == 1
        (cause,) = caught.value.causes
        assert isinstance(cause, ModelHTTPError)
        assert (cause.status_code, cause.code) == (400, "bad_value")

    def test_hours_of_waiting_pass_on_a_clock_moved_by_hand(self) -> None:
        """Real HTTP on a loop that never sleeps."""
        clock = ManualClock()
        began = clock.now()
        with LoopbackServer([Reply(status=503, headers={"retry-after": "90"}), "in the end"]) as server:

            async def ask() -> str | None:
                async with router_of(hosted("only", server), clock=clock) as router:
                    answer = await router.chat.completions.create(messages=HELLO)
                    return answer.choices[0].message.content

            assert run_on(clock, ask) == "in the end"
        assert clock.now() - began >= 90


class TestMoney:
    async def test_usage_is_booked_by_price_cached_tokens_at_theirs(self) -> None:
        usage = {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_tokens_details": {"cached_tokens": 400},
        }
        price = Price(input=2, output=10, cached_input=0.5, per_request=0.001)
        with LoopbackServer(Reply(usage=usage)) as server:
            async with router_of(hosted("m", server, price=price)) as router:
                completion = await router.chat.completions.create(messages=HELLO)
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                chunks = [chunk async for chunk in stream]
        expected = Decimal("0.001") + (600 * Decimal(2) + 400 * Decimal("0.5") + 200 * Decimal(10)) / 10**6
        assert completion.routing.cost == stream.routing.cost == expected
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == 1000
        assert all(chunk.usage is None for chunk in chunks)
        assert server.requests[1].body["stream_options"] == {"include_usage": True}

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_host_that_tells_no_usage_is_booked_by_what_it_said(self, *, stream: bool) -> None:
        reply = Reply(text="x" * 40_000, reasoning="y" * 400, usage={}, chunk=1000)
        with LoopbackServer(reply) as server:
            router = router_of(hosted("m", server, usd=1))
            if stream:
                answer = await router.chat.completions.create(messages=HELLO, stream=True)
                assert [chunk async for chunk in answer]
                (attempt,) = answer.routing.attempts
            else:
                (attempt,) = (await router.chat.completions.create(messages=HELLO)).routing.attempts
            await router.aclose()
        assert attempt.cost_source == "estimate"
        assert attempt.completion_tokens == 10_100, "not what was expected before it spoke"

    async def test_absurd_usage_is_replaced_and_flagged(self) -> None:
        with LoopbackServer(Reply(usage={"prompt_tokens": -5, "completion_tokens": 10**9})) as server:
            async with router_of(hosted("m", server)) as router:
                decision = (await router.chat.completions.create(messages=HELLO)).routing
        assert decision.attempts[0].cost_source == "estimate"
        assert decision.cost is not None
        assert 0 < decision.cost < Decimal("0.01")

    async def test_a_failed_attempts_cost_is_part_of_the_whole(self) -> None:
        models = {"first": Reply(fault="hang"), "second": Reply(text="x" * 40)}
        with LoopbackServer(models=models) as server:
            async with pair(server, recovery=QUICK) as router:
                decision = (await router.chat.completions.create(messages=HELLO)).routing
        costs = [attempt.cost for attempt in decision.attempts]
        assert all(cost is not None and cost > 0 for cost in costs)  # a host that hangs may bill the prompt
        assert decision.cost == sum(cost for cost in costs if cost is not None)


class TestPassingThrough:
    async def test_every_field_of_the_caller_arrives_unchanged(self) -> None:
        asked: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Wetter in Köln? 🌧"}]},
            ],
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
            "response_format": SCHEMA,
            "temperature": 0.0,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "presence_penalty": 0.5,
            "user": "u1",
            "metadata": {"k": "v"},
        }
        reply = Reply(text=None, tool_calls=[("weather", '{"place": "Köln"}')])
        with LoopbackServer(reply) as server:
            async with router_of(hosted("m", server, capabilities=None)) as router:
                completion = await router.chat.completions.create(
                    **asked,
                    extra_body={"vendor": {"deep": [1, 2]}, "routing": {"task": "weather"}},
                    extra_headers={"x-trace": "t1"},
                    extra_query={"debug": "1"},
                )
        received = server.requests[0]
        assert received.body == {**asked, "model": "m", "vendor": {"deep": [1, 2]}} | (
            {"stream": False} if "stream" in received.body else {}
        )
        assert received.headers["x-trace"] == "t1"
        assert received.path.endswith("?debug=1")
        calls = completion.choices[0].message.tool_calls or []
        assert [call.function.arguments for call in calls if call.type == "function"] == ['{"place": "Köln"}']
        assert completion.choices[0].finish_reason == "tool_calls"

    async def test_tool_calls_and_reasoning_come_back_in_a_stream(self) -> None:
        reply = Reply(text=None, reasoning="let me think", tool_calls=[("weather", '{"place": "Rome"}')])
        with LoopbackServer(reply) as server:
            async with router_of(hosted("m", server)) as router:
                stream = await router.chat.completions.create(messages=HELLO, tools=[WEATHER], stream=True)
                deltas = [c.choices[0].delta async for c in stream if c.choices]
        thoughts = "".join((delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas)
        calls = [call for delta in deltas for call in delta.tool_calls or []]
        assert thoughts == "let me think"
        assert "".join((c.function.arguments or "") for c in calls if c.function) == '{"place": "Rome"}'

    @pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize(
        ("provider", "sent"),
        [("openai", "max_completion_tokens"), ("mistral", "max_tokens"), ("llama-server", None)],
    )
    async def test_the_token_limit_is_called_what_the_host_calls_it(
        self, given: str, provider: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LoopbackServer() as server:
            model = hosted("m", server, provider=provider, api_key="some-key")
            async with router_of(model) as router:
                limit: dict[str, Any] = {"messages": HELLO, given: 17}
                await router.chat.completions.create(**limit)
        limits = {key: value for key, value in server.requests[0].body.items() if "tokens" in key}
        assert list(limits.values()) == [17]
        assert sent is None or list(limits) == [sent]


KEY = "very-secret-4f8a1c"
HEADER = "header-secret-77d2"


class TestSecrets:
    @pytest.mark.parametrize(
        "reply",
        [
            Reply(status=401, error={"message": f"Incorrect API key provided: {KEY}", "code": KEY}),
            Reply(status=500, error={"message": f"Bearer {KEY} and {HEADER}", "type": KEY}),
            Reply(fault="disconnect"),
            Reply(fault="hang"),
            Reply(fault="html"),
            Reply(fault="error_in_200", error={"message": f"no {KEY}"}),
            Reply(raw=[f'{{"id": "{KEY}", "choices": "{HEADER}"}}'.encode()]),
            Reply(fault="redirect", location=f"http://elsewhere.invalid/?key={KEY}"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_key_shows_nowhere(
        self, reply: Reply, caplog: pytest.LogCaptureFixture, *, stream: bool
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for name in ("openai", "httpx2", "httpcore2", "asyncio"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        with LoopbackServer(reply) as server:
            model = hosted("only", server, api_key=KEY, headers={"x-org-key": HEADER})
            recovery = limits_of(reply.fault).model_copy(update={"max_attempts": 1})
            async with router_of(model, recovery=recovery) as router:
                with pytest.raises(AllModelsFailedError) as caught:
                    await router.chat.completions.create(messages=HELLO, stream=stream)
                error = caught.value
                decision = error.decision
                assert decision is not None
                shown = [
                    str(error),
                    repr(error),
                    *map(repr, error.causes),
                    *(repr(vars(cause)) for cause in error.causes),
                    "".join(traceback.format_exception(error)),
                    *("".join(traceback.format_exception(cause)) for cause in error.causes),
                    repr(decision),
                    decision.explain(),
                    repr(router.config),
                    repr(model),
                    model.model_dump_json(),
                    caplog.text,
                    *(repr(record.__dict__) for record in caplog.records),
                ]
            sent = server.requests[0].headers
        assert KEY in sent["authorization"]
        assert sent["x-org-key"] == HEADER
        for text in shown:
            assert KEY not in text
            assert HEADER not in text

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(fault="disconnect"),
            Reply(fault="redirect"),
            Reply(status=500),
        ],
    )
    async def test_a_key_is_no_local_variable_of_a_failures_traceback(self, reply: Reply) -> None:
        """Error trackers send the variables of every frame along."""
        with LoopbackServer(reply) as server:
            model = hosted("only", server, api_key=KEY, headers={"x-org-key": HEADER})
            async with router_of(model, recovery=Recovery(max_attempts=1)) as router:
                with pytest.raises(AllModelsFailedError) as caught:
                    await router.chat.completions.create(messages=HELLO)
        told = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
        )
        assert KEY not in told
        assert HEADER not in told

    async def test_a_missing_key_is_a_reason_and_not_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        with LoopbackServer() as server:
            keyless = hosted("keyless", server, api_key_env="NO_SUCH_KEY")
            async with router_of(keyless) as router:
                with pytest.raises(NoEligibleModelError, match="NO_SUCH_KEY"):
                    await router.chat.completions.create(messages=HELLO)
                monkeypatch.setenv("NO_SUCH_KEY", KEY)
                assert (await router.chat.completions.create(messages=HELLO)).routing.model == "keyless"
            assert len(server.requests) == 1

    async def test_a_rotated_key_is_used_at_once(self) -> None:
        keys = iter(["old-key-1", "new-key-2"])
        with LoopbackServer() as server:
            async with router_of(hosted("m", server, api_key=lambda: next(keys))) as router:
                for _ in range(2):
                    await router.chat.completions.create(messages=HELLO)
            sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer old-key-1", "Bearer new-key-2"]


class TestPrivacy:
    async def test_a_private_request_reaches_private_hosts_only(self) -> None:
        with LoopbackServer("public") as public, LoopbackServer(Reply(status=500)) as own:
            models = hosted("public", public, usd=0), hosted("own", own, usd=5, private=True)
            async with router_of(*models, policy=Policy(explore=0.5)) as router:
                for stream in (False, True):
                    with pytest.raises(AllModelsFailedError):
                        await router.chat.completions.create(
                            messages=HELLO,
                            stream=stream,
                            routing={"privacy": "private", "hedge": True},
                        )
        assert public.requests == []
        assert own.requests


async def test_the_hosted_adapter_keeps_its_contract() -> None:
    from adapters.hosted import create
    from router.adapter import AdapterSettings

    with LoopbackServer(Reply(text="one two three four", per_token=0.01)) as server:
        model = HostedModel("m", base_url=server.base_url)
        await check_adapter(lambda: create(model, AdapterSettings()))
        assert json.dumps(server.requests[0].body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages.1", {"messages": [*HELLO, {"role": "user", "content": "half a pair: \ud83d"}]}),
        ("top_a", {"extra_body": {"top_a": float("nan")}}),
        ("top_a", {"extra_body": {"top_a": object()}}),
    ],
)
async def test_a_request_that_json_cannot_hold_is_the_callers_and_shuts_no_model(
    field: str, fields: dict[str, Any], stream: bool
) -> None:
    with LoopbackServer() as server:
        router = pair(server)
        for _ in range(5):
            with pytest.raises(InvalidRequestError) as caught:
                await router.chat.completions.create(**{"messages": HELLO, "stream": stream, **fields})
            assert caught.value.field == field
            assert caught.value.__cause__ is None, "it would hold the whole text"
            assert caught.value.decision is not None
            assert caught.value.decision.attempts == (), "nothing was sent"
        assert server.requests == []
        answer = await router.chat.completions.create(messages=HELLO)
        assert answer.routing.model == "first", "it was never set aside"
        await router.aclose()
