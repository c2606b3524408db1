"""The way of a request, end to end, over scripted models."""

from __future__ import annotations

import asyncio
import gc
from decimal import Decimal

import openai.types.chat
import pytest

from router import (
    AllModelsFailedError,
    AsyncRouter,
    Budget,
    BudgetExceededError,
    ConfigurationError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelConnectionError,
    ModelHTTPError,
    ModelProtocolError,
    ModelTimeoutError,
    NoEligibleModelError,
    OverloadedError,
    Policy,
    Recovery,
    RoutedCompletion,
    Router,
    RouterClosedError,
    RoutingOptions,
    StreamInterruptedError,
)
from router.testing import ManualClock, ScriptedModel, Step
from tests.helpers import HELLO, router_of, run_on, scripted


def http(status: int, **fields: object) -> ModelHTTPError:
    return ModelHTTPError(f"status {status}", model="?", status_code=status, **fields)  # type: ignore[arg-type]


class TestAnswers:
    async def test_openais_own_type_comes_back_with_the_decision(self) -> None:
        async with router_of(scripted("only", "Hi there!")) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        assert isinstance(completion, openai.types.chat.ChatCompletion)
        assert isinstance(completion, RoutedCompletion)
        assert completion.choices[0].message.content == "Hi there!"
        assert completion.routing.model == "only"
        assert completion.routing.attempts[0].outcome == "succeeded"

    async def test_the_decision_is_no_part_of_the_dump(self) -> None:
        async with router_of(scripted("only")) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        again = openai.types.chat.ChatCompletion.model_validate_json(completion.model_dump_json())
        assert "routing" not in completion.model_dump()
        assert again.choices[0].message.content == "Hello!"
        assert completion.model_copy().routing is completion.routing

    async def test_the_cheapest_answers(self) -> None:
        dear, cheap = scripted("dear", usd=10), scripted("cheap", usd=1)
        async with router_of(dear, cheap) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        assert completion.routing.model == "cheap"
        assert not dear.asked

    async def test_cost_is_booked_from_usage(self) -> None:
        step = Step(text="x", prompt_tokens=1000, completion_tokens=500)
        async with router_of(scripted("only", step, usd=2)) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        assert completion.routing.cost == Decimal("0.003")
        assert completion.routing.attempts[0].cost_source == "usage"

    @pytest.mark.parametrize("absurd", [-1, 10**9])
    async def test_absurd_usage_is_replaced_by_the_estimate(self, absurd: int) -> None:
        step = Step(text="x", prompt_tokens=10, completion_tokens=absurd)
        async with router_of(scripted("only", step)) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        cost = completion.routing.cost
        assert cost is not None
        assert 0 < cost < Decimal("0.01")
        assert completion.routing.attempts[0].cost_source == "estimate"

    async def test_a_pinned_model_answers_without_fallback(self) -> None:
        cheap, broken = scripted("cheap"), scripted("broken", ModelConnectionError, usd=9)
        async with router_of(cheap, broken, recovery=Recovery(max_attempts=1)) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                await router.chat.completions.create(messages=HELLO, model="broken")
        assert [cause.model for cause in caught.value.causes] == ["broken"]
        assert not cheap.asked

    async def test_an_error_of_a_request_carries_its_decision(self) -> None:
        async with router_of(scripted("only", http(400))) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                await router.chat.completions.create(messages=HELLO)
        decision = caught.value.decision
        assert decision is not None
        assert decision.attempts[0].error is caught.value.causes[0]

    async def test_routing_in_the_body_is_read_and_stripped(self) -> None:
        first, second = scripted("first"), scripted("second")
        async with router_of(first, second) as router:
            await router.chat.completions.create(
                messages=HELLO, extra_body={"routing": {"exclude": ["first"]}, "vendor_flag": 1}
            )
        assert dict(second.asked[0].extra_body) == {"vendor_flag": 1}

    async def test_private_requests_go_to_private_models_only(self) -> None:
        public = scripted("public", usd=0)
        private = scripted("private", ModelConnectionError, private=True, usd=5)
        async with router_of(public, private) as router:
            with pytest.raises(AllModelsFailedError):
                await router.chat.completions.create(messages=HELLO, routing={"privacy": "private"})
        assert private.asked
        assert not public.asked

    async def test_no_eligible_model_names_every_reason(self) -> None:
        models = scripted("small", context_window=20), scripted("public", capabilities=frozenset())
        async with router_of(*models) as router:
            with pytest.raises(NoEligibleModelError) as caught:
                await router.chat.completions.create(messages=HELLO, max_tokens=100, logprobs=True)
        assert caught.value.reasons["small"].startswith("context:")
        assert caught.value.reasons["public"].startswith("capability: logprobs")


class TestRecovery:
    @pytest.mark.parametrize(
        "error",
        [
            ModelConnectionError,
            ModelTimeoutError,
            ModelProtocolError,
            http(500),
            http(429),
            http(401),
            http(404),
        ],
    )
    async def test_a_failed_attempt_moves_on_to_the_next_model(self, error: object) -> None:
        broken, works = scripted("broken", error), scripted("works", usd=9)
        async with router_of(broken, works) as router:
            completion = await router.chat.completions.create(messages=HELLO)
        assert completion.routing.model == "works"
        assert [attempt.outcome for attempt in completion.routing.attempts] == ["failed", "succeeded"]
        assert len(broken.asked) == 1

    def test_a_single_model_is_retried_after_a_wait(self, manual_clock: ManualClock) -> None:
        flaky = scripted("flaky", ModelConnectionError, "Hello!")

        async def ask() -> RoutedCompletion:
            async with router_of(flaky, clock=manual_clock) as router:
                return await router.chat.completions.create(messages=HELLO)

        completion = run_on(manual_clock, ask)
        assert [attempt.outcome for attempt in completion.routing.attempts] == ["failed", "succeeded"]

    def test_retry_after_is_obeyed(self, manual_clock: ManualClock) -> None:
        limited = scripted("limited", http(429, retry_after=7.0), "Hello!")
        began = manual_clock.now()

        async def ask() -> RoutedCompletion:
            async with router_of(limited, clock=manual_clock) as router:
                return await router.chat.completions.create(messages=HELLO)

        assert run_on(manual_clock, ask).routing.model == "limited"
        assert manual_clock.now() - began >= 7.0

    def test_a_retry_after_beyond_the_deadline_fails_at_once(self, manual_clock: ManualClock) -> None:
        limited = scripted("limited", http(429, retry_after=60.0), "Hello!")
        began = manual_clock.now()

        async def ask() -> None:
            async with router_of(limited, clock=manual_clock) as router:
                with pytest.raises(AllModelsFailedError):
                    await router.chat.completions.create(messages=HELLO, timeout=10)

        run_on(manual_clock, ask)
        assert manual_clock.now() - began < 5

    @pytest.mark.parametrize(
        "error",
        [
            http(401),
            http(403),
            http(404),
            http(402),
            http(429, code="insufficient_quota"),
            http(400, code="content_filter"),
            ContextWindowExceededError("too long", model="?"),
        ],
    )
    async def test_what_cannot_heal_is_not_retried(self, error: ModelHTTPError) -> None:
        only = scripted("only", error, "never reached")
        async with router_of(only) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                await router.chat.completions.create(messages=HELLO)
        assert len(only.asked) == 1
        assert caught.value.causes == (error,)

    async def test_all_causes_are_told(self) -> None:
        models = scripted("a", http(401)), scripted("b", http(400)), scripted("c", http(404))
        async with router_of(*models) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                await router.chat.completions.create(messages=HELLO)
        assert [cause.status_code for cause in caught.value.causes if isinstance(cause, ModelHTTPError)] == [
            401,
            400,
            404,
        ]

    async def test_an_adapters_bug_does_not_lose_the_request(self) -> None:
        class Buggy(ScriptedModel):
            adapter = "buggy"

        from router import loading

        class BuggyAdapter:
            async def complete(self, call: object) -> object:
                raise KeyError("bug")

            def load(self) -> object:
                from router.adapter import Load

                return Load()

            async def aclose(self) -> None:
                pass

        from importlib import import_module

        module = import_module("router.testing.scripted")
        module.create_buggy = lambda model, settings: BuggyAdapter()  # type: ignore[attr-defined]
        loading._BUILT_IN["buggy"] = ("router.testing.scripted", "create_buggy", None)
        try:
            async with router_of(Buggy("buggy"), scripted("works", usd=9)) as router:
                completion = await router.chat.completions.create(messages=HELLO)
        finally:
            del loading._BUILT_IN["buggy"]
        assert completion.routing.model == "works"
        assert isinstance(completion.routing.attempts[0].error, ModelProtocolError)

    def test_a_hanging_model_is_left_after_its_timeout(self, manual_clock: ManualClock) -> None:
        hangs, works = scripted("hangs", Step(hangs=True)), scripted("works", usd=9)

        async def ask() -> RoutedCompletion:
            async with router_of(hangs, works, clock=manual_clock) as router:
                return await router.chat.completions.create(messages=HELLO)

        completion = run_on(manual_clock, ask)
        assert completion.routing.model == "works"
        assert isinstance(completion.routing.attempts[0].error, ModelTimeoutError)
        assert hangs.cancelled == 1
        assert hangs.running == 0

    def test_loading_does_not_count_as_slowness(self, manual_clock: ManualClock) -> None:
        slow = scripted("slow", load_time=500.0)

        async def ask() -> RoutedCompletion:
            async with router_of(slow, clock=manual_clock) as router:
                return await router.chat.completions.create(messages=HELLO)

        assert len(run_on(manual_clock, ask).routing.attempts) == 1

    def test_a_failing_model_is_left_alone_and_comes_back(self, manual_clock: ManualClock) -> None:
        flaky = scripted("flaky", *[ModelConnectionError] * 3, "well again")
        spare = scripted("spare", usd=9)

        async def ask() -> list[str | None]:
            async with router_of(flaky, spare, clock=manual_clock, policy=Policy.cheapest()) as router:
                answered = [
                    (await router.chat.completions.create(messages=HELLO)).routing.model for _ in range(4)
                ]
                manual_clock.advance(11)
                answered.append((await router.chat.completions.create(messages=HELLO)).routing.model)
                return answered

        assert run_on(manual_clock, ask) == ["spare"] * 4 + ["flaky"]
        assert len(flaky.asked) == 4  # three failures, none while it is left alone, and the probe

    def test_a_total_outage_fails_fast_with_one_typed_error(self, manual_clock: ManualClock) -> None:
        models = [scripted(name, ModelConnectionError) for name in "abc"]

        async def ask() -> None:
            async with router_of(*models, clock=manual_clock) as router:
                for _ in range(200):
                    with pytest.raises(AllModelsFailedError) as caught:
                        await router.chat.completions.create(messages=HELLO)
                    assert caught.value.causes

        run_on(manual_clock, ask)
        assert sum(len(model.asked) for model in models) <= 220

    def test_a_late_answer_gets_company_with_hedging(self, manual_clock: ManualClock) -> None:
        late, quick = scripted("late", Step(ttft=60)), scripted("quick", usd=9)

        async def ask() -> RoutedCompletion:
            async with router_of(late, quick, clock=manual_clock) as router:
                return await router.chat.completions.create(messages=HELLO, routing={"hedge": True})

        completion = run_on(manual_clock, ask)
        decision = completion.routing
        assert decision.model == "quick"
        assert [(a.model, a.outcome, a.hedge) for a in decision.attempts] == [
            ("late", "cancelled", False),
            ("quick", "succeeded", True),
        ]
        assert decision.cost is not None
        assert late.running == 0


class TestDeadline:
    def test_it_ends_everything(self, manual_clock: ManualClock) -> None:
        hangs = scripted("hangs", Step(hangs=True))

        async def ask() -> None:
            async with router_of(hangs, clock=manual_clock) as router:
                began = manual_clock.now()
                with pytest.raises(DeadlineExceededError) as caught:
                    await router.chat.completions.create(messages=HELLO, routing=RoutingOptions(deadline=2))
                assert manual_clock.now() - began == pytest.approx(2, abs=0.1)
                assert caught.value.decision is not None
                await asyncio.sleep(0)
                assert hangs.running == 0

        run_on(manual_clock, ask)

    def test_it_covers_the_whole_stream(self, manual_clock: ManualClock) -> None:
        slow = scripted("slow", Step(text="one two three four five", per_token=1.0))

        async def ask() -> list[str | None]:
            seen: list[str | None] = []
            async with router_of(slow, clock=manual_clock) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True, timeout=3.5)
                with pytest.raises(DeadlineExceededError):
                    async for chunk in stream:
                        seen.append(chunk.choices[0].delta.content)
                assert slow.running == 0
                assert stream.routing.attempts[0].outcome == "cancelled"
            return seen

        assert run_on(manual_clock, ask) == ["", "one", " two", " three"]

    def test_it_ends_a_stream_that_nobody_reads(self, manual_clock: ManualClock) -> None:
        slow = scripted("slow", Step(text="one two three", per_token=1.0))

        async def ask() -> None:
            async with router_of(slow, clock=manual_clock) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True, timeout=1.5)
                await asyncio.sleep(5)
                assert slow.running == 0
                with pytest.raises(DeadlineExceededError):
                    [chunk async for chunk in stream]

        run_on(manual_clock, ask)


class TestStreams:
    async def test_openais_own_chunks_come_back(self) -> None:
        async with router_of(scripted("only", "a b c")) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            chunks = [chunk async for chunk in stream]
        assert all(isinstance(chunk, openai.types.chat.ChatCompletionChunk) for chunk in chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b c"
        assert stream.routing.attempts[0].outcome == "succeeded"
        assert stream.routing.attempts[0].ttft is not None
        assert stream.routing.attempts[0].cost_source == "usage"

    @pytest.mark.parametrize("asked", [True, False])
    async def test_the_usage_chunk_is_passed_on_only_if_asked_for(self, *, asked: bool) -> None:
        async with router_of(scripted("only", "a b")) as router:
            stream = await router.chat.completions.create(
                messages=HELLO, stream=True, stream_options={"include_usage": asked}
            )
            chunks = [chunk async for chunk in stream]
        assert any(chunk.usage is not None for chunk in chunks) is asked
        assert stream.routing.attempts[0].completion_tokens == 2

    async def test_a_failure_before_the_first_visible_token_is_healed(self) -> None:
        broken = scripted("broken", Step(text="x y", error=ModelConnectionError, breaks_after=1))
        works = scripted("works", "whole answer", usd=9)
        async with router_of(broken, works) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "whole answer"
        assert [attempt.outcome for attempt in stream.routing.attempts] == ["failed", "succeeded"]

    async def test_a_failure_after_it_is_told_with_the_partial_text(self) -> None:
        breaks = scripted("breaks", Step(text="one two three", error=ModelConnectionError, breaks_after=3))
        async with router_of(breaks, scripted("spare", usd=9)) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            with pytest.raises(StreamInterruptedError) as caught:
                [chunk async for chunk in stream]
        assert caught.value.text == "one two"
        assert isinstance(caught.value.__cause__, ModelConnectionError)
        assert stream.routing.attempts[0].outcome == "failed"
        assert len(stream.routing.attempts) == 1

    async def test_an_empty_answer_is_an_answer(self) -> None:
        async with router_of(scripted("silent", Step(text=""))) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"

    async def test_closing_stops_the_work_at_the_backend(self) -> None:
        endless = scripted("endless", Step(text="word " * 10_000, per_token=0.001))
        async with router_of(endless) as router:
            async with await router.chat.completions.create(messages=HELLO, stream=True) as stream:
                async for _ in stream:
                    break
            assert endless.running == 0
            assert stream.routing.attempts[0].outcome == "cancelled"

    async def test_dropping_a_stream_stops_the_work_at_the_backend(self) -> None:
        endless = scripted("endless", Step(text="word " * 10_000, per_token=0.001))
        async with router_of(endless) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            async for _ in stream:
                break
            del stream
            gc.collect()
            for _ in range(100):
                await asyncio.sleep(0.005)
                if not endless.running:
                    break
            assert endless.running == 0

    async def test_cancelling_the_reader_stops_the_work(self) -> None:
        endless = scripted("endless", Step(text="word " * 10_000, per_token=0.001))
        async with router_of(endless) as router:

            async def read() -> None:
                async for _ in await router.chat.completions.create(messages=HELLO, stream=True):
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert endless.running == 0

    async def test_cancelling_create_stops_the_work(self) -> None:
        hangs = scripted("hangs", Step(hangs=True))
        async with router_of(hangs) as router:
            task = asyncio.create_task(router.chat.completions.create(messages=HELLO))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert hangs.running == 0


class TestMoneyAndLimits:
    async def test_a_budget_stops_what_it_cannot_pay(self) -> None:
        step = Step(text="x", prompt_tokens=10, completion_tokens=100)
        model = scripted("dear", step, usd=1000)  # 0.11 USD an answer
        async with router_of(model, budget=Budget(usd=0.5, period="total")) as router:
            answered = 0
            with pytest.raises(BudgetExceededError) as caught:
                for _ in range(20):
                    await router.chat.completions.create(messages=HELLO, max_tokens=100)
                    answered += 1
        assert 3 <= answered <= 4
        assert "dear" in caught.value.reasons

    async def test_many_at_once_never_overrun_a_budget(self) -> None:
        step = Step(text="x", ttft=0.01, prompt_tokens=10, completion_tokens=90)
        model = scripted("dear", step, usd=1000)
        async with router_of(model, budget=Budget(usd=1.0, period="total")) as router:
            asked = [router.chat.completions.create(messages=HELLO, max_tokens=90) for _ in range(60)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        paid = [answer.routing.cost for answer in answers if isinstance(answer, RoutedCompletion)]
        assert all(isinstance(answer, RoutedCompletion | BudgetExceededError) for answer in answers)
        assert Decimal("0.5") < sum(cost for cost in paid if cost) <= Decimal("1.0")

    async def test_a_budgets_cheaper_alternative_is_taken(self) -> None:
        dear = scripted("dear", usd=1000, quality=0.9)
        cheap = scripted("cheap", usd=1, quality=0.5)
        async with router_of(
            dear, cheap, policy=Policy.best(), budget=Budget(usd=0.01, model="dear")
        ) as router:
            completion = await router.chat.completions.create(messages=HELLO, max_tokens=100)
        assert completion.routing.model == "cheap"

    def test_a_rate_limited_model_is_waited_for_when_it_is_the_only_one(
        self, manual_clock: ManualClock
    ) -> None:
        limited = scripted("limited", rpm=2)

        async def ask() -> None:
            async with router_of(limited, clock=manual_clock) as router:
                for _ in range(3):
                    await router.chat.completions.create(messages=HELLO)

        began = manual_clock.now()
        run_on(manual_clock, ask)
        assert len(limited.asked) == 3
        assert 60 <= manual_clock.now() - began < 62

    def test_a_limit_that_outlasts_the_deadline_is_overload(self, manual_clock: ManualClock) -> None:
        limited = scripted("limited", rpm=1)

        async def ask() -> None:
            async with router_of(limited, clock=manual_clock) as router:
                await router.chat.completions.create(messages=HELLO)
                with pytest.raises(OverloadedError) as caught:
                    await router.chat.completions.create(messages=HELLO, timeout=5)
                assert caught.value.retry_after == pytest.approx(60, abs=1)

        run_on(manual_clock, ask)

    async def test_concurrency_is_bounded(self) -> None:
        narrow = scripted("narrow", Step(ttft=0.005), max_concurrency=2, speed_ttft=0.005)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, narrow.running)
                await asyncio.sleep(0.001)

        async with router_of(narrow) as router:
            watcher = asyncio.create_task(watch())
            await asyncio.gather(*(router.chat.completions.create(messages=HELLO) for _ in range(12)))
            watcher.cancel()
        assert most == 2
        assert len(narrow.asked) == 12


class TestLife:
    async def test_models_can_be_replaced_with_requests_in_flight(self) -> None:
        old, new = scripted("old", Step(ttft=0.05)), scripted("new")
        async with router_of(old) as router:
            task = asyncio.create_task(router.chat.completions.create(messages=HELLO))
            await asyncio.sleep(0.01)
            router.update([new])
            after = await router.chat.completions.create(messages=HELLO)
            assert (await task).routing.model == "old"
            assert after.routing.model == "new"

    async def test_a_bad_update_changes_nothing(self) -> None:
        async with router_of(scripted("kept")) as router:
            with pytest.raises(ConfigurationError):
                router.update([scripted("twin"), scripted("twin")])
            assert (await router.chat.completions.create(messages=HELLO)).routing.model == "kept"

    async def test_a_closed_router_says_so(self) -> None:
        router = router_of(scripted("only"))
        await router.chat.completions.create(messages=HELLO)
        await router.aclose()
        await router.aclose()
        with pytest.raises(RouterClosedError):
            await router.chat.completions.create(messages=HELLO)

    async def test_closing_stops_what_runs(self) -> None:
        hangs = scripted("hangs", Step(hangs=True))
        router = router_of(hangs)
        task = asyncio.create_task(router.chat.completions.create(messages=HELLO))
        await asyncio.sleep(0.02)
        await router.aclose()
        with pytest.raises((asyncio.CancelledError, RouterClosedError)):
            await asyncio.wait_for(task, 2)
        assert hangs.running == 0

    async def test_closing_ends_a_stream_that_is_being_read(self) -> None:
        endless = scripted("endless", Step(text="word " * 10_000, per_token=0.001))
        router = router_of(endless)
        stream = await router.chat.completions.create(messages=HELLO, stream=True)

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        await router.aclose()
        with pytest.raises(RouterClosedError):
            await asyncio.wait_for(task, 2)
        assert endless.running == 0

    async def test_exploring_tries_a_model_that_little_is_known_of(self) -> None:
        known, unknown = scripted("known"), scripted("unknown", usd=1.0001)
        async with router_of(known, unknown, policy=Policy(explore=0.5)) as router:
            decisions = [(await router.chat.completions.create(messages=HELLO)).routing for _ in range(40)]
            assert all(router.route(messages=HELLO).notes == () for _ in range(20))
        explored = [decision for decision in decisions if decision.notes]
        assert explored
        assert all("explored" in decision.notes[0] for decision in explored)

    async def test_feedback_is_checked(self) -> None:
        async with router_of(scripted("only")) as router:
            completion = await router.chat.completions.create(messages=HELLO)
            router.feedback(completion, score=1.0)
            router.feedback(completion.routing.id, 0.5)
            with pytest.raises(InvalidRequestError):
                router.feedback(completion, score=1.5)

    def test_construction_that_fails_leaves_nothing(self) -> None:
        with pytest.raises(ConfigurationError):
            AsyncRouter(models=[])
        with pytest.raises(ConfigurationError):
            Router(models=[scripted("a")], ledger="/nonexistent-folder/router.db")
