"""Three models, one request: the router picks one, says why, and answers. Runs offline.

SmolLM2 runs inside this process. The two hosted models have no keys here, so the router leaves them out and
says so; set KIMI_DEMO_KEY or QWEN_DEMO_KEY to a real key to let them take part.
"""

from __future__ import annotations

from _demo import smollm2

from router import HostedModel, LocalModel, Policy, Router

MODELS = [
    LocalModel("smollm2-135m", path=smollm2(), quality=0.35),
    HostedModel(
        "kimi-k2", provider="moonshot", model="kimi-k2-0905-preview", quality=0.9, api_key_env="KIMI_DEMO_KEY"
    ),
    HostedModel(
        "qwen3-max", provider="dashscope", model="qwen3-max", quality=0.9, api_key_env="QWEN_DEMO_KEY"
    ),
]
QUESTION = "In one short sentence: why is the sky blue?"


def main() -> None:
    with Router(models=MODELS, policy=Policy(value_of_time=0.001)) as llm:
        print("1. What would the router do? (no model is called)\n")
        decision = llm.route(messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0)
        print(decision.explain())

        print("\n2. It answers:\n")
        completion = llm.chat.completions.create(
            messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0
        )
        print(f"{QUESTION}\n> {completion.choices[0].message.content}\n")
        print(completion.routing.explain())

        print("\n3. The same as a stream:\n")
        stream = llm.chat.completions.create(
            messages=[{"role": "user", "content": "Count from one to five."}],
            max_tokens=32,
            temperature=0,
            stream=True,
        )
        print("> ", end="")
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        attempt = stream.routing.attempts[-1]
        first = f"{attempt.ttft * 1000:.0f} ms" if attempt.ttft is not None else "unknown"
        print(f"\n\n{attempt.model}: first token after {first}, {attempt.completion_tokens} tokens")


if __name__ == "__main__":
    main()
