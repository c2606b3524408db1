"""Runs the scenarios: `python -m tests.benchmarks.faults [--only NAME ...] [--scale X] [--speed X]`."""

from __future__ import annotations

import argparse
import importlib
import time

from tests.benchmarks.faults.control import FaultServer
from tests.benchmarks.faults.report import Settings, note, title

#: The scenarios' modules, in the order of the issue's figures.
SCENARIOS = (
    "one_of_three",
    "hedging",
    "cancelling",
    "cutting",
    "money",
    "crash",
    "outage",
    "overload",
    "limits",
)


def main() -> None:
    """Runs what is asked for, each scenario on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--scale", type=float, default=1.0, help="requests, times this")
    parser.add_argument("--speed", type=float, default=4.0, help="how fast time runs in one_of_three")
    given = parser.parse_args()
    settings = Settings(scale=given.scale, speed=given.speed)
    for name in given.only:
        begun = time.monotonic()
        with FaultServer() as server:
            importlib.import_module(f"tests.benchmarks.faults.{name}").run(server, settings)
        note(f"({name} took {time.monotonic() - begun:.0f} s)")
    title("CPU added per call: python -m tests.benchmarks.overhead")


if __name__ == "__main__":
    main()
