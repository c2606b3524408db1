"""Files of older versions: they are brought up to date, once, and nothing in them is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from router.config import Budget
from router.errors import ConfigurationError
from router.ledger import AttemptRow, CandidateRow, Exchange, Ledger, schema
from tests.ledger.making import NOON, attempt, decision, start

HOUR = int(NOON // 3600)
RANKING = '[["a",0.1,0.2,0.3,0.4,-0.1,null]]'


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as version 1 left it."""
    path = tmp_path / "l.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(schema._FIRST)
    connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version=1")
    for n, name in ((1, "first"), (2, "second")):
        row: tuple[object, ...] = (
            n,
            name,
            NOON + n,
            "support",
            "s",
            "ja",
            '{"k":"v"}',
            "a",
            "the cheapest",
            '["relaxed"]',
        )
        row += (10, 20.5, 99, '["tools"]', "any", 1, RANKING, 4, "0.003")
        connection.execute(f"INSERT INTO decisions VALUES ({', '.join('?' * 19)})", row)
        for place, (outcome, error) in enumerate((("failed", "ModelTimeoutError: x"), ("succeeded", None))):
            values = (n, place, "a", outcome, 0.1, 0.5, 11, 7, 3, "0.0015", "usage", error, place == 0)
            connection.execute(f"INSERT INTO attempts VALUES ({', '.join('?' * 13)})", values)
    connection.execute("INSERT INTO texts VALUES (1, '[{\"role\":\"user\"}]', 'hello')")
    connection.execute("INSERT INTO feedback (decision_id, score, at) VALUES ('second', 0.5, ?)", (NOON,))
    connection.execute("INSERT INTO money VALUES (?, '', 'a', 'support', '0.006', 1)", (HOUR,))
    connection.commit()
    connection.close()
    return path


def described(path: Path) -> tuple[int, list[tuple[object, ...]]]:
    """The file's version, and every column of every table."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        columns = connection.execute(
            "SELECT m.name, c.* FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY m.name, c.cid"
        ).fetchall()
    return version, columns


def test_an_old_file_loses_nothing_and_what_it_did_not_know_is_unknown(old: Path) -> None:
    ledger = Ledger(old)
    first, second = ledger.decisions()
    assert (first.id, first.at, first.task, first.session) == ("first", NOON + 1, "support", "s")
    assert (first.language, first.tags, first.notes) == ("ja", {"k": "v"}, ("relaxed",))
    assert (first.prompt_tokens, first.expected_output_tokens, first.max_output_tokens) == (10, 20.5, 99)
    assert first.needs == {"tools"}
    assert (first.sensitivity, first.stream) == ("any", True)
    assert first.ranking == (CandidateRow("a", 0.1, 0.2, 0.3, 0.4, -0.1, None),)
    assert (first.ranking_more, first.cost, first.score) == (4, Decimal("0.003"), None)
    assert first.exchange == Exchange([{"role": "user"}], "hello")
    assert (second.id, second.score, second.exchange) == ("second", 0.5, None)
    assert first.choices == 1
    assert first.attempts == (
        AttemptRow(
            *("a", "failed", 0.1, 0.5, 11, 7, 3, Decimal("0.0015"), "usage", "ModelTimeoutError: x", True),
            waited=None,
            outstanding=None,
        ),
        AttemptRow(
            *("a", "succeeded", 0.1, 0.5, 11, 7, 3, Decimal("0.0015"), "usage", None, False),
            waited=None,
            outstanding=None,
        ),
    )
    assert ledger.spent(by="task") == {"support": Decimal("0.006")}
    assert ledger.close()


def test_an_old_file_goes_on_being_written_and_counts_towards_budgets(old: Path) -> None:
    budget = Budget(usd=1.0, period="total")
    ledger = Ledger(old, [budget])
    assert ledger.left(budget) == Decimal("0.994")
    ledger.record(decision("third", attempt(waited=0.25, outstanding=4), features={"choices": 3}))
    rows = list(ledger.decisions())
    assert [row.id for row in rows] == ["first", "second", "third"]
    assert (rows[2].choices, rows[2].attempts[0].waited, rows[2].attempts[0].outstanding) == (3, 0.25, 4)
    assert [past.choices for past in ledger.recent()] == [1, 1, 1, 1, 3]
    assert ledger.close()


def test_an_old_file_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    Ledger(old).close()
    Ledger(tmp_path / "new.db").close()
    version, columns = described(old)
    assert version == len(schema.MIGRATIONS) == 3
    assert (version, columns) == described(tmp_path / "new.db")


def test_processes_that_open_an_old_file_at_once_all_write_to_it(old: Path, tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from router.ledger import Ledger, schema
        from tests.ledger.making import attempt, decision
        path, go, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
        print("ready", flush=True)
        while not go.exists():
            time.sleep(0.0005)
        ledger = Ledger(path)
        ledger.record(decision(name, attempt(waited=1.5)))
        assert ledger.close(20)
        assert ledger.dropped == 0
    """
    children = [start(code, old, tmp_path / "go", f"child {number}") for number in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    for child in children:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    ledger = Ledger(old)
    rows = {row.id: row.attempts[-1].waited for row in ledger.decisions()}
    assert rows == {"first": None, "second": None, **{f"child {number}": 1.5 for number in range(4)}}
    assert ledger.close()
    assert described(old)[0] == 3


def test_an_old_file_that_cannot_be_brought_up_to_date_is_refused_and_left_as_it_is(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("DROP TABLE decisions")  # the second table that the script changes
    before = described(old)
    with pytest.raises(ConfigurationError, match="no such table"):
        Ledger(old)
    assert described(old) == before


def test_an_old_file_that_is_locked_is_refused_now_and_brought_up_to_date_later(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match="locked"):
            Ledger(old)
    assert described(old)[0] == 1
    ledger = Ledger(old)
    assert len(list(ledger.decisions())) == 2
    ledger.close()


def test_a_newer_process_that_comes_between_wins_and_the_file_is_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        schema, "_migrate", lambda connection: connection.execute("PRAGMA user_version=99") and None
    )
    with pytest.raises(ConfigurationError, match=r"newer version of this library \(99 > 3\)"):
        Ledger(old)


def test_a_newer_process_may_add_columns_while_this_one_goes_on_writing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    ledger.record(decision(1))
    assert ledger.flush()
    with closing(sqlite3.connect(tmp_path / "l.db")) as newer:
        newer.execute("ALTER TABLE decisions ADD COLUMN colour TEXT")
        newer.execute("ALTER TABLE attempts ADD COLUMN taste REAL NOT NULL DEFAULT 1.5")
        newer.execute("PRAGMA user_version=3")
    ledger.record(decision(2, attempt(outstanding=1)))
    assert [row.attempts[0].outstanding for row in ledger.decisions()] == [None, 1]
    assert ledger.close()
    assert ledger.dropped == 0
