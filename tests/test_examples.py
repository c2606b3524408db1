"""The examples run, offline, and show what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(name: str) -> str:
    """Runs an example without any key in its environment; what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


@pytest.mark.gguf
def test_quickstart_answers_from_a_real_model_and_says_why() -> None:
    printed = output_of("quickstart.py")
    assert "smollm2-135m: the only eligible one of 3" in printed
    assert "credentials: KIMI_DEMO_KEY is not set" in printed
    assert "smollm2-135m  succeeded in" in printed
    assert "first token after" in printed


@pytest.mark.gguf
def test_local_chats_are_answered_together_and_read_their_rules_once() -> None:
    printed = output_of("local_chats.py")
    assert printed.count("prompt tokens known") == 9
    assert sum("   0 of" in line for line in printed.splitlines()) == 1
    assert "All answered in" in printed
    assert re.search(r"A form, .*: \{'guests': \d, 'pet': '(none|dog|cat)'\}", printed)


@pytest.mark.gguf
def test_the_support_agent_uses_the_premium_model_only_where_it_is_needed() -> None:
    printed = output_of("airbnb_support.py")
    assert "60 requests; Qwen answered" in printed
    assert "claude-opus 2." in printed
    assert "× cheaper" in printed
    assert "Played by a loopback server" in printed


def test_the_migration_shows_both_models_side_by_side_and_decides_by_measured_quality() -> None:
    printed = output_of("chamath_migration.py")
    for line in ("cost of the day", "latency, median", "right answers, classify"):
        assert line in printed
    assert "extract    → kimi-k2" in printed
    assert "reason     → claude-opus" in printed


def test_capacity_planning_answers_what_if_without_calling_anything() -> None:
    printed = output_of("capacity_planning.py")
    assert "1. What would 4,000 requests cost" in printed
    assert "9 per second" in printed
    assert "refuses connections" in printed
    assert "objective above the all-knowing chooser's: router" in printed
    assert "nan" not in printed


def test_on_bad_days_nobody_is_lost_and_nothing_is_overspent() -> None:
    printed = output_of("bad_days.py")
    assert printed.count("200 of 200 answered") == 2
    assert (
        "> Your parcel left the warehouse on Monday and will be with you on Wednesday before noon." in printed
    )
    assert re.search(r"continued: qwen3-max went on after 40 characters of kimi-k2", printed)
    assert re.search(r"12 answered, 48 refused", printed)
    assert "300 requests: 300 AllModelsFailedError" in printed
    assert re.search(r"they are back: answered again after [01]\.\d s", printed)
    assert re.search(r"asked: mine \d, east 0", printed)
