"""Writing on another thread: bounded, and over when it is closed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from adapters.local.batching.disk.folder import Data, Folder
from adapters.local.batching.disk.writer import Writer
from tests.adapters.local.kit import until


class SlowFolder(Folder):
    """A disk that takes nothing until it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go, self.asked = threading.Event(), threading.Event()

    def write(self, name: str, parts: Sequence[Data], age: int = 0) -> bool:
        self.asked.set()
        assert self.go.wait(20)
        return super().write(name, parts, age)


def name(number: int) -> str:
    return f"{number:040x}"


def test_what_waits_can_be_read_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    writer = Writer(folder, most=100)
    for number in range(3):
        writer.put(name(number), [b"x" * 60])
    assert writer.full
    assert writer.dropped == 1
    assert writer.waiting(name(1)) == [b"x" * 60]
    assert writer.waiting(name(2)) is None
    folder.go.set()
    until(lambda: not writer.full)
    writer.close(10)
    assert [bytes(folder.read(name(number)) or b"") for number in (0, 1)] == [b"x" * 60] * 2
    assert writer.waiting(name(1)) is None
    assert (writer.full, writer.dropped) == (True, 1)


def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    writer = Writer(folder)
    writer.put(name(1), [b"x"])
    assert folder.asked.wait(20)
    threading.Timer(0.05, folder.go.set).start()
    writer.close(20)
    assert folder.has(name(1))
    assert writer.dropped == 0


def test_closing_does_not_wait_longer_than_it_is_told(tmp_path: Path) -> None:
    folder = SlowFolder(tmp_path)
    writer = Writer(folder)
    for number in range(3):
        writer.put(name(number), [b"x"])
    writer.close(0.05)
    assert writer.dropped == 3
    folder.go.set()
    until(lambda: not any(thread.name == "router-local-disk" for thread in threading.enumerate()))
    assert not folder.has(name(2))


def test_a_writer_that_has_nothing_to_write_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    writer = Writer(Folder(tmp_path))
    assert threading.active_count() == before
    writer.close(1)
