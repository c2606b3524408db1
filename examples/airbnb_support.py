"""A support agent on thirteen models, as Airbnb tells it: mostly Qwen, "very good, fast and cheap".

Airbnb's CEO told the press in late 2025 that its customer-service agent relies on more than ten models,
largely on Alibaba's Qwen. Here every message goes through six kinds of task. Each task says how good is good
enough, and the router sends it to the cheapest and fastest model that is. The premium model is used only
where it is needed.

The qualities below are made up for this example. Measure your own on your own traffic, and tell the router.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass

from _demo import hosted, say_what_is_real, smollm2

from router import AsyncRouter, Decision, HostedModel, LocalModel, Policy, RoutingOptions
from router.testing import LoopbackServer, Received, Reply

PREMIUM = "claude-opus"

#: name: (provider, model there, made-up quality per task, seconds to the first token, seconds per token)
HOSTED: dict[str, tuple[str, str, dict[str, float], float, float]] = {
    "qwen3-8b": ("openrouter", "qwen/qwen3-8b", {"language": 0.97, "default": 0.70}, 0.020, 0.0004),
    "qwen3-14b": ("openrouter", "qwen/qwen3-14b", {"intent": 0.91, "default": 0.78}, 0.025, 0.0005),
    "qwen3-30b-a3b": (
        "openrouter",
        "qwen/qwen3-30b-a3b-instruct-2507",
        {"summary": 0.9, "default": 0.84},
        0.03,
        0.0004,
    ),
    "qwen3-32b-groq": ("groq", "qwen/qwen3-32b", {"intent": 0.92, "default": 0.84}, 0.012, 0.0002),
    "qwen3-235b": (
        "openrouter",
        "qwen/qwen3-235b-a22b-2507",
        {"policy": 0.92, "default": 0.88},
        0.05,
        0.0008,
    ),
    "qwen3-max": ("dashscope", "qwen3-max", {"draft": 0.91, "default": 0.9}, 0.05, 0.0008),
    "qwen3-coder": ("openrouter", "qwen/qwen3-coder", {"default": 0.75}, 0.04, 0.0006),
    "gpt-oss-20b": ("groq", "openai/gpt-oss-20b", {"safety": 0.96, "default": 0.76}, 0.010, 0.0001),
    "gemini-2.5-flash": ("google", "gemini-2.5-flash", {"summary": 0.92, "default": 0.86}, 0.04, 0.0005),
    "kimi-k2": ("moonshot", "kimi-k2-0905-preview", {"draft": 0.9, "default": 0.89}, 0.05, 0.0008),
    "glm-4.6": ("zai", "glm-4.6", {"default": 0.88}, 0.06, 0.0008),
    PREMIUM: ("anthropic", "claude-opus-4-1", {"default": 0.96}, 0.09, 0.0015),
}


@dataclass(frozen=True)
class Task:
    """A kind of task: its instruction, how good is good enough, and a made-up answer."""

    instruction: str
    good_enough: float
    answer: str


TASKS = {
    "language": Task("Which language is this message in? Answer with its ISO 639-1 code.", 0.95, "fr"),
    "intent": Task("Classify the intent: cancel, refund, damage, access, other.", 0.90, "refund"),
    "policy": Task(
        "Which paragraph of the cancellation policy applies? Quote it.",
        0.90,
        "Paragraph 3.2: guests who cancel at least five days before check-in receive a refund of all nights "
        "not spent, minus the service fee; the cleaning fee is always returned.",
    ),
    "draft": Task(
        "Write the reply to the guest, in the guest's language.",
        0.90,
        "Dear guest, thank you for writing to us. We are sorry that the flat was not as described. Your host "
        "has agreed to a refund of the two nights you did not stay, which will reach your account within "
        "five working days. Please tell us if there is anything else that we can do for you. " * 2,
    ),
    "safety": Task("Does the draft promise anything that we may not promise? Answer yes or no.", 0.95, "no"),
    "summary": Task(
        "Summarise the case for the file in two sentences.",
        0.85,
        "The guest asked for a refund of two nights because the flat was not as described. The host agreed, "
        "and the refund was promised within five working days.",
    ),
}

MESSAGES = [
    "Bonjour, l'appartement n'avait pas d'eau chaude pendant deux jours. Je voudrais être remboursée.",
    "Hi, I need to cancel my stay from Friday because my flight was cancelled. Is that free of charge?",
    "Hola, el código de la puerta no funciona y el anfitrión no contesta. ¿Qué hago?",
    "こんにちは。チェックインの時間を21時に変更できますか。",
    "안녕하세요, 체크아웃 후에 가방을 맡길 수 있나요?",
    "The host says that I broke the washing machine and wants 900 USD. My lawyer reads along.",
    "Guten Tag, auf der Rechnung fehlt die Umsatzsteuer. Bitte schicken Sie mir eine neue.",
    "您好,房间比照片小很多,我想要部分退款。",
    "Olá, posso levar o meu cão? No anúncio não diz nada.",
    "My passport number is X1234567, my booking is HM88. Please correct the name on it.",
]
#: Messages (by their place) that need the best there is, and that must not leave the machine.
DISPUTES, PERSONAL = {5}, {9}


def played(request: Received) -> Reply:
    """What the loopback server answers in the place of a host."""
    messages = request.body["messages"]
    instruction = messages[0]["content"] if isinstance(messages, list) else ""
    task = next(task for task in TASKS.values() if task.instruction == instruction)
    speed = next(row[3:] for row in HOSTED.values() if row[1] == request.body["model"])
    return Reply(text=task.answer, ttft=speed[0], per_token=speed[1])


def options(place: int, name: str) -> RoutingOptions:
    """How good is good enough for one task of one message."""
    if place in PERSONAL:
        return RoutingOptions(task=name, privacy="private", min_quality=0.3)
    needed = 0.95 if place in DISPUTES and name in ("policy", "draft") else TASKS[name].good_enough
    return RoutingOptions(task=name, min_quality=needed)


async def handle(llm: AsyncRouter, place: int, message: str) -> list[Decision]:
    """Takes one message through its six tasks."""
    decisions = []
    for name, task in TASKS.items():
        completion = await llm.chat.completions.create(
            messages=[{"role": "system", "content": task.instruction}, {"role": "user", "content": message}],
            max_tokens=200 if place not in PERSONAL else 24,
            temperature=0,
            routing=options(place, name),
        )
        decisions.append(completion.routing)
    return decisions


def usd(decision: Decision, premium: HostedModel | None = None) -> float:
    """What a request cost, or would have cost on the premium model."""
    if premium is None:
        return float(decision.cost or 0)
    price = premium.profile().price
    tier = price.tiers[0] if price else None
    last = decision.attempts[-1]
    if tier is None:
        return 0.0
    return ((last.prompt_tokens or 0) * tier.input + (last.completion_tokens or 0) * tier.output) / 1e6


def show(decisions: list[Decision], premium: HostedModel) -> None:
    """The bill, task by task, beside the bill of sending all to the premium model."""
    per_task: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        per_task[decision.features.task or ""].append(decision)
    print(f"{'task':<10}{'median':>9}{'routed':>13}{'premium':>13}   models")
    for name, some in per_task.items():
        took = statistics.median(attempt.duration or 0 for d in some for attempt in d.attempts)
        models = Counter(d.model for d in some)
        names = ", ".join(
            f"{model} ×{count}" if count > 1 else f"{model}" for model, count in models.most_common()
        )
        routed, all_premium = sum(map(usd, some)), sum(usd(d, premium) for d in some)
        print(f"{name:<10}{took * 1000:>6.0f} ms{routed:>9.5f} USD{all_premium:>9.5f} USD   {names}")
    routed, all_premium = sum(map(usd, decisions)), sum(usd(d, premium) for d in decisions)
    print(f"{'':<19}{routed:>9.5f} USD{all_premium:>9.5f} USD   {all_premium / routed:.0f}× cheaper")
    by_family = Counter("Qwen" if (d.model or "").startswith("qwen") else d.model for d in decisions)
    print(
        f"\n{len(decisions)} requests; Qwen answered {by_family['Qwen']} of them, "
        f"{PREMIUM} {by_family[PREMIUM]}."
    )


async def main() -> None:
    with LoopbackServer(played) as server:
        hosts = [
            hosted(server, name, provider=provider, model=model, quality=quality)
            for name, (provider, model, quality, *_) in HOSTED.items()
        ]
        local = LocalModel("smollm2-local", path=smollm2(), quality=0.35)
        say_what_is_real(server, hosts)
        async with AsyncRouter(models=[local, *hosts], policy=Policy(value_of_time=0.0005, explore=0)) as llm:
            cases = [handle(llm, place, message) for place, message in enumerate(MESSAGES)]
            decisions = [decision for case in await asyncio.gather(*cases) for decision in case]
    show(decisions, hosts[-1])
    print("\nWhy did the disputed case's draft go where it went?\n")
    print(next(d for d in decisions if d.model == PREMIUM and d.features.task == "draft").explain())


if __name__ == "__main__":
    asyncio.run(main())
