"""Beside `llama_cpp.Llama`: the same model, the same chat, not a token differs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalAdapter, create
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
def test_greedy_text_equals_llamas(smollm: Path, said: list[dict[str, Any]]) -> None:
    assert asyncio.run(ours(smollm, said)) == llamas(smollm, said)


def test_so_do_later_chats_of_the_same_engine(smollm: Path) -> None:
    """Whatever it holds already: long prompts, which share a beginning or not, and lengths around a segment's end.

    With one thread: several sum up a part of the memory each, and where the parts end depends on all that it holds.
    """
    told = "The sea is calm today, and the harbour is full of boats. " * 4
    chats = [
        CHATS[1],
        [{"role": "user", "content": f"Who wrote this? {told}"}],
        [{"role": "system", "content": RULES * 2}, {"role": "user", "content": f"{told} What is it about?"}],
        [{"role": "user", "content": (RULES * 9)[:2360]}],
        CHATS[0],
    ]
    adapter = create(LocalModel("m", path=smollm, n_ctx=1024, threads=1), AdapterSettings())
    try:
        said = asyncio.run(in_turn(adapter, chats))
    finally:
        asyncio.run(adapter.aclose())
    assert said == [llamas(smollm, chat) for chat in chats]


def test_and_when_the_memory_is_full(smollm: Path) -> None:
    declared = LocalModel("m", path=smollm, n_ctx=160, max_parallel=1, threads=1)
    chats: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": f"Tell me about the {what}."}] for what in ("sea", "moon", "mountains")
    ]
    adapter = create(declared, AdapterSettings())
    try:
        said = asyncio.run(in_turn(adapter, chats, most=100))
    finally:
        asyncio.run(adapter.aclose())
    assert said == [llamas(smollm, chat, most=100) for chat in chats]


async def in_turn(
    adapter: LocalAdapter, chats: list[list[dict[str, Any]]], most: int = 24
) -> list[str | None]:
    said = []
    for chat in chats:
        request = ChatRequest(messages=chat, params={"temperature": 0, "max_tokens": most})
        said.append((await adapter.complete(Call(request=request))).choices[0].message.content)
    return said


async def ours(path: Path, said: list[dict[str, Any]]) -> str | None:
    adapter = create(LocalModel("m", path=path, n_ctx=1024, threads=1), AdapterSettings())
    try:
        return (await in_turn(adapter, [said]))[0]
    finally:
        await adapter.aclose()


def llamas(path: Path, said: list[dict[str, Any]], most: int = 24) -> str | None:
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
    try:
        answer: Any = llama.create_chat_completion(
            messages=said,  # type: ignore[arg-type]  # plain dicts will do
            max_tokens=most,
            temperature=0,
        )
        content: str | None = answer["choices"][0]["message"]["content"]
        return content
    finally:
        llama.close()
