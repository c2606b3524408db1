"""Beside `llama_cpp.Llama`: the same model, the same chat, not a token differs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from adapters.local import create
from router.adapter import AdapterSettings, Call
from router.models import LocalModel
from router.request import ChatRequest

pytestmark = pytest.mark.gguf

RULES = (
    "You are the assistant of a company that rents out flats. Guests may cancel free of charge until two days "
    "before they arrive; later they pay half of the price. Pets are welcome in houses, not in flats. Keys are "
    "handed over between three and eight in the evening. Breakfast is not included. "
)
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Tell me about the sea."}],
    [{"role": "system", "content": RULES}, {"role": "user", "content": "May I bring my dog?"}],
    [{"role": "system", "content": RULES * 3}, {"role": "user", "content": "When do I get the keys?"}],
]


@pytest.mark.parametrize("said", CHATS, ids=["short", "a hundred tokens", "three hundred tokens"])
@pytest.mark.parametrize("threads", [1, 2])
def test_greedy_text_equals_llamas(smollm: Path, said: list[dict[str, Any]], threads: int) -> None:
    assert asyncio.run(ours(smollm, said, threads)) == llamas(smollm, said, threads)


async def ours(path: Path, said: list[dict[str, Any]], threads: int) -> str | None:
    adapter = create(LocalModel("m", path=path, n_ctx=1024, threads=threads), AdapterSettings())
    try:
        request = ChatRequest(messages=said, params={"temperature": 0, "max_tokens": 24})
        return (await adapter.complete(Call(request=request))).choices[0].message.content
    finally:
        await adapter.aclose()


def llamas(path: Path, said: list[dict[str, Any]], threads: int) -> str | None:
    from llama_cpp import Llama

    llama = Llama(
        str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
    )
    try:
        answer: Any = llama.create_chat_completion(
            messages=said,  # type: ignore[arg-type]  # plain dicts will do
            max_tokens=24,
            temperature=0,
        )
        content: str | None = answer["choices"][0]["message"]["content"]
        return content
    finally:
        llama.close()
