"""The local engine beside `llama_cpp.Llama` used one chat at a time, on SmolLM2-135M, as ratios in one run.

`python -m tests.benchmarks.local` prints: 8 chats at once with one 200-token system prompt, 64 tokens each
(tokens/s, p95 time to first token); one chat alone; the next turn of a 1,000-token conversation; 1 to 32 chats;
how the texts compare; two models at once; what a step consists of, and what the kernels alone allow; memory over
many short requests. With `--server PYTHON`, an interpreter that has xllamacpp, also llama.cpp's own server on the
same chats. Rounds are taken in turn and medians printed: on a shared machine one run says little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from adapters.local import LocalAdapter, create
from adapters.local.batching.tree import common_prefix
from adapters.local.context import NativeContext
from adapters.local.files import load_settings
from adapters.local.native import NativeModel
from router.adapter import AdapterSettings, Call
from router.models import LocalModel
from router.request import ChatRequest
from tests.adapters.local.batching.kit import Greedy, engine_of, job_of
from tests.gguf_files import write_gguf
from tests.helpers import smollm2

SYSTEM = (
    "You are the assistant of a company that rents out flats. Be polite and precise, answer in full sentences, "
    "and never promise what the rules below do not allow. Guests may cancel free of charge until two days "
    "before they arrive; later they pay half of the price, and nothing is paid back after arrival. Pets are "
    "welcome in houses, not in flats. Keys are handed over between three and eight in the evening; who comes "
    "later calls the number in the confirmation. Breakfast is not included. Towels and sheets are. Damage is to "
    "be reported at once, with a picture, and small things are forgiven. Complaints about noise go to the host "
    "first and then to us. Invoices are sent by mail on the day of departure. If you do not know an answer, say "
    "so, and offer to ask a colleague, who will call back within a day. "
)
CHATS, TOKENS, N_CTX = 8, 64, 4096


def messages(number: int) -> list[dict[str, Any]]:
    """A chat that nobody had before, with the common beginning."""
    question = f"Guest {number} writes: tell me at length about the flat, the town and the rules."
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def adapter_of(threads: int, path: Path | None = None, **options: Any) -> LocalAdapter:
    """A fresh engine: nothing is cached."""
    declared = LocalModel(
        "smollm2", path=path or smollm2(), n_ctx=N_CTX, threads=threads, max_parallel=32, **options
    )
    return create(declared, AdapterSettings())


async def ask(adapter: LocalAdapter, said: list[dict[str, Any]], tokens: int) -> tuple[float, int, str]:
    """Seconds to the first token, tokens, text."""
    call = Call(
        request=ChatRequest(messages=said, params={"temperature": 0, "max_tokens": tokens}, stream=True)
    )
    began, first, count, text = time.perf_counter(), 0.0, 0, ""
    async for chunk in adapter.stream(call):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - began
            text += chunk.choices[0].delta.content
        if chunk.usage:
            count = chunk.usage.completion_tokens
    return first, count, text


async def at_once(adapter: LocalAdapter, chats: int, start: int = 0) -> tuple[float, float]:
    """Tokens/s and p95 time to first token, of chats that all come at once."""
    began = time.perf_counter()
    done = await asyncio.gather(*(ask(adapter, messages(start + number), TOKENS) for number in range(chats)))
    seconds = time.perf_counter() - began
    return sum(count for _, count, _ in done) / seconds, p95([first for first, _, _ in done])


def p95(values: list[float]) -> float:
    """The 95th percentile, by the nearest rank."""
    return sorted(values)[min(len(values) - 1, round(0.95 * len(values) + 0.5) - 1)]


async def ours(threads: int, chats: int) -> tuple[float, float]:
    """The engine, cold but loaded."""
    adapter = adapter_of(threads)
    await ask(adapter, [{"role": "user", "content": "hi"}], 1)
    try:
        return await at_once(adapter, chats)
    finally:
        await adapter.aclose()


def llama_of(threads: int) -> Any:
    """A fresh `llama_cpp.Llama`."""
    from llama_cpp import Llama

    return Llama(
        str(smollm2()),
        n_ctx=N_CTX,
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=True,
        verbose=False,
    )


def llamas(threads: int, chats: int) -> tuple[float, float]:
    """`Llama`, one after the other, with what it caches by itself: the last chat's beginning."""
    llama = llama_of(threads)
    try:
        llama.create_chat_completion(messages=[{"role": "user", "content": "hi"}], max_tokens=1)
        # The engine shares whole blocks of 64 tokens only, to round as `Llama` does in an empty memory; the few
        # tokens that every chat begins with would be 2 % of the first one's prompt.
        llama.reset()
        began, firsts, count = time.perf_counter(), [], 0
        for number in range(chats):
            first = 0.0
            stream: Any = llama.create_chat_completion(
                messages=messages(number),
                max_tokens=TOKENS,
                temperature=0,
                stream=True,
            )
            for chunk in stream:
                if chunk["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    count += 1
            firsts.append(first)
        return count / (time.perf_counter() - began), p95(firsts)
    finally:
        llama.close()


def side_by_side(threads: int, rounds: int, chats: int) -> None:
    """Prints both, and their ratios."""
    runs = [(asyncio.run(ours(threads, chats)), llamas(threads, chats)) for _ in range(rounds)]
    speed = statistics.median(mine[0] / theirs[0] for mine, theirs in runs)
    first = statistics.median(mine[1] / theirs[1] for mine, theirs in runs)
    for mine, theirs in runs:
        print(f"  engine {mine[0]:6.1f} tokens/s, p95 first {mine[1]:5.2f} s | "
              f"Llama {theirs[0]:6.1f} tokens/s, p95 first {theirs[1]:5.2f} s")  # fmt: skip
    print(f"{chats} chats: {speed:.2f}x the tokens/s of Llama one at a time, p95 first token {first:.2f}x")


def beside_the_server(python: str | None, threads: int, rounds: int) -> None:
    """Prints the engine's tokens/s beside those of llama.cpp's own server, in each of its configurations."""
    if python is None:
        print("llama.cpp's server: not compared; `--server PYTHON` names an interpreter that has xllamacpp")
        return
    runs: list[tuple[tuple[float, float], dict[str, tuple[float, float]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requests.json"
        chats = [messages(number) for number in range(CHATS)]
        model = {"model": str(smollm2()), "slots": CHATS, "n_ctx": CHATS * 1024}
        asked.write_text(json.dumps({**model, "threads": threads, "tokens": TOKENS, "chats": chats}))
        command = [python, str(Path(__file__).with_name("local_server.py")), str(asked)]
        for _ in range(rounds):
            mine = asyncio.run(ours(threads, CHATS))
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            theirs = {
                "one memory for all" if one["unified"] else "a memory for each": (
                    one["rate"],
                    p95(one["firsts"]),
                )
                for one in found
            }
            runs.append((mine, theirs))
    for kind in runs[0][1]:
        speed = statistics.median(mine[0] / theirs[kind][0] for mine, theirs in runs)
        first = statistics.median(mine[1] / theirs[kind][1] for mine, theirs in runs)
        rate = statistics.median(theirs[kind][0] for _, theirs in runs)
        print(f"{CHATS} chats: {speed:.2f}x the tokens/s of llama.cpp's server, {kind} ({rate:.1f}), "
              f"p95 first token {first:.2f}x")  # fmt: skip


def texts(threads: int) -> None:
    """How many greedy texts equal `Llama`'s and those alone, and how near the others' first tokens are."""
    prompts = [
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{messages(number)[1]['content']}<|im_end|>\n"
        "<|im_start|>assistant\n"
        for number in range(CHATS)
    ]
    equal = 0
    for prompt in prompts:
        llama = llama_of(threads)
        theirs: Any = llama.create_completion(prompt, max_tokens=TOKENS, temperature=0)
        llama.close()
        (mine,) = said([prompt], threads)
        equal += b"".join(mine) == theirs["choices"][0]["text"].encode()
    print(f"one chat alone: {equal} of {CHATS} greedy texts of {TOKENS} tokens equal Llama's")
    alone, gaps = Greedy(smollm2(), N_CTX, threads=threads), []
    for prompt, pieces in zip(prompts, said(prompts, threads), strict=True):
        expected = alone.pieces(prompt, TOKENS)
        if pieces != expected:
            place = common_prefix(pieces, expected)
            gaps.append((place, alone.gap(prompt, place, pieces[place] if place < len(pieces) else None)))
    alone.close()
    print(f"{CHATS} at once: {CHATS - len(gaps)} equal the text alone; the others part at " +
          ", ".join(f"token {place} ({gap:.3f} logits)" for place, gap in sorted(gaps)))  # fmt: skip


def said(prompts: list[str], threads: int) -> list[list[bytes]]:
    """The pieces of the answers to prompts that come all at once to a fresh engine."""
    engine = engine_of(smollm2(), n_ctx=N_CTX, threads=threads)
    jobs = [job_of(prompt, TOKENS) for prompt in prompts]
    for job, _ in jobs:
        engine.submit(job)
    try:
        return [heard.pieces for _, heard in jobs if heard.text is not None]
    finally:
        engine.close()


def kernels(threads: int) -> None:
    """What llama.cpp alone takes for so many chats' next tokens: no engine can be faster."""
    declared = LocalModel("smollm2", path=smollm2(), n_ctx=N_CTX, threads=threads)
    settings = load_settings(declared)
    model = NativeModel(settings)
    context = NativeContext(model, settings, cells=N_CTX, sequences=32)
    taken: dict[int, float] = {}
    for rows in (1, 2, 4, 8, 16, 32):
        context.clear()
        seconds = []
        for position in range(12):
            for sequence in range(rows):
                context.put(sequence, [100 + sequence], position, output=True)
            began = time.perf_counter()
            context.compute()
            seconds.append(time.perf_counter() - began)
        taken[rows] = statistics.median(seconds[2:])
    context.close()
    model.close()
    print("llama_decode alone: " + ", ".join(
        f"{rows} rows {1000 * each:.1f} ms ({rows * taken[1] / each:.2f}x the tokens/s of 1)"
        for rows, each in taken.items()))  # fmt: skip


async def next_turn(threads: int) -> None:
    """The second turn of a long conversation."""
    adapter = adapter_of(threads)
    await ask(adapter, [{"role": "user", "content": "hi"}], 1)
    said = [{"role": "system", "content": SYSTEM * 5}, {"role": "user", "content": "Which pets are welcome?"}]
    first, _, text = await ask(adapter, said, 32)
    said += [
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And when do I get the keys?"},
    ]
    second, _, _ = await ask(adapter, said, 32)
    print(f"next turn: {second * 1000:.0f} ms to the first token, {second / first:.3f}x of the first turn's")
    await adapter.aclose()


async def scaling(threads: int) -> None:
    """More and more chats at once, each time on a warm system prompt."""
    adapter, best = adapter_of(threads), 0.0
    await ask(adapter, messages(0), 1)
    for chats in (1, 2, 4, 8, 16, 32):
        rates = [(await at_once(adapter, chats, 1000 * chats + 100 * number))[0] for number in range(3)]
        rate = statistics.median(rates)
        print(f"{chats:3} chats: {rate:6.1f} tokens/s, {rate / best if best else 1:.2f}x the best at fewer")
        best = max(best, rate)
    await adapter.aclose()


async def two_models(threads: int) -> None:
    """Two engines at once, and the same work one engine after the other."""
    both = [adapter_of(threads), adapter_of(threads)]
    for adapter in both:
        await ask(adapter, messages(0), 1)
    began = time.perf_counter()
    for adapter in both:
        await at_once(adapter, 4, 10)
    alone = time.perf_counter() - began
    began = time.perf_counter()
    await asyncio.gather(*(at_once(adapter, 4, 20) for adapter in both))
    print(
        f"two models at once: {alone / (time.perf_counter() - began):.2f}x the speed of one after the other"
    )
    for adapter in both:
        await adapter.aclose()


class Stopwatch:
    """Sums up a method's seconds while it is entered: on the clock, and of its thread's CPU."""

    def __init__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name
        self.clock = self.cpu = 0.0
        self.calls = 0

    def __enter__(self) -> Self:
        inner = self._inner = getattr(self._owner, self._name)

        def timed(*args: Any, **named: Any) -> Any:
            began, used = time.perf_counter(), time.thread_time()
            try:
                return inner(*args, **named)
            finally:
                self.clock += time.perf_counter() - began
                self.cpu += time.thread_time() - used
                self.calls += 1

        setattr(self._owner, self._name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._name, self._inner)


async def steps(threads: int) -> None:
    """What the engine's thread does while 8 chats are answered; Python's share by CPU: others take turns."""
    from adapters.local.batching.serving import Serving

    adapter = adapter_of(threads)
    await ask(adapter, messages(0), 1)
    with (
        Stopwatch(Serving, "step") as step,
        Stopwatch(NativeContext, "compute") as compute,
        Stopwatch(NativeContext, "draw") as draw,
    ):
        await at_once(adapter, CHATS, 30)
    rest = step.cpu - compute.cpu - draw.cpu
    print(f"a step: {1000 * step.clock / step.calls:.1f} ms; sampling {100 * draw.cpu / step.clock:.2f} %, "
          f"Python {100 * rest / step.clock:.2f} % ({1000 * rest / step.calls:.3f} ms)")  # fmt: skip
    await adapter.aclose()


async def memory(requests: int) -> None:
    """Resident memory after the first and the last tenth of many short requests, on a tiny model."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        adapter = adapter_of(1, write_gguf(Path(folder) / "tiny.gguf", quantised=True))
        sizes = []
        for tenth in range(10):
            for start in range(0, requests // 10, 20):
                said = [[{"role": "user", "content": f"{tenth} {start + n} dog"}] for n in range(20)]
                await asyncio.gather(*(ask(adapter, one, 4) for one in said))
            sizes.append(psutil.Process().memory_info().rss)
        await adapter.aclose()
    print(f"{requests} requests: {sizes[-1] / sizes[0]:.4f}x the resident memory of the first tenth")


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--server", metavar="PYTHON", help="an interpreter that has xllamacpp")
    parser.add_argument("--only", help="one part, by its name in this file")
    given = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "together": lambda: side_by_side(given.threads, given.rounds, CHATS),
        "server": lambda: beside_the_server(given.server, given.threads, given.rounds),
        "alone": lambda: side_by_side(given.threads, given.rounds, 1),
        "turn": lambda: asyncio.run(next_turn(given.threads)),
        "scaling": lambda: asyncio.run(scaling(given.threads)),
        "texts": lambda: texts(given.threads),
        "kernels": lambda: kernels(given.threads),
        "two": lambda: asyncio.run(two_models(given.threads)),
        "steps": lambda: asyncio.run(steps(given.threads)),
        "memory": lambda: asyncio.run(memory(given.requests)),
    }
    for name, part in parts.items():
        if given.only in (None, name):
            part()


if __name__ == "__main__":
    main()
