"""What a router that starts learns from: the newest attempts, quickly, and never an error."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router.errors import ModelConnectionError, ModelHTTPError, ModelTimeoutError
from router.ledger import Exchange, Ledger, PastAttempt, recent, schema
from router.ledger.rows import INSERT_ATTEMPT, INSERT_DECISION, attempt_rows, decision_row
from tests.ledger.making import NOON, attempt, candidate, decision, run


@pytest.fixture
def ledger(path: Path | None) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    assert ledger.close()


def names(ledger: Ledger, *arguments: Any, **named: Any) -> list[str]:
    return [past.model for past in ledger.recent(*arguments, **named)]


class TestWhatIsTold:
    def test_an_attempt_comes_with_what_its_request_looked_like(self, ledger: Ledger) -> None:
        ledger.record(
            decision(
                1,
                attempt("b", waited=0.25, outstanding=3, hedge=True, cost_source="estimate"),
                features={
                    "task": "support",
                    "prompt_tokens": 12,
                    "max_output_tokens": 99,
                    "choices": 2,
                    "stream": True,
                },
            )
        )
        assert ledger.recent() == (
            PastAttempt(
                model="b",
                task="support",
                at=NOON,
                counted_tokens=12,
                max_output_tokens=99,
                choices=2,
                stream=True,
                outcome="succeeded",
                ttft=0.1,
                duration=0.5,
                waited=0.25,
                outstanding=3,
                prompt_tokens=11,
                completion_tokens=7,
                cached_tokens=3,
                cost_source="estimate",
                error=None,
                hedge=True,
            ),
        )
        assert ledger.unread is None

    def test_unknown_is_none_and_never_zero(self, ledger: Ledger) -> None:
        unknown: dict[str, Any] = dict.fromkeys(
            ("ttft", "duration", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_source")
        )
        ledger.record(decision(1, attempt(cost=None, outcome="failed", **unknown)))
        (past,) = ledger.recent()
        assert (past.ttft, past.duration, past.waited, past.outstanding) == (None,) * 4
        assert (past.prompt_tokens, past.completion_tokens, past.cached_tokens, past.cost_source) == (
            None,
        ) * 4
        assert (past.task, past.max_output_tokens, past.error) == (None,) * 3
        assert (past.choices, past.stream, past.hedge) == (1, False, False)

    def test_an_error_is_told_by_its_kind_also_that_of_a_private_request(self, ledger: Ledger) -> None:
        errors = (
            ModelTimeoutError("late: 3 s", model="a"),
            ModelHTTPError("overloaded", model="a", status_code=503, code="busy"),
            ModelConnectionError("", model="a"),
        )
        for sensitivity in ("any", "private"):
            features = {"sensitivity": sensitivity}
            made = [attempt(error=error) for error in errors]
            ledger.record(decision(sensitivity, *made, features=features))
        kinds = ["ModelTimeoutError", "ModelHTTPError", "ModelConnectionError"]
        assert [past.error for past in ledger.recent()] == kinds * 2

    def test_no_text_of_a_request_is_told(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.db", keep_text=True)
        said = Exchange([{"role": "user", "content": "about Ada"}], "Ada is well")
        error = ModelConnectionError("about Ada", model="a")
        ledger.record(
            decision(1, attempt(error=error), features={"session": "Ada"}, tags={"who": "Ada"}),
            exchange=said,
        )
        assert "Ada" not in repr(ledger.recent())
        ledger.close()


class TestWhichOnes:
    def test_attempts_come_oldest_first_the_newest_so_many(self, ledger: Ledger) -> None:
        for number in range(40):
            ledger.record(decision(number, attempt(f"{number} first"), attempt(f"{number} second")))
        assert len(names(ledger)) == 80
        assert names(ledger, 3) == ["38 second", "39 first", "39 second"]
        assert names(ledger, most=1) == ["39 second"]

    @pytest.mark.parametrize("most", [0, -1, -(10**30)])
    def test_nothing_is_told_to_who_asks_for_nothing(self, ledger: Ledger, most: int) -> None:
        ledger.record(decision(1))
        assert ledger.recent(most) == ()

    def test_any_number_may_be_asked_for(self, ledger: Ledger) -> None:
        ledger.record(decision(1))
        assert len(ledger.recent(10**30)) == 1

    def test_what_a_limit_refused_or_what_still_runs_tells_nothing(self, ledger: Ledger) -> None:
        ledger.record(
            decision(
                1,
                attempt("refused", outcome="refused"),
                attempt("running", outcome="running"),
                attempt("cancelled, nobody knows when", outcome="cancelled", duration=None),
                attempt("cancelled", outcome="cancelled"),
                attempt("failed", outcome="failed"),
                attempt("succeeded"),
            )
        )
        ledger.record(decision(2, attempt("refused", outcome="refused")))
        assert names(ledger) == ["cancelled", "failed", "succeeded"]
        assert names(ledger, 2) == ["failed", "succeeded"]

    def test_a_decision_recorded_again_counts_once(self, ledger: Ledger) -> None:
        ledger.record(decision(1, attempt("a"), attempt("b")))
        ledger.record(decision(1, attempt("c")))
        assert names(ledger) == ["c"]

    def test_only_those_since_a_time_are_told_whatever_the_clock_did(self, ledger: Ledger) -> None:
        for number, at in enumerate((NOON, NOON + 10, NOON - 86_400, NOON + 20, 0.0, NOON + 5)):
            ledger.record(decision(number, attempt(str(number)), at=at))
        assert names(ledger, since=NOON + 5) == ["1", "3", "5"]
        assert names(ledger, 2, since=NOON + 5) == ["3", "5"]
        assert names(ledger, since=NOON + 21) == []
        assert names(ledger, since=-math.inf) == ["0", "1", "2", "3", "4", "5"]
        assert names(ledger, since=math.inf) == names(ledger, since=math.nan) == []

    def test_what_was_queued_before_is_told(self, ledger: Ledger) -> None:
        for number in range(3):
            ledger.record(decision(number, attempt(str(number))))
            assert names(ledger, 1) == [str(number)]


class TestLargeFiles:
    @staticmethod
    def filled(connection: sqlite3.Connection, first: int, last: int, **fields: Any) -> None:
        """Writes decisions of one attempt each as the ledger writes them."""
        kept = [
            decision(n, attempt(**fields), ranking=(candidate(),), at=NOON + n)
            for n in range(first, last + 1)
        ]
        numbered = list(enumerate(kept, first))
        connection.execute("BEGIN")
        connection.executemany(INSERT_DECISION, [decision_row(n, one) for n, one in numbered])
        connection.executemany(INSERT_ATTEMPT, [row for n, one in numbered for row in attempt_rows(n, one)])
        connection.execute("COMMIT")

    @staticmethod
    def steps(connection: sqlite3.Connection, most: int, since: float | None = None) -> int:
        """Instructions of SQLite's machine that reading takes, by hundreds."""
        counted = [0]

        def count() -> int:
            counted[0] += 1
            return 0

        connection.set_progress_handler(count, 100)
        recent.recent(connection, most, since)
        connection.set_progress_handler(None, 0)
        return counted[0]

    def test_reading_follows_the_keys_and_sorts_nothing(self) -> None:
        with closing(schema.open_memory()) as connection:
            for query in (recent._ANY_TIME, recent._SINCE):
                values = {"most": 1, "looked": 2, "since": NOON}
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
                assert "SEARCH a USING PRIMARY KEY (decision>?)" in plan
                assert "SEARCH d USING INTEGER PRIMARY KEY (rowid=?)" in plan
                assert not any("TEMP B-TREE" in step for step in plan), plan

    def test_a_file_ten_times_as_large_takes_no_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recent, "PASSED_OVER", 300)
        with closing(schema.open_memory()) as connection:
            self.filled(connection, 1, 1_000)
            cases = [(200, None), (200, NOON), (200, NOON + 1e9), (200, -math.inf)]
            small = [self.steps(connection, *case) for case in cases]
            self.filled(connection, 1_001, 10_000)
            assert [self.steps(connection, *case) for case in cases] == pytest.approx(small, rel=0.1, abs=2)

    @pytest.mark.parametrize("since", [None, NOON])
    def test_however_many_were_refused_looking_for_others_ends(
        self, monkeypatch: pytest.MonkeyPatch, since: float | None
    ) -> None:
        monkeypatch.setattr(recent, "PASSED_OVER", 300)
        with closing(schema.open_memory()) as connection:
            self.filled(connection, 1, 100)
            self.filled(connection, 101, 350, outcome="refused")
            assert len(recent.recent(connection, 100, since)) == 100
            self.filled(connection, 351, 5_000, outcome="refused")
            assert recent.recent(connection, 100, since) == ()
            took = self.steps(connection, 100, since)
            self.filled(connection, 5_001, 20_000, outcome="refused")
            assert self.steps(connection, 100, since) == pytest.approx(took, rel=0.1, abs=2)

    def test_decisions_without_an_attempt_cost_nothing_and_hide_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recent, "PASSED_OVER", 10)
        with closing(schema.open_memory()) as connection:
            self.filled(connection, 1, 50)
            took = self.steps(connection, 20)
            self.filled(connection, 51, 3_000, outcome="refused")
            connection.execute("DELETE FROM attempts WHERE decision > 50")
            assert len(recent.recent(connection, 20, None)) == 20
            assert self.steps(connection, 20) == pytest.approx(took, rel=0.1, abs=2)


class TestStarting:
    def test_a_new_file_and_a_new_memory_have_no_past(self, ledger: Ledger) -> None:
        assert ledger.recent() == ()
        assert ledger.unread is None

    def test_reading_at_the_start_begins_no_thread(self, tmp_path: Path) -> None:
        def threads() -> set[threading.Thread]:
            return {thread for thread in threading.enumerate() if thread.name == "router-ledger"}

        before = Ledger(tmp_path / "l.db")
        before.record(decision(1))
        before.close()
        running = threads()
        ledger = Ledger(tmp_path / "l.db")
        assert len(ledger.recent()) == 1
        assert len(list(ledger.decisions())) == 1
        assert ledger.spent() == {"": Decimal("0.001")}
        assert threads() <= running
        ledger.close()

    def test_a_memory_that_was_never_used_loads_no_sqlite(self) -> None:
        code = """
            import sys
            from router.ledger import Ledger, PastAttempt
            ledger = Ledger(None)
            assert ledger.recent() == ()
            print("sqlite3" in sys.modules)
        """
        assert run(code).strip() == "False"

    def test_the_past_of_a_closed_ledger_can_be_read_from_its_file_alone(self, path: Path | None) -> None:
        ledger = Ledger(path)
        ledger.record(decision(1))
        ledger.close()
        if path is None:
            assert ledger.recent() == ()
            assert "RouterClosedError" in str(ledger.unread)
        else:
            assert len(ledger.recent()) == 1

    def test_other_processes_past_is_told_too(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "l.db")
        run(
            """
            import sys
            from pathlib import Path
            from router.ledger import Ledger
            from tests.ledger.making import attempt, decision
            ledger = Ledger(Path(sys.argv[1]))
            ledger.record(decision("theirs", attempt("b")))
            ledger.close()
            """,
            tmp_path / "l.db",
        )
        assert names(ledger) == ["b"]
        ledger.close()


class TestFilesThatFail:
    @pytest.fixture
    def ledger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
        monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
        before = Ledger(tmp_path / "l.db")
        for number in range(200):
            before.record(decision(number))
        before.close()
        ledger = Ledger(tmp_path / "l.db")
        yield ledger
        ledger.close()

    def fails(self, ledger: Ledger, caplog: pytest.LogCaptureFixture, why: str) -> None:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "router.ledger"):
            assert ledger.recent() == ()
        assert why in str(ledger.unread)
        (record,) = caplog.records
        assert (record.levelname, why in record.getMessage()) == ("WARNING", True)

    def test_a_file_that_lost_a_table_has_no_past_until_it_is_mended(
        self, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "l.db")) as other:
            other.execute("ALTER TABLE attempts RENAME TO lost")
            self.fails(ledger, caplog, "no such table")
            other.execute("ALTER TABLE lost RENAME TO attempts")
        assert len(ledger.recent()) == 200
        assert ledger.unread is None

    def test_a_damaged_file_has_no_past(
        self, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (tmp_path / "l.db").open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        self.fails(ledger, caplog, "DatabaseError")

    def test_a_file_that_is_gone_has_no_past_and_is_not_made_again(
        self, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for file in list(tmp_path.iterdir()):
            file.unlink()
        self.fails(ledger, caplog, "unable to open")
        assert list(tmp_path.iterdir()) == []

    def test_a_text_that_is_none_has_no_past(
        self, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "l.db")) as other, other:
            other.execute("UPDATE attempts SET model = CAST(x'ff' AS TEXT) WHERE decision = 7")
        self.fails(ledger, caplog, "decode")

    def test_another_process_that_writes_does_not_disturb(self, ledger: Ledger, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "l.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("DELETE FROM attempts")
            assert len(ledger.recent()) == 200

    def test_a_writer_that_hangs_leaves_no_past(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("router.ledger.reports.READ_WAITS", 0.01)
        held = threading.Event()
        ledger.record(decision("x"))
        waiting = threading.Thread(target=lambda: ledger._visit(lambda _: held.wait(20), 20))
        waiting.start()
        try:
            self.fails(ledger, caplog, "TimeoutError")
        finally:
            held.set()
            waiting.join()

    @pytest.mark.parametrize(
        "change",
        [
            "attempts SET ttft = 9e999, duration = -1.0, waited = 'soon', outstanding = -1",
            "attempts SET prompt_tokens = 'many', completion_tokens = -7, cached_tokens = 1.5",
            "attempts SET ttft = x'00', duration = '', outstanding = 9e999, cost_source = 'hearsay'",
            "decisions SET max_output_tokens = 'all', choices = 0, task = x'00', stream = 'yes'",
            "decisions SET choices = -3, max_output_tokens = 2.5",
            "decisions SET choices = 'some'",
        ],
    )
    def test_numbers_that_make_no_sense_are_unknown(
        self, ledger: Ledger, tmp_path: Path, change: str
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "l.db")) as other, other:
            other.execute(f"UPDATE {change}")
        found = ledger.recent()
        assert len(found) == 200
        for past in found:
            for seconds in (past.ttft, past.duration, past.waited):
                assert seconds is None or 0 <= seconds < math.inf
            for count in (past.outstanding, past.prompt_tokens, past.completion_tokens, past.cached_tokens):
                assert count is None or (isinstance(count, int) and count >= 0)
            assert past.choices == 1
            assert past.max_output_tokens is None
            assert past.task is None
            assert past.cost_source in (None, "usage")

    @pytest.mark.parametrize(
        "change", ["at = 9e999", "at = 'noon'", "prompt_tokens = 'few'", "prompt_tokens = -1"]
    )
    def test_an_attempt_whose_request_makes_no_sense_is_left_out(
        self, ledger: Ledger, tmp_path: Path, change: str
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "l.db")) as other, other:
            other.execute(f"UPDATE decisions SET {change} WHERE n <= 50")
        assert len(ledger.recent()) == 150
