"""Planning before paying: what would this traffic cost, how long would it take, and what if it grew?

Nothing is called: the router's own policy runs on a simulated clock, and the backends behave as they are
declared here. Prices, speeds and qualities are made up for the example. With a ledger of your own,
`router.simulate.Recorded(path="router.db")` in the place of `traffic(...)` plays back what really came.
"""

from __future__ import annotations

from router import HostedModel, LocalModel, Policy, Price, RoutingOptions
from router.simulate import Backend, Diurnal, Outages, Poisson, Report, Task, Workload, compare, run

POLICY = Policy(value_of_time=0.001)
REQUESTS = 4_000
#: What comes in waves of ten minutes.
WAVES = Diurnal(amplitude=0.5, period=600)


def traffic(per_second: float) -> Workload:
    """A support desk: many small tasks, few hard ones."""
    return Workload(
        tasks=(
            Task(name="classify", share=5, prompt_tokens=350, output_tokens=8),
            Task(name="answer", share=4, prompt_tokens=1_200, output_tokens=180, stream=True),
            Task(
                name="refund",
                share=1,
                prompt_tokens=2_500,
                output_tokens=400,
                options=RoutingOptions(min_quality=0.85),
            ),
        ),
        arrivals=Poisson(rate=per_second, over_time=(WAVES,)),
        requests=REQUESTS,
    )


def hosted(name: str, price: tuple[float, float], quality: float, **behaviour: object) -> Backend:
    """A host at USD per million tokens in and out."""
    model = HostedModel(
        name,
        base_url=f"https://{name}.invalid/v1",
        price=Price(input=price[0], output=price[1]),
        quality=quality,
    )
    return Backend.parse({"model": model, **behaviour})


def backends(places: int = 2, **kimi: object) -> tuple[Backend, ...]:
    """A small model on one's own machine with so many places, and three hosts."""
    own = LocalModel("qwen3-4b", path="qwen3-4b.gguf", usd_per_hour=0.35, quality=0.80, preload=True)
    return (
        Backend(model=own, ttft=0.05, prefill=4_000, decode=120, slots=places),
        hosted("qwen3-30b", (0.15, 0.60), 0.84, ttft=0.60, decode=70),
        hosted("kimi-k2", (0.60, 2.50), 0.90, ttft=0.50, decode=110, **kimi),
        hosted("premium", (3.00, 15.0), 0.95, ttft=0.90, decode=75),
    )


def shares(report: Report) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in report.shares.items() if share >= 0.005)


def show(label: str, report: Report) -> None:
    print(
        f"  {label:<26} {1000 * report.mean_cost:6.3f} USD per 1,000, p95 {report.latency.p95:5.2f} s, "
        f"answered {report.answered / report.requests:.1%}: {shares(report)}"
    )


def main() -> None:
    print(f"1. What would {REQUESTS:,} requests cost, and who would answer them?\n")
    print(run(traffic(2.0), backends(), POLICY, seed=1))

    print("\n2. What if traffic grew? (two places on the own machine)\n")
    for per_second in (1.0, 3.0, 9.0):
        show(f"{per_second:g} per second", run(traffic(per_second), backends(), POLICY, seed=1))

    print("\n3. Would a larger machine of one's own pay? (9 requests a second)\n")
    for places in (2, 6, 12):
        show(f"{places} places", run(traffic(9.0), backends(places), POLICY, seed=1))

    print("\n4. What if Kimi's host were out for ten minutes?\n")
    outage = Outages(at=((300.0, 600.0),))
    show("refuses connections", run(traffic(2.0), backends(outages=outage), POLICY, seed=1))

    print("\n5. Is the router worth it? The same requests with the same fate, chosen by others:\n")
    print(
        compare(
            traffic(2.0),
            backends(),
            POLICY,
            choosers=("router", "all-knowing", "round robin", "lowest latency", "cheapest"),
            seeds=(1,),
        )
    )


if __name__ == "__main__":
    main()
