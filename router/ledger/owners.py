"""Who holds reservations, and whether they still live.

A reservation of a process that died would block its money for ever. Each writer therefore signs in with its
process id, a marker of when that process started (ids are used again) and a heartbeat. On the same machine
the process is looked up; elsewhere (another container on a shared volume) only the heartbeat can tell.
"""

from __future__ import annotations

import functools
import os
import platform
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from router.ledger.money import hour_of

__all__ = ["BEAT", "Owner", "is_signed_in", "reap", "release"]

#: Seconds between two heartbeats.
BEAT = 10.0
#: Seconds without one after which a writer that cannot be looked up counts as dead.
EXPIRY = 900.0
#: Hours after which a row that reserves nothing is deleted; by then every living reader has seen it.
FORGET_HOURS = 48


@dataclass(frozen=True, slots=True)
class Owner:
    """A writer, as it signs in."""

    name: str
    place: str
    pid: int
    started: str | None

    @classmethod
    def here(cls, name: str) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(name, _place(), pid, _started(pid))

    def sign(self, connection: sqlite3.Connection, at: float) -> None:
        """Signs in, or says that it still lives; inside a transaction."""
        connection.execute(
            "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?)",
            (self.name, self.place, self.pid, self.started, at),
        )

    def dead(self, beat: float, now: float, *, by_beat: bool = True) -> bool:
        """Whether the process is gone for certain, or, where that cannot be known, silent for too long.

        `by_beat`: whether silence says anything.
        """
        if self.place == _place():
            if not _exists(self.pid):
                return True
            started = _started(self.pid)
            if started is not None and self.started is not None:
                return started != self.started
        # A clock that was set back leaves heartbeats in the future: they are as old as they are far away.
        return by_beat and abs(now - beat) > EXPIRY


def is_signed_in(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a writer is known to live.

    Raises:
        sqlite3.Error: if the file cannot be read.
    """
    return connection.execute("SELECT 1 FROM owners WHERE owner = ?", (name,)).fetchone() is not None


def reap(connection: sqlite3.Connection, now: float, *, but: str, by_beat: bool = True) -> None:
    """Frees what dead writers had reserved. Takes the write lock only if there is one.

    Args:
        connection: To the file.
        now: Unix time in seconds.
        but: The caller's own name.
        by_beat: Whether one that cannot be looked up counts as dead when it is silent for long: not when all
            were stopped together (the machine slept), and the others only had no time to say that they live.

    Raises:
        sqlite3.Error: if the file cannot be read or written.
    """
    rows = connection.execute("SELECT owner, place, pid, started, beat FROM owners").fetchall()
    dead = [row for row in rows if row[0] != but and Owner(*row[:4]).dead(row[4], now, by_beat=by_beat)]
    if not dead:
        return
    connection.execute("BEGIN IMMEDIATE")
    for name, *_, beat in dead:
        # One that cannot be looked up may have shown that it lives while we waited for the lock.
        row = connection.execute("SELECT beat FROM owners WHERE owner = ?", (name,)).fetchone()
        if row is not None and row[0] == beat:
            release(connection, name)
    # The row with the highest seq stays: a seq that was given out must never be given again.
    connection.execute(
        "DELETE FROM money "
        "WHERE owner <> '' AND usd = '0' AND hour < ? AND seq < (SELECT max(seq) FROM money)",
        (hour_of(now) - FORGET_HOURS,),
    )
    connection.execute("COMMIT")


def release(connection: sqlite3.Connection, name: str) -> None:
    """Frees all that a writer had reserved or under way, and signs it out; inside a transaction."""
    connection.execute(
        "UPDATE money SET usd = '0', seq = (SELECT max(seq) FROM money) + 1 WHERE owner = ? AND usd <> '0'",
        (name,),
    )
    connection.execute("DELETE FROM places WHERE owner = ?", (name,))
    connection.execute("DELETE FROM owners WHERE owner = ?", (name,))


@functools.cache
def _place() -> str:
    """What has one set of process ids: a boot of a machine, and within it a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux, or hidden from us
        boot = container = ""
    return f"{platform.node()} {boot} {container}"


def _exists(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it exists, but belongs to somebody else
        return True
    return True


def _started(pid: int) -> str | None:
    """A mark of when a process started; `gone` if it only waits to be buried; None if nobody can tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return _started_by_psutil(pid)
    # The second field is the program's name in parentheses, and may itself hold any of them.
    fields = stat.rpartition(b")")[2].split()
    return "gone" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _started_by_psutil(pid: int) -> str | None:
    try:
        import psutil
    except ImportError:
        return None
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
