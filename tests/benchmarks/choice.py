"""How well the router chooses: realised objective beside a chooser that knows everything, on the simulated suite.

`python -m tests.benchmarks.choice` prints what a million requests cost in time and memory; then, for every scenario
of `router.simulate.suite()`, the mean over several seeds of (realised objective ÷ the all-knowing chooser's − 1), for
the router and for what others do, in the same run on the same requests with the same fate. Asked for: at most 5 %
where things are steady, at most 10 % where they drift, and everywhere at least three times below each of the others.
`--quick` makes it short, `--million` ends it after the first part; further arguments name scenarios.
"""

from __future__ import annotations

import sys
import time

import psutil

from router.simulate import BASELINES, CHOOSERS, Comparison, Poisson, Scenario, Workload, compare, run, suite

#: Regret that is asked for, by the kind of scenario.
ASKED = {"steady": 0.05, "drifting": 0.10}
#: Each baseline's regret is to be so many times the router's.
TIMES = 3.0
QUICK = "--quick" in sys.argv
SEEDS = (1, 2) if QUICK else (1, 2, 3, 4, 5)
REQUESTS = 2_000 if QUICK else 10_000


def measured(scenario: Scenario) -> Comparison:
    """All choosers on one scenario."""
    return compare(
        scenario.workload, scenario.backends, scenario.policy, recovery=scenario.recovery, seeds=SEEDS
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def verdicts(scenario: Scenario, found: Comparison) -> list[str]:
    """What is missed; empty if nothing is."""
    missed = []
    regret = found.regret()
    asked = ASKED.get(scenario.kind)
    if asked is not None and regret > asked:
        missed.append(f"regret {regret:.1%} > {asked:.0%}")
    for name in BASELINES:
        if found.regret(name) < TIMES * regret:
            missed.append(
                f"{name} only {found.regret(name) / regret:.1f}×" if regret > 0 else f"{name} is better"
            )
    in_time = [report.in_time for report in found.reports["router"] if report.in_time is not None]
    if in_time and mean(in_time) < 0.95:
        missed.append(f"in time {mean(in_time):.1%} < 95%")
    return missed


def shares_of(found: Comparison, chooser: str) -> str:
    reports = found.reports[chooser]
    means = {name: mean([report.shares[name] for report in reports]) for name in reports[0].shares}
    return ", ".join(f"{name} {share:.0%}" for name, share in means.items() if share >= 0.005)


def print_scenario(scenario: Scenario, found: Comparison) -> bool:
    """Prints one scenario's figures. Returns whether all that was asked is reached."""
    cells = "".join(
        f"{found.regret(name):>12.1%}" if found.regret(name) < 10 else f"{found.regret(name):>11.0f}×"
        for name in ("router", *BASELINES)
    )
    missed = verdicts(scenario, found)
    asked = ASKED.get(scenario.kind)
    label = f"{scenario.name} ({scenario.kind})"
    print(
        f"{label:<30}{'' if asked is None else f'≤ {asked:.0%}':>7}{cells}   {'; '.join(missed) or 'reached'}"
    )
    for chooser in ("router", "all-knowing"):
        reports = found.reports[chooser]
        in_time = [report.in_time for report in reports if report.in_time is not None]
        lost = 1 - mean([report.answered / report.requests for report in reports])
        facts = [
            f"switches {mean([report.switches for report in reports]):.0%}",
            f"explored {mean([report.explored for report in reports]):.1%}",
            *([f"in time {mean(in_time):.1%}"] if in_time else []),
            *([f"lost {lost:.2%}"] if lost else []),
            shares_of(found, chooser),
        ]
        print(f"    {chooser:<12} {'; '.join(facts)}")
    return not missed


def print_million() -> None:
    """Prints time and memory of a long run on five models."""
    requests = 100_000 if QUICK else 1_000_000
    scenario = suite()["kimi migration"]
    workload = Workload(tasks=scenario.workload.tasks, arrivals=Poisson(rate=10), requests=requests)
    process = psutil.Process()
    marks: dict[int, int] = {}

    def progress(number: int) -> None:
        if number in (requests // 10, requests):
            marks[number] = process.memory_info().rss
            print(f"  {number:>9,} requests: {marks[number] / 1e6:.1f} MB resident", flush=True)

    print(f"{requests:,} requests on five models, one core:")
    began = time.process_time()
    report = run(workload, scenario.backends[:5], scenario.policy, seed=1, progress=progress)
    spent = time.process_time() - began
    grown = (marks[requests] - marks[requests // 10]) / 1e6
    print(
        f"  {spent:.0f} s of CPU, {spent / requests * 1e6:.0f} µs per request; memory grew by {grown:+.1f} MB"
    )
    print(f"  {report.seconds / 86_400:.1f} simulated days, {report.cost:,.0f} USD\n")


def main() -> None:
    """Prints the figures."""
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if not names:
        print_million()  # first: what came before it would count as its memory
    if "--million" in sys.argv:
        return
    print(f"objective above the all-knowing chooser's; {REQUESTS:,} requests, mean over {len(SEEDS)} seeds\n")
    print(
        f"{'':<37}"
        + "".join(f"{name:>12}" for name in ("router", "random", "robin", "least busy", "lowest", "cheapest"))
    )
    reached = total = 0
    for name, scenario in suite(requests=REQUESTS).items():
        if names and not any(wanted in name for wanted in names):
            continue
        reached += print_scenario(scenario, measured(scenario))
        total += 1
        sys.stdout.flush()
    print(f"\nreached in {reached} of {total} scenarios ({', '.join(CHOOSERS)})")


if __name__ == "__main__":
    main()
