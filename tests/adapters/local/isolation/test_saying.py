"""What an isolated process logs is in the app's log, as it comes and in bounded amounts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from adapters.local.isolation.messages import Said
from adapters.local.isolation.saying import LONGEST, MOST, WINDOW, Forwarding, say
from adapters.local.isolation.wire import pack, unpack
from router.testing import ManualClock
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.isolation.conftest import opened
from tests.adapters.local.kit import until

#: Warns as soon as the process has set its log up.
WARNS = """
import logging

def add(self, handler):
    logging.Logger.addHandler(self, handler)
    if type(handler).__name__ == "Forwarding":
        logging.getLogger("some.library").warning("mind the %s", "gap")
        logging.getLogger("some.library").info("never mind")

logging.RootLogger.addHandler = add
"""


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("some.library", level, "", 0, text, (), None)


@pytest.mark.gguf
def test_a_warning_comes_while_the_process_lives(
    tiny: Tiny,
    engines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "usercustomize.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text(WARNS)
    monkeypatch.syspath_prepend(tmp_path)
    opened(engines(tiny("qwen3")))
    until(lambda: "mind the gap" in caplog.text)
    (said,) = [one for one in caplog.records if "mind the gap" in one.getMessage()]
    assert (said.name, said.levelname) == ("router.local", "WARNING")
    assert said.getMessage() == "m (its process): mind the gap"
    assert "never mind" not in caplog.text


def test_a_flood_is_cut_and_counted() -> None:
    clock, sent = ManualClock(), list[Said]()
    handler = Forwarding(sent.append, clock.now)
    for number in range(MOST + 7):
        handler.handle(record(f"{number}"))
    assert [one.text for one in sent] == [f"{number}" for number in range(MOST)]
    clock.advance(WINDOW)
    handler.handle(record("later", logging.ERROR))
    assert sent[MOST:] == [
        Said(logging.WARNING, "7 records were left out here"),
        Said(logging.ERROR, "later"),
    ]


def test_one_record_is_of_bounded_length_and_crosses() -> None:
    sent = list[Said]()
    Forwarding(sent.append).handle(record("x" * 100_000))
    assert sent == [Said(logging.WARNING, "x" * LONGEST)]
    assert unpack(pack(sent[0])) == sent[0]


def test_what_is_logged_while_sending_is_not_sent() -> None:
    sent = list[Said]()

    def send(said: Said) -> None:
        sent.append(said)
        handler.emit(record("about sending"))

    handler = Forwarding(send)
    handler.handle(record("first"))
    assert [one.text for one in sent] == ["first"]


def test_nonsense_from_a_damaged_process_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    nonsense: Any = Said("high", 5)  # type: ignore[arg-type]  # what a damaged process may send
    say("m", nonsense)
    say("m", Said(logging.WARNING, "100 %s"))
    assert [one.getMessage() for one in caplog.records] == ["m (its process): 100 %s"]
