"""Models in several processes take turns."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.local.isolation.turn import SharedTurn
from adapters.local.turns import FairLock
from tests.adapters.local.kit import until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no such locks on this system")

ROOT = Path(__file__).parents[4]

STEPS = """
import os, sys, time
from adapters.local.isolation.turn import SharedTurn
turn, name, log = SharedTurn(int(sys.argv[1])), sys.argv[2], os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
for _ in range(60):
    with turn:
        os.write(log, name.encode())
        time.sleep(0.004)
        os.write(log, name.encode())
"""

HOLD = """
import sys, time
from adapters.local.isolation.turn import SharedTurn
SharedTurn(int(sys.argv[1])).__enter__()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def program(text: str, descriptor: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(descriptor), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[descriptor],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_one_process_computes_at_a_time_and_none_starves(descriptor: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    others = [program(STEPS, descriptor, name, str(log)) for name in "ab"]
    for other in others:
        assert other.wait(60) == 0
        other.communicate()
    told = log.read_text()
    steps = [told[place : place + 2] for place in range(0, len(told), 2)]
    assert set(steps) == {"aa", "bb"}  # never two inside at once
    both = steps[
        steps.index("aa" if steps[0] == "bb" else "bb") : min(
            len(steps) - steps[::-1].index(s) for s in ("aa", "bb")
        )
    ]
    changes = sum(one != other for one, other in itertools.pairwise(both))
    assert changes >= 0.8 * (len(both) - 1), told


def test_the_turn_of_a_process_that_was_killed_is_free(descriptor: int) -> None:
    holder = program(HOLD, descriptor)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    with SharedTurn(descriptor):
        pass
    holder.communicate()


def test_a_lock_of_this_process_takes_the_turn_among_processes_too(descriptor: int) -> None:
    lock = FairLock()
    lock.outer = SharedTurn(descriptor)
    with lock:
        waits = program(HOLD, descriptor)
        time.sleep(0.5)
        assert waits.poll() is None
    assert waits.stdout is not None
    assert waits.stdout.readline() == "held\n"
    waits.kill()
    waits.communicate()
    until(lambda: waits.returncode is not None)
