"""What a caller sees on bad days: a host goes silent, a stream breaks, money runs out, all are down. Offline.

A loopback server plays the hosts and fails as real ones do. The app's code stays the same all the time: it
asks, and gets an answer or an error that says what happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from router import (
    AllModelsFailedError,
    AsyncRouter,
    Budget,
    BudgetExceededError,
    HostedModel,
    NoEligibleModelError,
    Price,
    Recovery,
    RouterError,
    RoutingOptions,
)
from router.testing import LoopbackServer, Received, Reply

HOSTS = ("east", "north", "west")
USUAL = Reply(text="Your parcel is on its way.", ttft=0.03)
SENTENCE = "Your parcel left the warehouse on Monday and will be with you on Wednesday before noon."
QUESTION = "Where is my parcel?"


def host(server: LoopbackServer, name: str, price: Price) -> HostedModel:
    """A host that the server plays."""
    return HostedModel(name, base_url=server.base_url, api_key="loopback", price=price, quality=0.9)


def hosts(server: LoopbackServer) -> list[HostedModel]:
    """Three that are equally good; the north is the cheapest, so it gets the work."""
    return [host(server, name, Price(input=1, output=1 if name == "north" else 2)) for name in HOSTS]


async def ask(llm: AsyncRouter, routing: RoutingOptions | None = None) -> float:
    """Seconds until the answer."""
    began = time.perf_counter()
    await llm.chat.completions.create(
        messages=[{"role": "user", "content": QUESTION}], max_tokens=64, routing=routing
    )
    return time.perf_counter() - began


async def steadily(llm: AsyncRouter, server: LoopbackServer, requests: int) -> str:
    """Sends some, a hundred in a second; what came of them, in words."""
    sent, tasks = len(server.requests), []
    for _ in range(requests):
        tasks.append(asyncio.create_task(ask(llm)))
        await asyncio.sleep(0.01)
    taken = await asyncio.gather(*tasks, return_exceptions=True)
    seconds = sorted(one for one in taken if isinstance(one, float))
    asked = Counter(request.model for request in server.requests[sent:])
    shares = ", ".join(f"{name} {asked[name]}" for name in HOSTS)
    return (
        f"{len(seconds)} of {requests} answered; asked: {shares}; "
        f"median {1000 * seconds[len(seconds) // 2]:.0f} ms, slowest {seconds[-1]:.2f} s"
    )


async def a_host_goes_silent(server: LoopbackServer) -> None:
    """It accepts every request and answers none."""
    print("1. A host goes silent\n")
    for name in HOSTS:
        server.script(USUAL, model=name)
    async with AsyncRouter(models=hosts(server)) as llm:
        print("  all are well:     ", await steadily(llm, server, 100))
        server.script(Reply(fault="hang"), model="north")
        print("  north is silent:  ", await steadily(llm, server, 200))
        print("  from then on:     ", await steadily(llm, server, 200))


async def a_stream_breaks(server: LoopbackServer) -> None:
    """In the middle of a sentence. Another host goes on where it stopped."""
    print("\n2. A stream breaks in the middle of a sentence\n")

    def rest(request: Received) -> Reply:
        messages = request.body["messages"]
        last = messages[-1] if isinstance(messages, list) else {}
        begun = str(last.get("content", "")) if last.get("role") == "assistant" else ""
        return Reply(text=SENTENCE.removeprefix(begun))

    half = Reply(text=SENTENCE, chunk=40, fault="truncated")
    server.script(half, model="kimi-k2-0905-preview")
    server.script(rest, model="qwen3-max")
    url, key = server.base_url, "loopback"
    models = [
        HostedModel("kimi-k2", provider="moonshot", model="kimi-k2-0905-preview", base_url=url, api_key=key),
        HostedModel("qwen3-max", provider="dashscope", base_url=url, api_key=key),
    ]
    async with AsyncRouter(models=models, recovery=Recovery(on_interrupt="continue")) as llm:
        stream = await llm.chat.completions.create(
            messages=[{"role": "user", "content": QUESTION}], model="auto", stream=True
        )
        text = "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])
    print(f"  > {text}")
    for attempt in stream.routing.attempts:
        print(f"  {attempt.model}: {attempt.outcome}{f', {attempt.error}' if attempt.error else ''}")
    print(f"  {'; '.join(stream.routing.notes)}")


async def money_runs_out(server: LoopbackServer) -> None:
    """Sixty requests at once, money for twelve."""
    print("\n3. Sixty requests at once on a budget for twelve\n")
    usage = {"prompt_tokens": 10, "completion_tokens": 60, "total_tokens": 70}
    server.script(Reply(ttft=0.1, usage=usage), model="east")
    model = host(server, "east", Price(input=0, output=10))
    before = len(server.requests)
    async with AsyncRouter(models=[model], budget=Budget(usd=12 * 64 * 10 / 1e6)) as llm:
        deadline = RoutingOptions(deadline=2.0)
        came = await asyncio.gather(*(ask(llm, deadline) for _ in range(60)), return_exceptions=True)
    refusals = [one for one in came if isinstance(one, BudgetExceededError)]
    billed = (len(server.requests) - before) * 60 * 10 / 1e6
    print(f"  {sum(isinstance(one, float) for one in came)} answered, {len(refusals)} refused")
    print(f"  billed {billed:.5f} USD of {12 * 64 * 10 / 1e6:.5f}")
    print(f"  the last one was told: {refusals[-1] if refusals else came[-1]}")


async def all_are_down(server: LoopbackServer) -> None:
    """Then they come back."""
    print("\n4. All are down, and come back\n")
    for name in HOSTS:
        server.script(Reply(status=500), model=name)
    before, errors, seconds = len(server.requests), Counter[str](), []
    async with AsyncRouter(models=hosts(server), recovery=Recovery(cooldown=1.0)) as llm:
        for _ in range(300):
            began = time.perf_counter()
            try:
                await ask(llm)
            except RouterError as error:
                errors[type(error).__name__] += 1
            seconds.append(time.perf_counter() - began)
        calls = len(server.requests) - before
        print(f"  300 requests: {', '.join(f'{count} {name}' for name, count in errors.items())}")
        print(
            f"  {calls / 300:.2f} calls a request; half of them told within {1000 * median(seconds):.1f} ms"
        )
        for name in HOSTS:
            server.script(USUAL, model=name)
        began = time.perf_counter()
        while True:
            try:
                await ask(llm)
                break
            except AllModelsFailedError:
                await asyncio.sleep(0.05)
        print(f"  they are back: answered again after {time.perf_counter() - began:.1f} s (cooldown 1 s)")


def median(values: list[float]) -> float:
    """The one in the middle."""
    return sorted(values)[len(values) // 2]


async def what_is_private(server: LoopbackServer) -> None:
    """It would rather not be answered than leave the house."""
    print("\n5. A private request, while one's own machine is down\n")
    server.script(Reply(fault="disconnect"), model="mine")
    server.script(USUAL, model="east")
    mine = HostedModel("mine", base_url=server.base_url, api_key="loopback", price=Price(input=0, output=0))
    models = [mine.model_copy(update={"private": True}), host(server, "east", Price(input=0, output=0))]
    before = len(server.requests)
    async with AsyncRouter(models=models) as llm:
        try:
            await ask(llm, RoutingOptions(privacy="private"))
        except (AllModelsFailedError, NoEligibleModelError) as error:
            print(f"  {type(error).__name__}: {error}")
    asked = Counter(request.model for request in server.requests[before:])
    print(f"  asked: mine {asked['mine']}, east {asked['east']}")


async def main() -> None:
    with LoopbackServer() as server:
        await a_host_goes_silent(server)
        await a_stream_breaks(server)
        await money_runs_out(server)
        await all_are_down(server)
        await what_is_private(server)


if __name__ == "__main__":
    asyncio.run(main())
