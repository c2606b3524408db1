"""The ledger's file: its tables, how it is opened, how an older one is brought up to date."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from pathlib import Path

from router.errors import ConfigurationError

__all__ = ["open_file", "open_memory", "open_reader"]

_log = logging.getLogger("router.ledger")

#: Marks a file as ours (SQLite's application_id): "mmrl" in ASCII.
APPLICATION_ID = 0x6D6D726C
#: Seconds to wait for another process's transaction; no more than the end of the interpreter waits for us.
BUSY_TIMEOUT = 2.0

_FIRST = """
CREATE TABLE decisions (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    task TEXT, session TEXT, language TEXT,
    tags TEXT NOT NULL,
    model TEXT,
    reason TEXT NOT NULL,
    notes TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    expected_output_tokens REAL NOT NULL,
    max_output_tokens INTEGER,
    needs TEXT NOT NULL,
    sensitivity TEXT NOT NULL,
    stream INTEGER NOT NULL,
    ranking TEXT NOT NULL,
    ranking_more INTEGER NOT NULL,
    cost TEXT
);
CREATE INDEX decisions_at ON decisions (at);
CREATE TABLE attempts (
    decision INTEGER NOT NULL,
    n INTEGER NOT NULL,
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    ttft REAL, duration REAL,
    prompt_tokens INTEGER, completion_tokens INTEGER, cached_tokens INTEGER,
    cost TEXT, cost_source TEXT,
    error TEXT,
    hedge INTEGER NOT NULL,
    PRIMARY KEY (decision, n)
) WITHOUT ROWID;
CREATE TABLE texts (decision INTEGER PRIMARY KEY, messages TEXT NOT NULL, answer TEXT);
CREATE TABLE feedback (
    n INTEGER PRIMARY KEY, decision_id TEXT NOT NULL, score REAL NOT NULL, at REAL NOT NULL
);
CREATE INDEX feedback_decision ON feedback (decision_id);
CREATE TABLE money (
    hour INTEGER NOT NULL,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    task TEXT NOT NULL,
    usd TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (hour, owner, model, task)
) WITHOUT ROWID;
CREATE INDEX money_seq ON money (seq);
CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    place TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT,
    beat REAL NOT NULL
) WITHOUT ROWID;
"""
# decisions.n is given by the writer, so that attempts refer to an integer and not to a text id.
# money: per UTC hour, model and task, what is settled (owner '') and what each living writer has reserved
# (owner = its name). A writer dies as a whole, so its single reservations need no rows of their own. Rows
# are only set, never deleted while they are young, and each change takes the next seq: whoever has seen
# seq s reads what changed since with one short range scan.

# What predictions learn from. Adding a column rewrites no row, however large the file is.
_WAITS = """
ALTER TABLE attempts ADD COLUMN waited REAL;
ALTER TABLE attempts ADD COLUMN outstanding INTEGER;
ALTER TABLE decisions ADD COLUMN choices INTEGER NOT NULL DEFAULT 1;
CREATE INDEX attempts_model ON attempts (model);
"""

# What processes send to models with limits: per second and owner, and how much of it is under way.
_LIMITS = """
CREATE TABLE sent (
    model TEXT NOT NULL,
    second INTEGER NOT NULL,
    owner TEXT NOT NULL,
    requests INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (model, second, owner)
) WITHOUT ROWID;
CREATE TABLE places (
    model TEXT NOT NULL,
    owner TEXT NOT NULL,
    running INTEGER NOT NULL,
    PRIMARY KEY (model, owner)
) WITHOUT ROWID;
"""

#: The scripts that lead from version i to version i + 1; `user_version` says how many were run.
MIGRATIONS: tuple[str, ...] = (_FIRST, _WAITS, _LIMITS)


def open_file(path: Path) -> sqlite3.Connection:
    """Opens the file for writing, and creates it (mode 0600) or brings it up to date where needed.

    Raises:
        ConfigurationError: if it cannot be opened or written, is no ledger, or is of a newer version.
    """
    try:
        _create(path)
        connection = _connect(path.absolute())
    except ConfigurationError:
        raise
    except (OSError, ValueError, sqlite3.Error) as error:
        raise _unusable(path, str(error)) from error
    try:
        _set_up(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, str(error)) from error
    except ConfigurationError:
        connection.close()
        raise
    return connection


def open_memory() -> sqlite3.Connection:
    """The same tables in memory, gone with the connection."""
    connection = _connect(":memory:")
    _migrate(connection)
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read, and does not put an empty file where ours was taken away.

    Raises:
        sqlite3.Error: if the file cannot be opened.
    """
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    connection.execute("PRAGMA query_only=ON")
    return connection


def _connect(where: Path | str) -> sqlite3.Connection:
    # Transactions are begun by hand (isolation_level None). The connection may be opened on one thread and
    # belong to another one afterwards, but is never used by two.
    return sqlite3.connect(
        where,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        uri=isinstance(where, str),
    )


def _create(path: Path) -> None:
    """Makes a file that only its owner may read; SQLite gives its -wal and -shm the same mode.

    An existing file is never opened here: closing it would drop the locks that another connection of this
    process holds on it (so POSIX has it). One that others may read is closed to them, and the log told.

    Raises:
        ConfigurationError: if somebody put links in the places of its companions.
    """
    path = Path(os.path.realpath(path))  # a link to a file that is not there yet would be followed by SQLite
    companions = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]
    if any(companion.is_symlink() for companion in companions):
        raise _unusable(path, "its -wal, -shm or -journal file is a link, which SQLite never makes")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        for file in (path, *companions):
            _close_to_others(file)


def _close_to_others(file: Path) -> None:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if os.name == "posix" and mode & 0o077 and file.is_file():
            _log.warning("%s could be used by others (mode %04o); now only by its owner", file, mode)
            file.chmod(mode & 0o700)
    except FileNotFoundError:
        return
    except PermissionError:  # it is another user's: then it is theirs to say who may read it
        _log.warning("%s can be used by others, and only its owner can change that", file)


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    # In this order: another process that makes them at this moment commits the mark with the tables.
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != APPLICATION_ID and tables:
        raise _unusable(path, "it is the SQLite file of another program")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    if version < len(MIGRATIONS):
        _migrate(connection)
        _version(connection, path)  # a newer process may have been here first
    # Proves that the file can be written: SQLite opens a read-only one without a word.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many of the scripts were run on the file; a file that knows more of them is refused."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise _unusable(
            path,
            f"it was written by a newer version of this library ({version} > {len(MIGRATIONS)})",
        )
    return version


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches to the write-ahead log. SQLite does not wait by itself when others switch at that moment."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")  # other processes may be here, too: look again inside
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={max(version, len(MIGRATIONS))}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"ledger = {str(path)!r}: cannot be used: {why}", field="ledger", value=str(path)
    )
