"""What people read when an engine's process died."""

from __future__ import annotations

import signal

import pytest

from adapters.local.isolation.ending import Ending


def test_a_signal_is_named_with_what_it_mostly_means() -> None:
    told = Ending(-signal.SIGKILL).text("while it answered 2 requests")
    assert told.startswith("its process was killed by SIGKILL while it answered 2 requests")
    assert "ran out of memory" in told
    assert "lower n_ctx" in told


def test_its_last_words_are_told_and_cut() -> None:
    told = Ending(-signal.SIGABRT, last_words="GGML_ASSERT(x) failed " + "y" * 1000).text("while it was idle")
    assert "GGML_ASSERT(x) failed" in told
    assert len(told) < 600


def test_an_exit_code_is_told() -> None:
    told = Ending(1, last_words="ModuleNotFoundError: No module named 'llama_cpp'").text("while it loaded")
    assert "exit code 1 while it loaded" in told
    assert "ModuleNotFoundError" in told


def test_a_process_that_could_not_start_says_why() -> None:
    assert Ending(None, reason="no memory").text("x") == "its process could not be started: no memory"


@pytest.mark.parametrize(
    "code", [-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE, -signal.SIGTERM, -63]
)
def test_every_signal_has_a_text(code: int) -> None:
    assert "killed by" in Ending(code).text("while it was idle")
