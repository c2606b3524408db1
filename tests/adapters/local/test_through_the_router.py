"""What the router knows of what a local model can do, and what it hands on of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import AsyncRouter, LocalModel, NoEligibleModelError
from tests.adapters.local.conftest import Tiny
from tests.gguf_files import write_gguf
from tests.helpers import HELLO

pytestmark = pytest.mark.gguf


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
