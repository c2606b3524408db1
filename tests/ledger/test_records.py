"""Decisions and outcomes: what is kept, and what never is."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router.decision import Ranking
from router.errors import ModelConnectionError, ModelHTTPError, RouterClosedError
from router.ledger import AttemptRow, CandidateRow, Exchange, Ledger
from tests.ledger.making import NOON, attempt, candidate, decision

SECRET = "the patient's name is Ada"


@pytest.fixture
def ledger(path: Path | None) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    assert ledger.close()


def test_a_decision_comes_back_as_it_was(ledger: Ledger) -> None:
    failed = attempt(
        "b",
        None,
        ModelConnectionError("refused", model="b"),
        ttft=None,
        hedge=True,
        waited=0.25,
        outstanding=2,
    )
    ledger.record(
        decision(
            "x",
            failed,
            attempt("a", "0.00000000012"),
            ranking=(candidate("a"), candidate("b", cost=None, rejected_because="price: unknown")),
            features={
                "task": "support",
                "session": "s",
                "language": "ja",
                "needs": frozenset({"tools", "seed"}),
                "max_output_tokens": 99,
                "stream": True,
                "choices": 4,
            },
            notes=("relaxed: max_latency",),
            tags={"tenant": "ü"},
            cost=Decimal("0.00000000012"),
        )
    )
    (row,) = ledger.decisions()
    assert (row.id, row.model, row.at, row.reason) == ("x", "a", NOON, "the cheapest")
    assert (row.task, row.session, row.language) == ("support", "s", "ja")
    assert (row.prompt_tokens, row.expected_output_tokens, row.max_output_tokens) == (10, 20.5, 99)
    assert row.needs == {"tools", "seed"}
    assert (row.stream, row.choices) == (True, 4)
    assert row.notes == ("relaxed: max_latency",)
    assert row.tags == {"tenant": "ü"}
    assert row.cost == Decimal("0.00000000012")
    assert row.ranking[1] == CandidateRow("b", None, 0.2, 0.3, 0.4, -0.1, "price: unknown")
    assert row.attempts[0] == AttemptRow(
        *("b", "failed", None, 0.5, 11, 7, 3, None, "usage", "ModelConnectionError: refused"),
        hedge=True,
        waited=0.25,
        outstanding=2,
    )
    assert row.attempts[1].cost == Decimal("0.00000000012")
    assert (row.attempts[1].waited, row.attempts[1].outstanding) == (None, None)
    assert (row.score, row.exchange) == (None, None)


def test_unknown_is_none_and_never_zero(ledger: Ledger) -> None:
    ledger.record(decision(1, attempt(cost=None, prompt_tokens=None), model=None, cost=None))
    (row,) = ledger.decisions()
    assert (row.cost, row.model, row.task, row.attempts[0].cost, row.attempts[0].prompt_tokens) == (None,) * 5


def test_feedback_joins_its_decision_and_the_newest_counts(ledger: Ledger) -> None:
    ledger.feedback("1", 0.0, NOON)  # even before the decision itself
    ledger.record(decision(1))
    ledger.record(decision(2))
    ledger.feedback("1", 1.0, NOON + 1)
    assert [row.score for row in ledger.decisions()] == [1.0, None]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_feedback_that_is_no_number_is_refused(ledger: Ledger, score: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ledger.feedback("1", score, NOON)


def test_decisions_are_read_in_order_the_newest_so_many_and_since_a_time(ledger: Ledger) -> None:
    for number in range(1_203):  # more than two pages
        ledger.record(decision(number, at=NOON + number))
    assert [row.id for row in ledger.decisions()] == [str(number) for number in range(1_203)]
    assert [row.id for row in ledger.decisions(limit=2)] == ["1201", "1202"]
    assert [row.id for row in ledger.decisions(since=NOON + 1_200)] == ["1200", "1201", "1202"]
    assert [row.id for row in ledger.decisions(limit=1, since=NOON + 1_200)] == ["1202"]
    assert list(ledger.decisions(limit=0)) == []


def test_totals_tell_what_each_model_and_task_came_to(ledger: Ledger) -> None:
    error = ModelConnectionError("no", model="b")
    ledger.record(decision(1, attempt("b", None, error), attempt("a", "0.1"), features={"task": "t"}))
    ledger.record(decision(2, attempt("a", "0.2"), at=NOON + 10))
    totals = ledger.totals(by="model")
    assert (totals["a"].attempts, totals["a"].succeeded, totals["a"].cost) == (2, 2, Decimal("0.3"))
    assert (totals["a"].prompt_tokens, totals["a"].completion_tokens) == (22, 14)
    assert (totals["b"].succeeded, totals["b"].unpriced) == (0, 1)
    assert ledger.totals(by="task", until=NOON + 10)["t"].attempts == 2
    assert ledger.totals(since=NOON + 10)[""].cost == Decimal("0.2")


def test_text_is_kept_only_if_it_is_wanted(path: Path | None) -> None:
    said = Exchange([{"role": "user", "content": SECRET}], "hello")
    for keep in (False, True):
        ledger = Ledger(path, keep_text=keep)
        ledger.record(decision(f"keep {keep}"), exchange=said)
        row = list(ledger.decisions())[-1]
        assert row.exchange == (said if keep else None)
        ledger.close()


def test_a_private_request_leaves_no_text_in_the_file_not_even_in_an_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db", keep_text=True)
    error = ModelHTTPError(f"bad: {SECRET}", model="a", status_code=400, code="bad_request")
    odd = ModelHTTPError(f"bad: {SECRET}", model="a", status_code=400, code=SECRET)
    ledger.record(
        decision(1, attempt(error=error), attempt(error=odd), features={"sensitivity": "private"}),
        exchange=Exchange([{"role": "user", "content": SECRET}], SECRET),
    )
    (row,) = ledger.decisions()
    assert [one.error for one in row.attempts] == ["ModelHTTPError 400 bad_request", "ModelHTTPError 400"]
    assert row.exchange is None
    ledger.flush()
    for file in tmp_path.iterdir():
        assert b"Ada" not in file.read_bytes(), file.name
    ledger.close()


def test_a_long_error_is_shortened(ledger: Ledger) -> None:
    ledger.record(decision(1, attempt(error=ModelConnectionError("x" * 5_000, model="a"))))
    (row,) = ledger.decisions()
    assert len(row.attempts[0].error or "") == 300


def test_of_many_candidates_the_first_are_kept_and_the_rest_counted(ledger: Ledger) -> None:
    ledger.record(decision(1, ranking=tuple(candidate(f"m{n}") for n in range(100))))
    (row,) = ledger.decisions()
    assert [one.model for one in row.ranking] == [f"m{n}" for n in range(32)]
    assert row.ranking_more == 68


def test_numbers_and_letters_that_json_or_utf8_lack_do_no_harm(ledger: Ledger) -> None:
    ledger.record(
        decision(
            1,
            ranking=(candidate("a", cost=math.inf, utility=math.nan),),
            features={"task": "lone \ud800 surrogate"},
            tags={"k": "\ud800"},
        )
    )
    (row,) = ledger.decisions()
    assert (row.ranking[0].cost, row.ranking[0].utility) == (None, None)
    assert row.task == "lone ? surrogate"


def test_a_row_that_cannot_be_written_is_dropped_alone(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Ranking):
        def candidates(self, most: int | None = None) -> Any:
            raise ZeroDivisionError

        def __len__(self) -> int:
            return 1

    ledger.record(decision(1))
    ledger.record(decision(2, features={"prompt_tokens": 10**40}))
    ledger.record(decision(3, ranking=Broken()))  # type: ignore[arg-type]  # what a ranking must never be
    ledger.record(decision(4))
    assert [row.id for row in ledger.decisions()] == ["1", "4"]
    assert ledger.dropped == 2
    assert "ZeroDivisionError" in caplog.text


def test_memory_keeps_the_newest_ten_thousand() -> None:
    ledger = Ledger(None)
    for number in range(10_300):
        ledger.record(decision(number))
        ledger.feedback(str(number), 1.0, NOON)
    rows = list(ledger.decisions())
    assert len(rows) == 10_000
    assert rows[-1].id == "10299"
    assert rows[0].attempts
    ledger.close()


def test_a_decision_recorded_again_replaces_the_first(ledger: Ledger) -> None:
    ledger.record(decision(1, attempt("a"), attempt("b")))
    ledger.record(decision(1, attempt("c")))
    (row,) = ledger.decisions()
    assert [one.model for one in row.attempts] == ["c"]


def test_what_is_written_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    ledger.record(decision(1))
    ledger.close()
    assert [row.id for row in ledger.decisions()] == ["1"], "a closed ledger's file can still be read"
    again = Ledger(tmp_path / "l.db")
    assert [row.id for row in again.decisions()] == ["1"]
    again.close()


def test_after_closing_decisions_are_counted_as_dropped(ledger: Ledger) -> None:
    ledger.record(decision(1))
    ledger.close()
    ledger.record(decision(2))
    ledger.feedback("1", 1.0, NOON)
    assert ledger.dropped == 2
    assert ledger.flush()


def test_a_closed_ledger_in_memory_says_that_it_is_closed() -> None:
    ledger = Ledger(None)
    ledger.close()
    with pytest.raises(RouterClosedError):
        list(ledger.decisions())


def test_other_programs_can_read_the_money_as_plain_decimals(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    ledger.record(decision(1, attempt(cost="0.0000001"), cost=Decimal("1E-7")))
    ledger.close()
    connection = sqlite3.connect(tmp_path / "l.db")
    assert connection.execute("SELECT cost FROM decisions").fetchone() == ("0.0000001",)
    assert connection.execute("SELECT usd FROM money").fetchone() == ("0.0000001",)
    connection.close()
