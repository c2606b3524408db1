"""Requests through the whole router to a real GGUF model, alone and beside hosted ones."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router import (
    AllModelsFailedError,
    HostedModel,
    LocalModel,
    ModelLoadError,
    NoEligibleModelError,
    Policy,
    Price,
    Router,
)
from router.adapter import AdapterSettings
from router.testing import LoopbackServer, check_adapter
from tests.helpers import HELLO, eventually, hosted, router_of, scripted, smollm2, sync_router_of, text_of

pytestmark = [pytest.mark.gguf, pytest.mark.usefixtures("no_network")]

#: A request whose answer takes many seconds, whatever the model would like to say.
LONG: dict[str, Any] = {
    "messages": HELLO,
    "max_tokens": 900,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "words",
            "schema": {"type": "array", "items": {"enum": ["one", "two"]}, "minItems": 300},
        },
    },
}


@pytest.fixture(scope="module")
def path() -> Path:
    return smollm2()


@pytest.fixture(scope="module")
def local(path: Path) -> LocalModel:
    return LocalModel("local", path=path, n_ctx=1024, threads=2, usd_per_hour=3.6, quality=0.4)


@pytest.fixture(scope="module")
def router(local: LocalModel) -> Iterator[Router]:
    """One router for several tests: loading takes longer than answering."""
    with sync_router_of(local) as made:
        yield made


class TestChoosing:
    def test_beside_hosted_models_without_keys_it_answers_and_the_reasons_are_told(
        self, local: LocalModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("OPENAI_API_KEY", "MOONSHOT_API_KEY"):
            monkeypatch.delenv(variable, raising=False)
        models = (
            HostedModel("gpt-5-mini", provider="openai", quality=0.9),
            HostedModel("kimi-k2", provider="moonshot", model="kimi-k2-0905-preview", quality=0.9),
            local,
        )
        with sync_router_of(*models) as router:
            ranking = router.route(messages=HELLO).ranking
            assert [candidate.model for candidate in ranking] == ["local", "gpt-5-mini", "kimi-k2"]
            completion = router.chat.completions.create(messages=HELLO, max_tokens=8)
        told = completion.routing.explain()
        assert completion.routing.model == "local"
        assert completion.choices[0].message.content
        assert "OPENAI_API_KEY" in told
        assert "MOONSHOT_API_KEY" in told

    def test_a_private_request_is_answered_here_and_asks_nobody_else(self, local: LocalModel) -> None:
        with LoopbackServer() as server:
            public = hosted("public", server, usd=0, quality=1.0)
            with sync_router_of(public, local, policy=Policy.best()) as router:
                options = {"privacy": "private"}
                answer = router.chat.completions.create(messages=HELLO, max_tokens=4, routing=options)
                assert answer.routing.model == "local"
                assert server.requests == []

    def test_a_prompt_over_the_window_goes_to_a_model_that_can_take_it(self, path: Path) -> None:
        small = LocalModel("small", path=path, n_ctx=128, threads=2)
        long: list[dict[str, Any]] = [{"role": "user", "content": "word " * 400}]
        with sync_router_of(small, scripted("large", usd=9, context_window=8000)) as router:
            completion = router.chat.completions.create(messages=long, max_tokens=4)  # type: ignore[arg-type]
            assert completion.routing.model == "large"
            with pytest.raises(NoEligibleModelError, match="small: context"):
                router.chat.completions.create(messages=long, max_tokens=4, model="small")  # type: ignore[arg-type]

    def test_an_overflow_that_only_the_exact_count_sees_goes_to_the_next_candidate(self, path: Path) -> None:
        """The file's tokenizer makes far more tokens of this than ours does."""
        small = LocalModel("small", path=path, n_ctx=256, threads=2)
        strange: list[dict[str, Any]] = [{"role": "user", "content": "Привет, как дела? ありがとう " * 14}]
        with sync_router_of(small, scripted("large", usd=9)) as router:
            completion = router.chat.completions.create(messages=strange, max_tokens=4)  # type: ignore[arg-type]
        decision = completion.routing
        assert decision.features.prompt_tokens < 250
        assert decision.model == "large"
        assert [type(attempt.error).__name__ for attempt in decision.attempts] == [
            "ContextWindowExceededError",
            "NoneType",
        ]


class TestBrokenFiles:
    @pytest.fixture(params=["missing", "empty", "text", "truncated", "absurd counts"])
    def broken(self, request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> LocalModel:
        file = tmp_path / "broken.gguf"
        contents = {
            "empty": b"",
            "text": b"this is no model",
            "truncated": path.read_bytes()[:3_000_000],
            "absurd counts": b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
        }
        if request.param in contents:
            file.write_bytes(contents[request.param])
        return LocalModel("broken", path=file, quality=0.9)

    def test_the_next_candidate_answers(self, broken: LocalModel) -> None:
        with sync_router_of(broken, scripted("spare", usd=9)) as router:
            for stream in (False, True):
                answer = router.chat.completions.create(messages=HELLO, stream=stream)
                assert answer.routing.model == "spare"

    def test_alone_it_says_what_is_wrong(self, broken: LocalModel) -> None:
        with (
            sync_router_of(broken) as router,
            pytest.raises((AllModelsFailedError, NoEligibleModelError)) as caught,
        ):
            router.chat.completions.create(messages=HELLO)
        assert str(broken.path) in str(caught.value) or "file" in str(caught.value)
        if isinstance(caught.value, AllModelsFailedError):
            assert isinstance(caught.value.causes[0], ModelLoadError)


class TestAnswers:
    def test_a_stream_tells_its_usage_and_its_cost(self, router: Router) -> None:
        router.chat.completions.create(messages=HELLO, max_tokens=1)  # loads the model, which is not charged
        stream = router.chat.completions.create(
            messages=HELLO, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        whole = router.chat.completions.create(messages=HELLO, max_tokens=12, temperature=0)
        usage = chunks[-1].usage
        assert usage is not None
        assert whole.usage is not None
        assert usage.total_tokens == whole.usage.total_tokens
        assert usage.completion_tokens == 12
        assert text_of(chunks) == whole.choices[0].message.content
        attempt = stream.routing.attempts[0]
        assert attempt.cost_source == "usage"
        assert attempt.duration is not None
        # 3.6 USD an hour are a thousandth of a dollar a second.
        assert attempt.cost == pytest.approx(Decimal(attempt.duration) / 1000, rel=Decimal("0.5"))
        assert stream.routing.cost == attempt.cost

    def test_the_first_answer_does_not_pay_for_loading_the_model(self, local: LocalModel) -> None:
        with sync_router_of(local) as fresh:
            decision = fresh.chat.completions.create(messages=HELLO, max_tokens=1).routing
        assert len(decision.attempts) == 1
        assert decision.cost is not None
        assert decision.cost > 0

    def test_a_json_schema_is_forced(self, router: Router) -> None:
        schema = {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "large": {"type": "boolean"},
                "size": {"enum": ["s", "m", "l"]},
            },
            "required": ["city", "large", "size"],
            "additionalProperties": False,
        }
        form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
        completion = router.chat.completions.create(
            messages=HELLO,
            response_format=form,
            max_tokens=120,
            temperature=0.9,
            seed=3,
        )
        answer = json.loads(completion.choices[0].message.content or "")
        assert set(answer) == {"city", "large", "size"}
        assert isinstance(answer["large"], bool)
        assert answer["size"] in ("s", "m", "l")

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_call_is_forced(self, router: Router, *, stream: bool) -> None:
        tool: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": "book",
                "parameters": {
                    "type": "object",
                    "properties": {"nights": {"type": "integer", "minimum": 1, "maximum": 9}},
                    "required": ["nights"],
                    "additionalProperties": False,
                },
            },
        }
        asked: dict[str, Any] = {
            "messages": HELLO,
            "tools": [tool],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        }
        if stream:
            chunks = list(router.chat.completions.create(**asked, max_tokens=150, stream=True))
            pieces = [p for c in chunks if c.choices for p in c.choices[0].delta.tool_calls or []]
            name = "".join(p.function.name or "" for p in pieces if p.function)
            arguments = "".join(p.function.arguments or "" for p in pieces if p.function)
            finish = [c.choices[0].finish_reason for c in chunks if c.choices][-1]
        else:
            choice = router.chat.completions.create(**asked, max_tokens=150).choices[0]
            (call,) = choice.message.tool_calls or []
            assert call.type == "function"
            name, arguments, finish = call.function.name, call.function.arguments, choice.finish_reason
        assert name == "book"
        assert 1 <= json.loads(arguments)["nights"] <= 9
        assert finish == "tool_calls"

    def test_several_threads_get_what_each_gets_alone(self, router: Router) -> None:
        prompts = [f"Tell me one thing about the number {number}." for number in range(3)]

        def ask(prompt: str) -> str | None:
            completion = router.chat.completions.create(
                messages=[{"role": "user", "content": prompt}], max_tokens=10, temperature=0
            )
            return completion.choices[0].message.content

        alone = [ask(prompt) for prompt in prompts]
        together: dict[int, str | None] = {}
        threads = [
            threading.Thread(target=lambda n=n: together.__setitem__(n, ask(prompts[n]))) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [together[number] for number in range(3)] == alone


class TestStopping:
    def test_closing_a_stream_frees_the_engine(self, router: Router) -> None:
        adapter = router._core.fleet.loaded_adapter(0)
        stream = router.chat.completions.create(**LONG, stream=True)
        next(stream)
        assert adapter is not None
        assert adapter.load().running == 1
        stream.close()
        assert eventually(lambda: adapter.load().running == 0, 3)
        attempt = stream.routing.attempts[0]
        assert attempt.outcome == "cancelled"
        assert attempt.cost is not None
        assert attempt.cost > 0

    async def test_cancelling_create_frees_the_engine_for_who_waits(self, local: LocalModel) -> None:
        async with router_of(local) as router:
            await router.chat.completions.create(messages=HELLO, max_tokens=1)
            long = asyncio.create_task(router.chat.completions.create(**LONG))
            await asyncio.sleep(0.1)
            waits = asyncio.create_task(router.chat.completions.create(messages=HELLO, max_tokens=2))
            await asyncio.sleep(0.05)
            long.cancel()
            with pytest.raises(asyncio.CancelledError):
                await long
            assert (await asyncio.wait_for(waits, 20)).choices[0].finish_reason

    def test_a_deadline_stops_generation(self, router: Router) -> None:
        from router import DeadlineExceededError

        adapter = router._core.fleet.loaded_adapter(0)
        with pytest.raises(DeadlineExceededError):
            router.chat.completions.create(**LONG, timeout=0.3)
        assert adapter is not None
        assert eventually(lambda: adapter.load().running == 0, 3)

    def test_closing_the_router_while_it_generates_ends_the_engine(self, local: LocalModel) -> None:
        before = threading.active_count()
        fresh = sync_router_of(local)
        stream = fresh.chat.completions.create(**LONG, stream=True)
        next(stream)
        began = time.monotonic()
        fresh.close()
        assert time.monotonic() - began < 10  # not the minute that 900 tokens take
        assert eventually(lambda: threading.active_count() <= before)


async def test_the_local_adapter_keeps_its_contract(local: LocalModel) -> None:
    from adapters.local import create

    await check_adapter(lambda: create(local, AdapterSettings()))


def test_both_kinds_answer_under_one_policy(local: LocalModel) -> None:
    free = local.model_copy(update={"usd_per_hour": 0.0})
    with LoopbackServer("premium answer") as server:
        premium = hosted("premium", server, price=Price(input=5, output=15), quality=0.95)
        with sync_router_of(premium, free, policy=Policy.cheapest(min_quality=0.3)) as router:
            cheap = router.chat.completions.create(messages=HELLO, max_tokens=2)
            good = router.chat.completions.create(messages=HELLO, max_tokens=2, routing={"min_quality": 0.9})
    assert cheap.routing.model == "local"
    assert cheap.routing.cost == Decimal(0)
    assert good.choices[0].message.content == "premium answer"
    assert good.routing.cost
