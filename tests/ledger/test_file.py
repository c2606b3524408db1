"""The file: how it is made, who may read it, and what is not accepted as one."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from router.config import Budget
from router.errors import ConfigurationError
from router.ledger import Ledger
from tests.ledger.making import decision, run


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_only_the_owner_may_read_the_file_and_its_companions(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "l.db")
        ledger.record(decision())
        ledger.flush()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        ledger.close()
    finally:
        os.umask(before)
    assert modes == {"l.db": 0o600, "l.db-wal": 0o600, "l.db-shm": 0o600}


def test_the_file_uses_the_write_ahead_log_and_knows_its_version(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.db").close()
    connection = sqlite3.connect(tmp_path / "l.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()


def test_a_strange_name_is_a_file_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=ro", "mit leerzeichen ü.db"):
        ledger = Ledger(Path(name))
        ledger.record(decision())
        ledger.close()
        assert (tmp_path / name).stat().st_size > 0


def _another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (x)")
    connection.commit()
    connection.close()


def _newer(path: Path) -> None:
    Ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("this is a letter and no database " * 100), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
        (_another_program, "another program"),
        (_newer, "newer version"),
    ],
)
def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "l.db"
    assert callable(make)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigurationError, match=why) as caught:
        Ledger(path)
    assert (caught.value.field, caught.value.value) == ("ledger", str(path))
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_folder_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Ledger(tmp_path / "missing" / "l.db")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory"):
        Ledger(tmp_path / "file" / "l.db")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "l.db").close()
    (tmp_path / "l.db").chmod(0o400)
    with pytest.raises(ConfigurationError, match="readonly"):
        Ledger(tmp_path / "l.db")


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "l.db").touch(0o644)
    Ledger(tmp_path / "l.db").close()
    assert stat.S_IMODE((tmp_path / "l.db").stat().st_mode) == 0o600


def test_importing_the_ledger_or_keeping_an_unused_one_in_memory_loads_no_sqlite() -> None:
    code = """
        import sys
        from router.ledger import Ledger
        ledger = Ledger(None)
        ledger.close()
        print("sqlite3" in sys.modules)
    """
    assert run(code).strip() == "False"


def test_a_ledger_that_nobody_holds_any_more_writes_what_it_has_and_ends_its_thread(tmp_path: Path) -> None:
    code = """
        import gc, sys, threading, time
        from pathlib import Path
        from router.ledger import Ledger
        from tests.ledger.making import decision
        ledger = Ledger(Path(sys.argv[1]))
        ledger.record(decision())
        del ledger
        gc.collect()
        end = time.monotonic() + 20
        while any(thread.name == "router-ledger" for thread in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.01)
    """
    run(code, tmp_path / "l.db")
    ledger = Ledger(tmp_path / "l.db")
    assert len(list(ledger.decisions())) == 1
    ledger.close()


def test_two_ledgers_on_one_file_in_one_process_do_not_take_each_others_locks(tmp_path: Path) -> None:
    path, budget = tmp_path / "l.db", Budget(usd=1)
    first = Ledger(path, [budget])
    Ledger(path, [budget]).close()
    first.record(decision(1))
    first.flush()
    run(
        """
        import sys
        from pathlib import Path
        from router.ledger import Ledger
        Ledger(Path(sys.argv[1])).close()
        """,
        path,
    )
    first.record(decision(2))
    first.flush()
    assert len(list(first.decisions())) == 2
    first.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
