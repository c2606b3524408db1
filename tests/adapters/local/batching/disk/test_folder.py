"""Blobs on disk: private, bounded, and never trusted."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from adapters.local.batching.disk.folder import Folder

BODY = bytes(range(256)) * 4
resource = pytest.importorskip("resource")


def name(number: int) -> str:
    return f"{number:040x}"


def files(path: Path) -> list[Path]:
    return sorted(path.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def test_what_was_written_is_read_by_another_one(path: Path) -> None:
    assert Folder(path).write(name(1), [BODY, b"more"])
    other = Folder(path)
    assert other.has(name(1))
    assert bytes(other.read(name(1)) or b"") == BODY + b"more"
    assert not other.has(name(2))
    assert other.read(name(2)) is None


def test_nothing_is_made_before_there_is_something_to_write(path: Path) -> None:
    folder = Folder(path)
    assert folder.read(name(1)) is None
    assert not path.exists()


def test_nobody_else_may_look_into_it(path: Path) -> None:
    Folder(path).write(name(1), [BODY])
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(path)] == [0o600]


@pytest.mark.parametrize("left", [0, 5, 20, 500, 1043])
def test_a_truncated_one_is_removed_with_a_warning(
    path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(path)
    folder.write(name(1), [BODY])
    os.truncate(files(path)[0], left)
    assert folder.read(name(1)) is None
    assert "is damaged; it is removed" in caplog.text
    assert files(path) == []


@pytest.mark.parametrize("place", [0, 8, 17, 20, 700])
def test_one_wrong_bit_is_found(path: Path, place: int) -> None:
    folder = Folder(path)
    folder.write(name(1), [BODY])
    data = bytearray(files(path)[0].read_bytes())
    data[place] ^= 0x10
    files(path)[0].write_bytes(data)
    assert folder.read(name(1)) is None
    assert files(path) == []


def test_links_and_folders_in_its_place_are_not_read(path: Path, tmp_path: Path) -> None:
    folder = Folder(path)
    folder.write(name(1), [BODY])
    files(path)[0].rename(tmp_path / "elsewhere")
    (path / f"{name(1)}.state").symlink_to(tmp_path / "elsewhere")
    (path / f"{name(2)}.state").mkdir()
    assert folder.read(name(1)) is None
    assert folder.read(name(2)) is None
    assert (tmp_path / "elsewhere").exists()


def test_the_least_recently_used_make_room(path: Path) -> None:
    folder = Folder(path, limit=10_000)
    for number in range(9):
        assert folder.write(name(number), [BODY])
        assert folder.has(name(0))  # used again and again
    assert folder.write(name(9), [BODY])
    assert sum(file.stat().st_size for file in files(path)) <= 10_000
    assert folder.has(name(0))
    assert not folder.has(name(1))
    assert folder.has(name(9))


def test_the_end_of_a_sequence_makes_room_before_its_beginning(path: Path) -> None:
    folder = Folder(path, limit=10_000)
    for age in range(9):
        folder.write(name(age), [BODY], age)
    folder.write(name(100), [BODY])
    assert folder.has(name(0))
    assert not folder.has(name(8))


def test_several_of_them_keep_one_limit(path: Path) -> None:
    several = [Folder(path, limit=64_000) for _ in range(3)]
    for number in range(300):
        several[number % 3].write(name(number), [BODY])
    assert 40_000 < sum(file.stat().st_size for file in files(path)) < 70_000


def test_one_that_is_larger_than_the_limit_pushes_nobody_out(path: Path) -> None:
    folder = Folder(path, limit=2000)
    folder.write(name(1), [BODY])
    assert not folder.write(name(2), [BODY * 2])
    assert folder.has(name(1))


def test_files_of_others_stay(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_bytes(b"mine")
    (path / "model.state").write_bytes(b"mine")
    folder = Folder(path, limit=2000)
    for number in range(5):
        folder.write(name(number), [BODY])
    assert (path / "notes.txt").read_bytes() == (path / "model.state").read_bytes() == b"mine"


def test_what_a_crash_left_half_written_is_removed(path: Path) -> None:
    path.mkdir()
    old, fresh = (path / f"{name(1)}.{number:016x}.partial" for number in range(2))
    for file in (old, fresh):
        file.write_bytes(BODY)
    long_ago = time.time() - 10_000
    os.utime(old, (long_ago, long_ago))
    Folder(path).write(name(2), [BODY])
    assert not old.exists()
    assert fresh.exists()  # somebody may be writing it


def test_a_disk_without_room_is_a_warning_and_then_left_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        assert not folder.write(name(1), [BODY])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not folder.write(name(2), [BODY])  # not tried again at once
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be saved" in caplog.text
    assert files(path) == []


def test_some_of_the_disk_is_left_to_others(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(path, spare=shutil.disk_usage(path.parent).total)
    assert not folder.write(name(1), [BODY])
    assert "the disk is full" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    folder = Folder(tmp_path / "file" / "sessions")
    assert not folder.has(name(1))
    assert folder.read(name(1)) is None
    assert not folder.write(name(1), [BODY])
    assert "cannot be saved" in caplog.text


def test_many_at_once_never_read_half_of_one(path: Path) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        folder = Folder(path, limit=30_000)
        for turn in range(150):
            number = (turn * 7 + seed) % 40
            folder.write(name(number), [number.to_bytes(2, "little") * 700])
            number = (turn * 11 + seed) % 40
            body = folder.read(name(number))
            if body not in (None, number.to_bytes(2, "little") * 700):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(file.suffix == ".state" for file in files(path))
