"""Moving a workload to Kimi K2, as Chamath Palihapitiya tells it: replay a day's traffic, compare, cut over.

He told the press in late 2025 that a company he works with moved its main workload from OpenAI and Anthropic
to Kimi K2, because it is far cheaper. Here a day's traffic is replayed on both models; answers can be
checked, so quality is measured and not believed. Then the measured quality goes into the router, which makes
the decision by itself.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from _demo import hosted, say_what_is_real

from router import AsyncRouter, Decision, HostedModel, NoEligibleModelError, Policy, RoutingOptions
from router.testing import LoopbackServer, Received, Reply

INCUMBENT, CANDIDATE = "claude-opus", "kimi-k2"
#: For the loopback server, made up: right answers per task, seconds to the first token and per token.
PLAYED: dict[str, tuple[dict[str, float], float, float]] = {
    "claude-opus-4-1": ({"extract": 0.99, "classify": 0.97, "reason": 0.96}, 0.012, 0.00020),
    "kimi-k2-0905-preview": ({"extract": 0.98, "classify": 0.96, "reason": 0.84}, 0.008, 0.00012),
}
REQUESTS = 240
#: Quality may fall by this much, per task, when the workload moves.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Recorded:
    """A request of yesterday, with the answer that is known to be right."""

    task: str
    prompt: str
    right: str


def yesterday(rng: random.Random) -> list[Recorded]:
    """A day's traffic: invoices to read, tickets to sort, sums to do."""
    filler = "Terms: payment within thirty days of the date of the invoice, without deduction. "
    recorded = []
    for number in range(REQUESTS):
        task = rng.choices(["extract", "classify", "reason"], [5, 4, 1])[0]
        if task == "extract":
            total = f"{rng.randint(100, 9999)}.{rng.randint(0, 99):02}"
            invoice = f"Invoice {number}. {filler * rng.randint(4, 30)}Total due: {total} USD. {filler * 3}"
            recorded.append(
                Recorded(task, f"What is the total? Answer with the number only.\n{invoice}", total)
            )
        elif task == "classify":
            kind = rng.choice(["billing", "outage", "feature"])
            ticket = f"Ticket {number} about {kind}: {filler * rng.randint(2, 10)}"
            recorded.append(Recorded(task, f"Sort into billing, outage or feature.\n{ticket}", kind))
        else:
            a, b = rng.randint(12, 99), rng.randint(12, 99)
            recorded.append(
                Recorded(task, f"Case {number}: what is {a} times {b}? Explain, then: Answer: N", str(a * b))
            )
    return recorded


def player(traffic: list[Recorded]) -> Callable[[Received], Reply]:
    """What the loopback server answers in the place of a host: mostly the right answer."""
    known = {recorded.prompt: recorded for recorded in traffic}

    def play(request: Received) -> Reply:
        model, messages = str(request.body["model"]), request.body["messages"]
        recorded = known[messages[0]["content"]] if isinstance(messages, list) else traffic[0]
        shares, ttft, per_token = PLAYED[model]
        rng = random.Random(f"{model}/{recorded.prompt}")
        answer = recorded.right if rng.random() < shares[recorded.task] else "I am not sure."
        if recorded.task == "reason":
            thoughts = "First I split one factor, then I multiply each part and add them up. " * 6
            answer = f"{thoughts}Answer: {answer}"
        return Reply(text=answer, ttft=ttft * rng.lognormvariate(0, 0.3), per_token=per_token)

    return play


def is_right(recorded: Recorded, text: str) -> bool:
    """Whether an answer is right."""
    return text.rpartition("Answer:")[2].strip() == recorded.right


async def replay(
    llm: AsyncRouter, traffic: list[Recorded], model: str
) -> list[tuple[Recorded, Decision, bool]]:
    """Sends all of it to one model, eight requests at a time."""
    gate = asyncio.Semaphore(8)

    async def one(recorded: Recorded) -> tuple[Recorded, Decision, bool]:
        async with gate:
            completion = await llm.chat.completions.create(
                model=model, messages=[{"role": "user", "content": recorded.prompt}], max_tokens=400,
                routing=RoutingOptions(task=recorded.task, tags={"replay": "yesterday"}),
            )  # fmt: skip
        right = is_right(recorded, completion.choices[0].message.content or "")
        llm.feedback(completion, score=float(right))
        return recorded, completion.routing, right

    return await asyncio.gather(*map(one, traffic))


Replay = list[tuple[Recorded, Decision, bool]]


def quality(replayed: Replay) -> dict[str, float]:
    """The share of right answers per task."""
    tasks = sorted({recorded.task for recorded, _, _ in replayed})
    return {
        task: statistics.mean(right for recorded, _, right in replayed if recorded.task == task)
        for task in tasks
    }


def cost(replayed: Replay) -> float:
    """USD of it all."""
    return sum(float(decision.cost or 0) for _, decision, _ in replayed)


def side_by_side(before: Replay, after: Replay) -> None:
    """Cost, latency and quality of both."""

    def row(what: str, left: str, right: str, note: str = "") -> None:
        print(f"{what:<28}{left:>16}{right:>16}   {note}")

    def seconds(replayed: Replay) -> list[float]:
        return sorted(attempt.duration or 0 for _, decision, _ in replayed for attempt in decision.attempts)

    row("", INCUMBENT, CANDIDATE)
    row(
        "cost of the day",
        f"{cost(before):.4f} USD",
        f"{cost(after):.4f} USD",
        f"{cost(before) / cost(after):.0f}× cheaper",
    )
    row("per 1,000 requests", *(f"{cost(r) / len(r) * 1000:.2f} USD" for r in (before, after)))
    row("latency, median", *(f"{statistics.median(seconds(r)) * 1000:.0f} ms" for r in (before, after)))
    row("latency, 95 % within", *(f"{seconds(r)[int(len(r) * 0.95)] * 1000:.0f} ms" for r in (before, after)))
    was, now = quality(before), quality(after)
    for task in was:
        fell = was[task] - now[task]
        note = "good enough" if fell <= TOLERANCE else f"falls by {fell:.0%}: stays where it is"
        row(f"right answers, {task}", f"{was[task]:.1%}", f"{now[task]:.1%}", note)


async def cut_over(
    llm: AsyncRouter, models: list[HostedModel], traffic: list[Recorded], replays: list[Replay]
) -> None:
    """Puts the measured quality into the router, and lets it decide where tomorrow's requests go."""
    measured = [quality(replayed) for replayed in replays]
    llm.update([m.model_copy(update={"quality": q}) for m, q in zip(models, measured, strict=True)])
    print("\nWith the measured quality, the router decides by itself (no model is called):")
    bill, where = 0.0, dict.fromkeys(measured[0], "")
    for recorded in traffic:
        needed = max(measured[0][recorded.task] - TOLERANCE, 0)
        try:
            decision = llm.route(
                messages=[{"role": "user", "content": recorded.prompt}], max_tokens=400,
                routing=RoutingOptions(task=recorded.task, min_quality=needed),
            )  # fmt: skip
        except NoEligibleModelError as error:
            sys.exit(str(error))
        where[recorded.task] = decision.model or ""
        bill += decision.ranking[0].cost or 0
    for task, model in where.items():
        print(f"  {task:<10} → {model}")
    today = cost(replays[0])
    saved = 1 - bill / today
    print(f"  tomorrow's bill, as expected: {bill:.4f} USD instead of {today:.4f} USD: {saved:.0%} saved")


async def main() -> None:
    traffic = yesterday(random.Random(7))
    with LoopbackServer(player(traffic)) as server:
        models = [
            hosted(server, INCUMBENT, provider="anthropic", model="claude-opus-4-1"),
            hosted(server, CANDIDATE, provider="moonshot", model="kimi-k2-0905-preview"),
        ]
        say_what_is_real(server, models)
        async with AsyncRouter(models=models, policy=Policy.cheapest()) as llm:
            replays = [await replay(llm, traffic, model.name) for model in models]
            tokens = sum(d.attempts[-1].prompt_tokens or 0 for _, d, _ in replays[0])
            print(f"A day of {len(traffic)} requests, {tokens:,} prompt tokens, replayed on both:\n")
            side_by_side(*replays)
            await cut_over(llm, models, traffic, replays)


if __name__ == "__main__":
    asyncio.run(main())
