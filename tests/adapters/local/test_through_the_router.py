"""What the router knows of what a local model can do, and what it hands on of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import AllModelsFailedError, AsyncRouter, LocalModel, NoEligibleModelError
from router.failures import BAD_TEMPLATE
from tests.adapters.local.conftest import Tiny
from tests.gguf_files import write_gguf
from tests.helpers import HELLO

pytestmark = pytest.mark.gguf

BARE = "{% for message in messages %}{{ message.content }}{% endfor %}"


async def test_log_probabilities_come_through_in_one_piece_and_in_a_stream(tiny: Tiny) -> None:
    async with AsyncRouter([LocalModel("m", path=tiny("qwen3"), threads=1)]) as router:
        create = router.chat.completions.create
        completion = await create(messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=2)
        logprobs = completion.choices[0].logprobs
        assert logprobs
        assert logprobs.content
        assert all(len(token.top_logprobs) == 2 for token in logprobs.content)
        stream = await create(
            messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=2, stream=True
        )
        streamed = [
            token
            async for chunk in stream
            for choice in chunk.choices
            if choice.logprobs
            for token in choice.logprobs.content or ()
        ]
        assert [token.bytes for token in streamed] == [token.bytes for token in logprobs.content]
        assert '"top_logprobs":[{' in completion.model_dump_json().replace(" ", "")


async def test_an_effort_goes_to_a_model_that_thinks(tmp_path: Path) -> None:
    thinks = LocalModel("thinks", path=write_gguf(tmp_path / "a.gguf", "qwen3"), threads=1)
    answers = LocalModel("answers", path=write_gguf(tmp_path / "b.gguf", "qwen2"), threads=1)
    async with AsyncRouter([answers, thinks]) as router:
        create = router.chat.completions.create
        completion = await create(messages=HELLO, max_tokens=4, reasoning_effort="low")
        assert completion.routing.model == "thinks"
        assert completion.usage
        assert completion.usage.completion_tokens_details
        assert completion.usage.completion_tokens_details.reasoning_tokens is not None
        with pytest.raises(NoEligibleModelError) as caught:
            await create(model="answers", messages=HELLO, max_tokens=4, reasoning_effort="low")
        assert caught.value.reasons["answers"].startswith("capability: reasoning_effort")


async def test_what_never_thinks_may_be_told_not_to(tmp_path: Path) -> None:
    answers = LocalModel("answers", path=write_gguf(tmp_path / "b.gguf", "qwen2"), threads=1)
    bare = LocalModel("bare", path=write_gguf(tmp_path / "c.gguf", "qwen2"), threads=1, chat_template=BARE)
    async with AsyncRouter([answers, bare]) as router:
        for name in ("answers", "bare"):
            completion = await router.chat.completions.create(
                model=name, messages=HELLO, max_tokens=4, reasoning_effort="none"
            )
            assert completion.routing.model == name


async def test_a_template_that_renders_nothing_is_no_passing_trouble(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", "qwen3")
    async with AsyncRouter([LocalModel("mute", path=path, threads=1, chat_template=" ")]) as router:
        with pytest.raises(AllModelsFailedError) as caught:
            await router.chat.completions.create(messages=HELLO, max_tokens=4)
        (cause,) = caught.value.causes  # asked once: it would render nothing again
        assert cause.code == BAD_TEMPLATE
        assert "rendered nothing" in str(cause)
