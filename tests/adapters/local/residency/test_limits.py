"""What there is to spare, as the machine and its containers tell."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from adapters.local.residency import limits
from adapters.local.residency.limits import Room, margin, room

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Room:
    """One with 64 GiB, 40 of them to be had."""
    made = Room(40 * GIB, 64 * GIB)
    monkeypatch.setattr(limits, "_machine", lambda _root: made)
    return made


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_machines_own_figures_are_psutils() -> None:
    found = room()
    assert found is not None
    memory = psutil.virtual_memory()
    assert found.total <= memory.total
    assert 0 < found.available <= found.total


def test_without_psutil_the_kernel_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    write(tmp_path, proc__meminfo="MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nBroken\n")
    assert room(tmp_path) == Room(400 * 1024, 1000 * 1024)
    assert room(tmp_path / "nothing") is None


def test_the_limit_of_a_container_counts_if_it_is_lower(tmp_path: Path, machine: Room) -> None:
    write(
        tmp_path,
        proc__self__cgroup="0::/app.slice/mine\n",
        sys__fs__cgroup__memory_DOT_max="max\n",
        sys__fs__cgroup__memory_DOT_current="1\n",
    )
    group = tmp_path / "sys/fs/cgroup/app.slice/mine"
    group.mkdir(parents=True)
    assert room(tmp_path) == machine
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\nactive_file {GIB // 2}\n")
    assert room(tmp_path) == Room(4 * GIB - 3 * GIB + GIB * 3 // 2, 4 * GIB)
    (group.parent / "memory.max").write_text(f"{2 * GIB}\n")  # a group around it has less
    (group.parent / "memory.current").write_text(f"{GIB}\n")
    assert room(tmp_path) == Room(GIB, 2 * GIB)


def test_a_container_that_sees_its_group_as_the_root_is_limited_too(tmp_path: Path, machine: Room) -> None:
    write(
        tmp_path,
        proc__self__cgroup="0::/seen/from/outside\n",
        sys__fs__cgroup__memory_DOT_max=str(GIB),
        sys__fs__cgroup__memory_DOT_current=str(2 * GIB),
    )
    assert room(tmp_path) == Room(0, GIB)
    assert machine.total > GIB


def test_the_first_version_of_control_groups_counts_too(tmp_path: Path, machine: Room) -> None:
    write(tmp_path, proc__self__cgroup="9:name=systemd:/\n4:cpu,memory:/job\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/memory/job"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group / "memory.usage_in_bytes").write_text("5\n")
    assert room(tmp_path) == machine
    (group / "memory.limit_in_bytes").write_text(str(GIB))
    (group / "memory.stat").write_text("total_inactive_file 2\ntotal_active_file 1\n")
    assert room(tmp_path) == Room(GIB - 2, GIB)


def test_a_share_is_left_free_within_bounds() -> None:
    assert margin(GIB) == 256 * MIB
    assert margin(20 * GIB) == GIB
    assert margin(1000 * GIB) == 2 * GIB
