"""Log probabilities: the model's own, of the content's tokens and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters.local.adapter import LocalAdapter
from adapters.local.engine import Finish, Job, Score
from adapters.local.formats import Harmony, HarmonyReader, Hermes
from adapters.local.hearing import Ended, Hearing
from adapters.local.reading import THINK, AnswerReader, Part, Reader
from adapters.local.scoring import likeliest
from adapters.local.stopping import Stopping
from adapters.local.tools import Tool
from router.errors import ModelHTTPError
from router.models import LocalModel
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import Alone, ScriptedEngine, asking, weather_tool
from tests.gguf_templates import GPT_OSS, QWEN3

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'


def tokens_of(answer: ChatCompletion | Sequence[ChatCompletionChunk]) -> list[Any]:
    """The tokens' log probabilities of a whole answer, or of a stream."""
    choices: list[Any] = (
        [*answer.choices]
        if isinstance(answer, ChatCompletion)
        else [choice for chunk in answer for choice in chunk.choices]
    )
    return [token for choice in choices if choice.logprobs for token in choice.logprobs.content or ()]


def bytes_of(answer: ChatCompletion | Sequence[ChatCompletionChunk]) -> bytes:
    return b"".join(bytes(token.bytes) for token in tokens_of(answer))


class ScoringEngine(ScriptedEngine):
    """Says for every token how likely it was: the first one -1, the second one -2, ..."""

    def _answer(self, job: Job) -> None:
        job.listener.started(7)
        for count, piece in enumerate(self.pieces, 1):
            self.told = count
            if not job.listener.piece(
                piece, Score(-float(count), ((piece, -float(count)), (b"\xff", -99.0)))
            ):
                break
        job.listener.finished(self.finish, self.told)

    finish: Finish = "stop"


def scripted(*pieces: str | bytes, template: str | None = QWEN3) -> LocalAdapter:
    return LocalAdapter(LocalModel("m", path=Path("m.gguf")), ScoringEngine(pieces, template=template))


async def both(adapter: LocalAdapter, **params: Any) -> list[Any]:
    """The tokens of an answer, which are the same in a stream."""
    call = asking(logprobs=True, **params)
    whole = await adapter.complete(call)
    chunks = [chunk async for chunk in adapter.stream(asking(stream=True, logprobs=True, **params))]
    assert tokens_of(chunks) == tokens_of(whole)
    assert bytes_of(whole).decode("utf-8", "replace") == (whole.choices[0].message.content or "")
    for chunk in chunks:
        assert ChatCompletionChunk.model_validate(chunk.model_dump()).model_dump() == chunk.model_dump()
    assert ChatCompletion.model_validate(whole.model_dump()).model_dump() == whole.model_dump()
    return tokens_of(whole)


async def test_each_token_of_the_content_has_its_own() -> None:
    tokens = await both(scripted("Hel", "lo", " world"), top_logprobs=2)
    assert [(token.token, token.bytes, token.logprob) for token in tokens] == [
        ("Hel", [72, 101, 108], -1.0),
        ("lo", [108, 111], -2.0),
        (" world", [*b" world"], -3.0),
    ]
    assert [(top.token, top.bytes, top.logprob) for top in tokens[0].top_logprobs] == [
        ("Hel", [72, 101, 108], -1.0),
        ("\\xff", [255], -99.0),
    ]


async def test_reasoning_and_calls_have_none() -> None:
    adapter = scripted(
        "<think>", "\n", "hm", "\n</think>\n\n", "Yes", ".", "\n", *CALL.split(" "), template=QWEN3
    )
    tokens = await both(adapter, tools=[weather_tool()])
    assert [token.token for token in tokens] == ["Yes", "."]


async def test_a_token_that_ends_the_thoughts_counts_as_far_as_it_is_content() -> None:
    tokens = await both(scripted("<think>a", "</think>Y", "es"))
    assert [(token.token, token.logprob) for token in tokens] == [("Y", -2.0), ("es", -3.0)]


async def test_nothing_of_a_stop_string_is_among_them() -> None:
    tokens = await both(scripted("one ", "tw", "oS", "TO", "P no"), stop=["STOP"])
    assert [token.token for token in tokens] == ["one ", "tw", "o"]
    tokens = await both(scripted("one ", "ST", "A", "Y"), stop=["STOP"])
    assert [token.token for token in tokens] == ["one ", "ST", "A", "Y"]


async def test_tokens_that_split_a_character_carry_their_bytes() -> None:
    emoji = "🙂".encode()
    tokens = await both(scripted("a", emoji[:2], emoji[2:] + b"b"))
    assert [token.token for token in tokens] == ["a", "\\xf0\\x9f", "\\x99\\x82b"]
    assert [bytes(token.bytes) for token in tokens] == [b"a", emoji[:2], emoji[2:] + b"b"]
    tokens = await both(scripted("a", emoji[:2], emoji[2:] + b"bST", "OP"), stop=["STOP"])
    assert [bytes(token.bytes) for token in tokens] == [b"a", emoji[:2], emoji[2:] + b"b"]


async def test_channels_show_the_final_ones() -> None:
    adapter = scripted(
        *("<|channel|>", "analysis", "<|message|>", "hm", "<|end|>", "<|start|>", "assistant"),
        *("<|channel|>", "final", "<|message|>", "Y", "es"),
        template=GPT_OSS,
    )
    assert [token.token for token in await both(adapter)] == ["Y", "es"]


async def test_an_answer_without_content_has_an_empty_list_and_an_unasked_one_none() -> None:
    completion = await scripted(CALL).complete(asking(logprobs=True, tools=[weather_tool()]))
    assert completion.choices[0].logprobs
    assert completion.choices[0].logprobs.content == []
    completion = await scripted("x").complete(asking())
    assert completion.choices[0].logprobs is None


@pytest.mark.parametrize("params", [{"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}])
async def test_nonsense_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await scripted("x").complete(asking(**params))
    assert caught.value.code == "invalid_value"


async def test_an_engine_is_asked_for_as_many_as_the_caller_wants() -> None:
    adapter = scripted("x")
    for params in ({}, {"logprobs": False}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 3}):
        await adapter.complete(asking(**params))
    engine = adapter._engine
    assert isinstance(engine, ScriptedEngine)
    assert [job.logprobs for job in engine.jobs] == [None, None, 0, 3]


MARKS = ["<think>", "</think>", "\n", " ", "a", "ü", "🙂", "STOP", "ST", "<tool_call>", CALL, "</tool_call>"]
CHANNELS = [
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|end|>",
    "<|start|>",
    "a🙂",
    "STOP",
]


def readers() -> list[tuple[list[str], AnswerReader]]:
    tools = [Tool("get_weather")]
    plain = Reader(thoughts=THINK, tools=Hermes(tools))
    return [
        (MARKS, Reader()),
        (MARKS, plain),
        (MARKS, Stopping(Reader(thoughts=THINK, tools=Hermes(tools)), ["STOP", "🙂a"], ["<|im_end|>"])),
        (CHANNELS, Stopping(HarmonyReader(Harmony(tools)), ["STOP"])),
    ]


@pytest.mark.parametrize("which", range(4))
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_wherever_tokens_end_theirs_are_the_bytes_of_the_content(which: int, data: st.DataObject) -> None:
    words, _ = readers()[which]
    text = "".join(data.draw(st.lists(st.sampled_from(words), max_size=12))).encode()
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=40))

    async def read() -> list[Any]:
        hearing = Hearing(readers()[which][1], lambda: None, asyncio.Event())
        place = number = 0
        while place < len(text):
            size = sizes[number % len(sizes)]
            number += 1
            piece = text[place : place + size]
            place += size
            if not hearing.piece(piece, Score(-float(number))):
                break
        hearing.finished("stop", number)
        return hearing.take()

    news = asyncio.run(read())
    parts = [one for one in news if isinstance(one, Part) and one.kind == "content"]
    (ended,) = [one for one in news if isinstance(one, Ended)]
    scored = [*(one for part in parts for one in part.scores), *ended.scores]
    content = "".join(part.text for part in parts)
    shown = b"".join(one.data for one in scored).decode()
    # What stands between two messages of channels is ours.
    assert shown == content or (which == 3 and shown.replace("\n", "") == content.replace("\n", ""))
    logprobs = [one.score.logprob for one in scored]
    assert logprobs == sorted(set(logprobs), reverse=True)  # in order, each once


def test_the_likeliest_are_those_of_the_softmax() -> None:
    logits = np.random.default_rng(1).normal(0, 5, 1000).astype(np.float32)
    logits[7] = -np.inf
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    order = np.argsort(-expected)
    for most in (0, 1, 20, 1000, 2000):
        logprob, top = likeliest(logits, 3, most)
        assert logprob == pytest.approx(expected[3], abs=1e-4)
        assert [token for token, _ in top][:20] == [*order[: min(most, 1000)]][:20]
    assert likeliest(logits, 7, 0)[0] == -9999.0
    assert dict(likeliest(logits, 3, 5)[1])[int(order[0])] == pytest.approx(expected[order[0]], abs=1e-4)


@pytest.mark.gguf
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 1.7, "seed": 3},
        {"temperature": 0, "logit_bias": {"65": 30}, "frequency_penalty": 2.0},
    ],
)
async def test_they_are_of_the_raw_distribution(tiny: Tiny, make: Make, params: dict[str, Any]) -> None:
    adapter = make(tiny("llama"), threads=1)
    completion = await adapter.complete(asking(logprobs=True, top_logprobs=4, max_tokens=12, **params))
    tokens = tokens_of(completion)
    assert len(tokens) == 12
    alone = Alone(tiny("llama"), threads=1)
    try:
        model = alone.model
        pieces = [model.piece(token, special=True) for token in range(model.n_vocab)]
        question = await _prompt(adapter)
        alone.decode(model.tokenize(question))
        for token in tokens:
            logits = alone.logits().astype(np.float64)
            logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            number = pieces.index(bytes(token.bytes))
            assert token.logprob == pytest.approx(logprobs[number], abs=0.01)
            best = np.sort(logprobs)[::-1][:4]
            assert [top.logprob for top in token.top_logprobs] == pytest.approx(best.tolist(), abs=0.01)
            alone.decode([number])
    finally:
        alone.close()


async def _prompt(adapter: LocalAdapter) -> str:
    """What a question becomes."""
    from adapters.local.plan import plan
    from adapters.local.prompting import prepared

    request = asking().request
    return (await prepared(request, plan(request, "m"), await adapter._opened(), adapter._model)).text


@pytest.mark.gguf
async def test_a_process_says_what_a_thread_says(tiny: Tiny, make: Make) -> None:
    answers = []
    for isolation in ("thread", "process"):
        adapter = make(tiny("qwen3"), threads=1, isolation=isolation)
        answers.append(await both(adapter, temperature=0, max_tokens=16, top_logprobs=3))
        await adapter.aclose()
    assert [(one.bytes, one.top_logprobs) for one in answers[0]] == [
        (one.bytes, one.top_logprobs) for one in answers[1]
    ]


@pytest.mark.gguf
async def test_a_forced_form_has_them_too(tiny: Tiny, make: Make) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 22]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    tokens = await both(make(tiny("qwen2"), threads=1), response_format=form, seed=4)
    assert len(tokens) > 2
