"""Many chats at once on one machine, without a server: SmolLM2 inside this process. Runs offline.

Eight guests write at the same moment. All are answered together, and the rules that every chat begins with
are read once. Then one guest goes on, and a form is filled in as JSON that cannot be anything else.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from _demo import smollm2

from router import AsyncRouter, LocalModel

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

RULES = (
    "You are the assistant of a company that rents out flats. Answer in full sentences. Guests may cancel "
    "for free until two days before they arrive; later they pay half of the price. Pets are welcome in "
    "houses, not in flats. Keys are handed over between three and eight in the evening; who comes later "
    "calls the number in the confirmation. Breakfast is not included. Towels are. Who hears noise calls "
    "the host first."
)
QUESTIONS = [
    "May I bring my dog?",
    "I arrive at ten in the evening.",
    "Can I still cancel?",
    "Is there breakfast?",
    "The neighbours are loud!",
    "Do I need towels?",
    "Where do I get the keys?",
    "What if I leave a day early?",
]
BOOKING = {
    "type": "object",
    "properties": {
        "guests": {"type": "integer", "minimum": 1, "maximum": 9},
        "pet": {"enum": ["none", "dog", "cat"]},
    },
    "required": ["guests", "pet"],
    "additionalProperties": False,
}


async def ask(llm: AsyncRouter, chat: list[ChatCompletionMessageParam]) -> tuple[str, float, int, int]:
    """The answer, seconds to its first piece, prompt tokens, and how many of them were known already."""
    stream = await llm.chat.completions.create(
        messages=chat, max_tokens=48, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text, cached, prompt = "", 0, 0
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        if chunk.usage is not None:
            prompt = chunk.usage.prompt_tokens
            details = chunk.usage.prompt_tokens_details
            cached = details.cached_tokens or 0 if details is not None else 0
    first = stream.routing.attempts[-1].ttft or 0.0
    return text, first, prompt, cached


def shortened(text: str) -> str:
    """One line of it."""
    line = " ".join(text.split())
    return line if len(line) <= 58 else f"{line[:57]}…"


async def main() -> None:
    model = LocalModel("smollm2-135m", path=smollm2(), max_parallel=8, preload=True)
    async with AsyncRouter(models=[model]) as llm:
        chats: list[list[ChatCompletionMessageParam]] = [
            [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
            for question in QUESTIONS
        ]
        print(f"{len(chats)} guests at once:\n")
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(llm, chat) for chat in chats))
        seconds = time.perf_counter() - began
        for question, (text, first, prompt, cached) in zip(QUESTIONS, answers, strict=True):
            print(
                f"  {question:32} first word after {first:4.2f} s, {cached:3} of {prompt} prompt tokens known"
            )
            print(f"    {shortened(text)}")
        print(f"\nAll answered in {seconds:.1f} s, the model loaded meanwhile.\n")

        chat: list[ChatCompletionMessageParam] = [
            *chats[0],
            {"role": "assistant", "content": answers[0][0]},
            {"role": "user", "content": "And in a house?"},
        ]
        text, first, prompt, cached = await ask(llm, chat)
        known = f"{cached} of {prompt} prompt tokens known"
        print(f"The first guest goes on: first word after {first:.2f} s, {known}")
        print(f"    {shortened(text)}\n")

        completion = await llm.chat.completions.create(
            messages=[
                {
                    "role": "user",
                    "content": "We are two adults and our dog. Fill in the booking form as JSON.",
                }
            ],
            response_format={"type": "json_schema", "json_schema": {"name": "booking", "schema": BOOKING}},
            temperature=0,
        )
        print(
            "A form, in a shape that the grammar enforces:",
            json.loads(completion.choices[0].message.content or ""),
        )


if __name__ == "__main__":
    asyncio.run(main())
