"""A stream that breaks off is gone on with, once, without a repeated or missing character."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.hosted.seam import Seam
from router import (
    AsyncRouter,
    Budget,
    DeadlineExceededError,
    LocalModel,
    ModelConnectionError,
    ModelHTTPError,
    Recovery,
    RoutingOptions,
    StreamInterruptedError,
)
from router.errors import ModelTimeoutError
from router.testing import LoopbackServer, ManualClock, Reply
from router.testing.server import Script
from tests.helpers import HELLO, Step, hosted, router_of, run_on, scripted, smollm2, text_of

WHOLE = "one two three four five six"
GO_ON = Recovery(on_interrupt="continue")


def cut(after: int = 4, **fields: Any) -> Step:
    """An answer that breaks after its role and so many words less one."""
    return Step(text=WHOLE, error=ModelConnectionError, breaks_after=after, **fields)


def going_on(*models: Any, **fields: Any) -> AsyncRouter:
    fields.setdefault("recovery", GO_ON)
    return router_of(*models, **fields)


async def read(router: AsyncRouter, **fields: Any) -> tuple[str, Any]:
    stream = await router.chat.completions.create(messages=HELLO, stream=True, **fields)
    return text_of([chunk async for chunk in stream]), stream.routing


class TestAnotherModel:
    @pytest.mark.parametrize("after", range(2, 8))
    async def test_goes_on_from_the_very_character(self, after: int) -> None:
        first, second = scripted("first", cut(after)), scripted("second", WHOLE, usd=9)
        async with going_on(first, second) as router:
            text, decision = await read(router)
        assert text == WHOLE
        assert WHOLE.startswith(second.prefixes[0])
        assert [(a.model, a.outcome) for a in decision.attempts] == [
            ("first", "failed"),
            ("second", "succeeded"),
        ]
        assert decision.model == "second"
        assert any(note.startswith("continued: second") for note in decision.notes)

    async def test_both_attempts_are_paid_for_and_told(self) -> None:
        async with going_on(scripted("first", cut()), scripted("second", WHOLE, usd=9)) as router:
            _, decision = await read(router)
        costs = [attempt.cost for attempt in decision.attempts]
        assert all(cost is not None and cost > 0 for cost in costs)
        assert decision.cost == sum(costs)

    async def test_the_chunks_are_those_of_one_answer(self) -> None:
        async with going_on(scripted("first", cut()), scripted("second", WHOLE)) as router:
            stream = await router.chat.completions.create(
                messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        assert len({chunk.id for chunk in chunks}) == 1
        assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        # 3 words told by the first (estimated), 3 by the second; the prompt was read twice.
        parts = stream.routing.attempts
        assert chunks[-1].usage.completion_tokens == sum(part.completion_tokens or 0 for part in parts)
        assert chunks[-1].usage.prompt_tokens == sum(part.prompt_tokens or 0 for part in parts)
        assert any(note.startswith("usage: that of first") for note in stream.routing.notes)

    async def test_one_that_fails_before_it_said_anything_leaves_it_to_the_next(self) -> None:
        dead = scripted("second", ModelConnectionError, usd=5)
        async with going_on(scripted("first", cut()), dead, scripted("third", WHOLE, usd=9)) as router:
            text, decision = await read(router)
        assert text == WHOLE
        assert [a.model for a in decision.attempts] == ["first", "second", "third"]

    async def test_it_happens_exactly_once(self) -> None:
        second = scripted("second", Step(text=WHOLE, error=ModelConnectionError, breaks_after=3), usd=5)
        third = scripted("third", WHOLE, usd=9)
        async with going_on(scripted("first", cut()), second, third) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            told = []
            with pytest.raises(StreamInterruptedError) as caught:
                async for chunk in stream:
                    told.append(chunk)
        assert third.asked == []
        assert caught.value.text == text_of(told)
        assert WHOLE.startswith(caught.value.text)
        assert caught.value.usage is not None
        assert [a.outcome for a in stream.routing.attempts] == ["failed", "failed"]

    async def test_one_that_has_nothing_to_add_ends_the_answer(self) -> None:
        async with going_on(scripted("first", cut()), scripted("second", "one two three")) as router:
            text, decision = await read(router)
        assert text == "one two three"
        assert decision.attempts[-1].outcome == "succeeded"

    async def test_what_was_said_counts_towards_the_limit(self) -> None:
        second = scripted("second", WHOLE)
        async with going_on(scripted("first", cut()), second) as router:
            await read(router, max_tokens=50)
        assert second.asked[0].params["max_tokens"] == 47


class TestTheSameModel:
    async def test_goes_on_if_no_other_can(self) -> None:
        only = scripted("only", cut(), WHOLE)
        async with going_on(only) as router:
            text, decision = await read(router)
        assert text == WHOLE
        assert only.prefixes == ["", "one two three"]
        assert [a.outcome for a in decision.attempts] == ["failed", "succeeded"]

    async def test_is_not_asked_when_it_is_failing(self) -> None:
        only = scripted("only", cut(), WHOLE)
        async with going_on(only, recovery=Recovery(on_interrupt="continue", failure_threshold=1)) as router:
            with pytest.raises(StreamInterruptedError):
                await read(router)
        assert len(only.asked) == 1

    async def test_a_pinned_model_has_no_substitute(self) -> None:
        first, second = scripted("first", cut(), WHOLE), scripted("second", WHOLE)
        async with going_on(first, second) as router:
            text, _ = await read(router, model="first")
        assert text == WHOLE
        assert second.asked == []


class TestRulesHold:
    async def test_raise_is_the_default(self) -> None:
        second = scripted("second", WHOLE)
        async with router_of(scripted("first", cut()), second) as router:
            with pytest.raises(StreamInterruptedError, match="broke after 13 characters") as caught:
                await read(router)
        assert caught.value.text == "one two three"
        assert second.asked == []

    async def test_a_private_request_stays_on_private_models(self) -> None:
        first = scripted("first", cut(), ModelConnectionError, private=True)
        other = scripted("other", WHOLE)
        async with going_on(first, other) as router:
            with pytest.raises(StreamInterruptedError):
                await read(router, routing=RoutingOptions(privacy="private"))
        assert other.asked == []

    async def test_excluded_models_and_those_that_were_not_named_stay_out(self) -> None:
        for options in (RoutingOptions(exclude=("second",)), RoutingOptions(models=("first",))):
            second = scripted("second", WHOLE)
            async with going_on(scripted("first", cut(), ModelConnectionError), second) as router:
                with pytest.raises(StreamInterruptedError):
                    await read(router, routing=options)
            assert second.asked == []

    async def test_a_context_that_is_too_small_for_both_parts_is_not_tried(self) -> None:
        long = "word " * 400
        first = scripted("first", Step(text=long, error=ModelConnectionError, breaks_after=350), usd=1)
        small = scripted("small", long, usd=2, context_window=200)
        large = scripted("large", long, usd=9)
        async with going_on(first, small, large) as router:
            text, decision = await read(router)
        assert text == long
        assert small.asked == []
        assert decision.model == "large"

    async def test_a_model_that_cannot_go_on_is_not_asked(self) -> None:
        unable = scripted("unable", WHOLE, continues=False)
        async with going_on(scripted("first", cut(), continues=False), unable) as router:
            with pytest.raises(StreamInterruptedError, match="no model can go on"):
                await read(router)
        assert unable.asked == []

    async def test_a_budget_that_is_spent_ends_it(self) -> None:
        first, second = scripted("first", cut(), WHOLE, usd=1), scripted("second", WHOLE, usd=1e6)
        async with going_on(
            first,
            second,
            recovery=Recovery(on_interrupt="continue", max_attempts=2),
            budget=Budget(usd=0.001),
        ) as router:
            text, decision = await read(router)
            left = router._core.ledger.left(router.config.budget[0])
        assert text == WHOLE
        assert [a.model for a in decision.attempts if a.outcome != "refused"] == ["first", "first"]
        assert second.asked == []
        assert abs(float(left) - (0.001 - float(decision.cost))) < 1e-9, "both parts are settled"

    async def test_attempts_are_counted_over_both_parts(self) -> None:
        second = scripted("second", WHOLE)
        recovery = Recovery(on_interrupt="continue", max_attempts=1)
        async with going_on(scripted("first", cut()), second, recovery=recovery) as router:
            with pytest.raises(StreamInterruptedError):
                await read(router)
        assert second.asked == []

    def test_the_deadline_holds_for_the_rest_too(self, manual_clock: ManualClock) -> None:
        first, second = scripted("first", cut(per_token=1.0)), scripted("second", Step(hangs=True))

        async def ask() -> float:
            began = manual_clock.now()
            async with going_on(first, second, clock=manual_clock) as router:
                with pytest.raises(DeadlineExceededError) as caught:
                    await read(router, timeout=10)
            assert caught.value.decision is not None
            assert [a.model for a in caught.value.decision.attempts] == ["first", "second"]
            return manual_clock.now() - began

        assert run_on(manual_clock, ask) == pytest.approx(10.0)
        assert second.running == 0

    @pytest.mark.parametrize(
        "asked",
        [
            {"logprobs": True},
            {"n": 2},
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        ],
    )
    async def test_what_cannot_be_gone_on_with_is_raised(self, asked: dict[str, Any]) -> None:
        second = scripted("second", WHOLE)
        async with going_on(scripted("first", cut()), second) as router:
            with pytest.raises(StreamInterruptedError) as caught:
                await read(router, **asked)
        assert caught.value.text == "one two three"
        assert second.asked == []

    async def test_a_tool_call_is_not_gone_on_with(self) -> None:
        called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
        step = Step(text="Let me see", tool_calls=(called,), error=ModelConnectionError, breaks_after=5)
        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        second = scripted("second", WHOLE)
        async with going_on(scripted("first", step), second) as router:
            with pytest.raises(StreamInterruptedError) as caught:
                await read(router, tools=[tool])
        assert caught.value.text == "Let me see"
        assert second.asked == []


class TestAnEndWithoutAReason:
    """Not every adapter keeps its contract; the caller is not to suffer for it."""

    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Scripted models named `first` never say why they end."""
        from router.testing import scripted as module

        whole = module._chunks

        def cut(name: str, *rest: Any) -> Any:
            return (
                chunk
                for chunk in whole(name, *rest)
                if name != "first" or not (chunk.choices and chunk.choices[0].finish_reason)
            )

        monkeypatch.setattr(module, "_chunks", cut)

    async def test_is_a_break(self) -> None:
        async with router_of(scripted("first", WHOLE), scripted("second", WHOLE)) as router:
            with pytest.raises(StreamInterruptedError, match="without a finish reason") as caught:
                await read(router)
        assert caught.value.text == WHOLE

    async def test_is_gone_on_with(self) -> None:
        async with going_on(scripted("first", "one two"), scripted("second", WHOLE)) as router:
            text, decision = await read(router)
        assert text == WHOLE
        assert [a.outcome for a in decision.attempts] == ["failed", "succeeded"]

    async def test_without_a_word_is_healed_by_the_next(self) -> None:
        async with router_of(scripted("first", ""), scripted("second", WHOLE)) as router:
            text, _ = await read(router)
        assert text == WHOLE


class TestABugOfAnAdapter:
    """What a third party's adapter raises in the midst of a stream is no error of ours to the caller."""

    @pytest.fixture(autouse=True)
    def _buggy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from router.testing import scripted as module

        whole = module._chunks

        def broken(name: str, *rest: Any) -> Any:
            for place, chunk in enumerate(whole(name, *rest)):
                if name == "first" and place == 3:
                    raise AttributeError("None has no attribute 'x'")
                yield chunk

        monkeypatch.setattr(module, "_chunks", broken)

    async def test_is_told_as_a_break(self) -> None:
        async with router_of(scripted("first", WHOLE)) as router:
            with pytest.raises(StreamInterruptedError, match="broke its contract") as caught:
                await read(router)
        assert WHOLE.startswith(caught.value.text)
        assert caught.value.decision is not None
        assert caught.value.decision.attempts[0].outcome == "failed"

    async def test_is_gone_on_with(self) -> None:
        async with going_on(scripted("first", WHOLE), scripted("second", WHOLE)) as router:
            text, _ = await read(router)
        assert text == WHOLE


class TestASilentStream:
    async def test_is_healed_while_there_is_another_model(self) -> None:
        async with router_of(scripted("first", ""), scripted("second", WHOLE)) as router:
            text, decision = await read(router)
        assert text == WHOLE
        assert [a.outcome for a in decision.attempts] == ["failed", "succeeded"]

    async def test_is_an_answer_if_all_are_silent(self) -> None:
        async with router_of(scripted("first", ""), scripted("second", "")) as router:
            text, decision = await read(router)
        assert text == ""
        assert decision.attempts[-1].outcome == "succeeded"

    async def test_whose_tokens_ran_out_is_an_answer(self) -> None:
        spent = Step(text="", finish_reason="length")
        async with router_of(scripted("first", spent), scripted("second", WHOLE)) as router:
            text, decision = await read(router)
        assert (text, decision.model) == ("", "first")


class TestLeaving:
    async def test_closing_the_stream_stops_who_went_on(self) -> None:
        second = scripted("second", Step(text=WHOLE, per_token=0.01))
        async with going_on(scripted("first", cut()), second) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            while len(stream.routing.attempts) < 2:
                await anext(stream)
            await stream.aclose()
            assert second.running == 0
            assert [a.outcome for a in stream.routing.attempts] == ["failed", "cancelled"]

    async def test_a_reader_that_is_cancelled_stops_who_is_asked_to_go_on(self) -> None:
        second = scripted("second", Step(hangs=True))
        async with going_on(scripted("first", cut()), second) as router:
            task = asyncio.create_task(read(router))
            async with asyncio.timeout(5):
                while not second.running:  # noqa: ASYNC110 - the model has no event to tell
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.01)
            assert second.running == 0

    async def test_dropping_the_stream_stops_and_books_who_went_on(self) -> None:
        second = scripted("second", Step(text=WHOLE, per_token=0.01))
        async with going_on(scripted("first", cut()), second) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            while len(stream.routing.attempts) < 2:
                await anext(stream)
            del stream
            for _ in range(200):
                await asyncio.sleep(0.005)
                if not second.running:
                    break
            assert second.running == 0

    async def test_closing_the_router_ends_the_rest(self) -> None:
        second = scripted("second", Step(text=WHOLE, per_token=0.01))
        router = going_on(scripted("first", cut()), second)
        stream = await router.chat.completions.create(messages=HELLO, stream=True)
        while len(stream.routing.attempts) < 2:
            await anext(stream)
        await router.aclose()
        assert second.running == 0


class TestHosts:
    """On real HTTP, in the words of the hosts that take an assistant's beginning."""

    @staticmethod
    def pair(server: LoopbackServer, **fields: Any) -> AsyncRouter:
        first = hosted("first", server, usd=1)
        return going_on(first, hosted("second", server, usd=9, api_key="k", **fields))

    @pytest.mark.parametrize(
        ("provider", "message", "body"),
        [
            ("moonshot", {"partial": True}, {}),
            ("dashscope", {"partial": True}, {}),
            ("vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
        ],
    )
    async def test_a_host_is_asked_in_its_own_words(
        self, provider: str, message: dict[str, Any], body: dict[str, Any]
    ) -> None:
        models: dict[str, Script] = {
            "first": Reply(text="Hello world", chunk=6, fault="truncated"),
            "second": "world, too",
        }
        with LoopbackServer(models=models) as server:
            async with self.pair(server, provider=provider) as router:
                text, _ = await read(router)
            asked: Any = server.requests[-1].body
        assert text == "Hello world, too"
        assert asked["messages"][-1] == {"role": "assistant", "content": "Hello", **message}
        assert body.items() <= asked.items()

    @pytest.mark.parametrize("rest", ["world", " world", "  world"])
    async def test_space_at_the_seam_is_there_once(self, rest: str) -> None:
        models: dict[str, Script] = {
            "first": Reply(text="Hello  there", chunk=7, fault="truncated"),
            "second": Reply(text=rest, chunk=1),
        }
        with LoopbackServer(models=models) as server:
            async with self.pair(server, provider="vllm") as router:
                text, _ = await read(router)
        assert text == "Hello  world"

    @pytest.mark.parametrize("provider", ["openai", "mistral", "deepseek", None])
    async def test_a_host_that_is_not_known_to_take_it_is_not_asked(self, provider: str | None) -> None:
        models: dict[str, Script] = {"first": Reply(text="Hello world", fault="truncated"), "second": "x"}
        with LoopbackServer(models=models) as server:
            async with self.pair(server, **({"provider": provider} if provider else {})) as router:
                with pytest.raises(StreamInterruptedError):
                    await read(router)
            assert [request.model for request in server.requests] == ["first"]

    async def test_thoughts_about_the_rest_are_not_told(self) -> None:
        models: dict[str, Script] = {
            "first": Reply(text="Hello world", chunk=5, fault="truncated"),
            "second": Reply(text=" there", reasoning="Where was I?"),
        }
        with LoopbackServer(models=models) as server:
            async with self.pair(server, provider="vllm") as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                chunks = [chunk async for chunk in stream]
        assert text_of(chunks) == "Hello there"
        assert all(
            "reasoning_content" not in (c.choices[0].delta.model_extra or {}) for c in chunks if c.choices
        )

    async def test_reasoning_that_no_text_followed_is_not_gone_on_with(self) -> None:
        models: dict[str, Script] = {
            "first": Reply(text="x", reasoning="thinking", fault="truncated"),
            "second": "x",
        }
        with LoopbackServer(models=models) as server:
            async with self.pair(server, provider="vllm") as router:
                with pytest.raises(StreamInterruptedError) as caught:
                    await read(router)
        assert caught.value.text == ""

    async def test_a_refused_beginning_leaves_it_to_nobody(self) -> None:
        models: dict[str, Script] = {
            "first": Reply(text="Hello world", fault="truncated"),
            "second": Reply(status=400),
        }
        with LoopbackServer(models=models) as server:
            async with self.pair(server, provider="vllm") as router:
                with pytest.raises(StreamInterruptedError, match="nobody could go on") as caught:
                    await read(router)
        assert caught.value.decision is not None
        assert isinstance(caught.value.decision.attempts[-1].error, ModelHTTPError)


@given(st.text(alphabet=" \n\tab", max_size=8), st.text(alphabet=" \n\tab", max_size=8), st.data())
def test_no_character_but_shared_space_is_taken_at_a_seam(
    before: str, after: str, data: st.DataObject
) -> None:
    from openai.types.chat import ChatCompletionChunk

    def told(seam: Seam, pieces: list[str]) -> str:
        text = ""
        for piece in (*pieces, None):
            end = {"delta": {"content": piece}, "finish_reason": None if piece is not None else "stop"}
            chunk = ChatCompletionChunk.construct(choices=[{"index": 0, **end}])
            seam.close(chunk)
            text += chunk.choices[0].delta.content or ""
        return text

    place = data.draw(st.integers(0, len(after)))
    whole = told(Seam(before, "m"), [after])
    assert whole == told(Seam(before, "m"), [after[:place], after[place:]]), "wherever the network cuts"
    assert after.endswith(whole)
    said = before.rstrip()
    taken = after[: len(after) - len(whole)]
    if len(said) >= 4 and after.startswith(said):  # the beginning again, unless it is one piece repeated
        taken = taken.removeprefix(said)
    assert before[len(said) :].startswith(taken)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("before", "after", "rest"),
    [
        ("The quick ", "The quick brown fox", "brown fox"),
        ("The quick ", "The quick  brown fox", " brown fox"),
        ("The quick", "The quick brown fox", " brown fox"),
        ("The quick", "The quick", ""),
        ("The quick", "The slow", "The slow"),
        ("The quick", "The", "The"),
        ("ha ha ", "ha ha ha", "ha ha ha"),
        ("The", "The The", "The The"),
        ("Grüße 🌍, ", "Grüße 🌍, Welt", "Welt"),
        ("x" * 500, "x" * 600, "x" * 600),
        ("abc" + "x" * 500, "abc" + "x" * 500 + "y", "y"),
    ],
)
async def test_a_host_that_repeats_the_beginning_is_not_heard_twice(
    before: str, after: str, rest: str, size: int
) -> None:
    first = Reply(text=before + "!", chunk=len(before), fault="truncated")
    models: dict[str, Script] = {"first": first, "second": Reply(text=after, chunk=size)}
    with LoopbackServer(models=models) as server:
        async with TestHosts.pair(server, provider="vllm") as router:
            text, _ = await read(router)
    assert text == before + rest


async def test_a_host_that_answers_anew_is_nobody_who_goes_on() -> None:
    models: dict[str, Script] = {
        "first": Reply(text="The quick brown fox jumps over it.", chunk=33, fault="truncated"),
        "second": Reply(text="The quick brown fox jumps under it.", chunk=3),
    }
    with LoopbackServer(models=models) as server:
        async with TestHosts.pair(server, provider="vllm") as router:
            with pytest.raises(StreamInterruptedError, match="began another answer") as caught:
                await read(router)
    assert caught.value.text == "The quick brown fox jumps over it"


class TestStalls:
    def test_a_stalled_stream_is_gone_on_with_on_another_model(self, manual_clock: ManualClock) -> None:
        first = scripted("first", Step(text=WHOLE + " seven" * 60, per_token=0.05, stalls_after=50))
        second = scripted("second", WHOLE + " seven" * 60)

        async def ask() -> tuple[str, Any, float]:
            began = manual_clock.now()
            async with going_on(first, second, clock=manual_clock) as router:
                text, decision = await read(router)
            return text, decision, manual_clock.now() - began

        text, decision, took = run_on(manual_clock, ask)
        assert text == WHOLE + " seven" * 60
        assert isinstance(decision.attempts[0].error, ModelTimeoutError)
        assert took < 10.0, "far earlier than any fixed time-out"


class TestLocal:
    @pytest.fixture
    def local(self) -> LocalModel:
        return LocalModel("smol", path=str(smollm2()), n_ctx=2048)

    @pytest.mark.parametrize("words", [1, 5, 9])
    async def test_a_local_model_says_what_it_would_have_said_itself(
        self, local: LocalModel, words: int
    ) -> None:
        asked: Any = [{"role": "user", "content": "Name the planets of the solar system."}]
        async with going_on(local) as router:
            whole = await router.chat.completions.create(messages=asked, temperature=0, max_tokens=40)
        said = whole.choices[0].message.content or ""
        beginning = said[: len(" ".join(said.split(" ")[:words]))]
        first = scripted("first", Step(text=said, error=ModelConnectionError, breaks_after=1 + words), usd=0)
        async with going_on(first, local) as router:
            stream = await router.chat.completions.create(
                messages=asked, temperature=0, max_tokens=40, stream=True, routing={"exclude": []}
            )
            text = text_of([chunk async for chunk in stream])
        assert [a.model for a in stream.routing.attempts] == ["first", "smol"]
        assert text.startswith(beginning)
        assert text[:60] == said[:60]
