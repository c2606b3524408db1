"""What this process may compute with: its physical cores, the fast ones among them, its container's share."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["Machine", "machine"]

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
#: Arm's slow cores have at most this share of the fastest one's capacity.
_ALIKE = 0.8


class Machine:
    """What this process may compute with.

    Attributes:
        cores: Physical cores that it may run on.
        fast: Of these, the performance cores; equal to `cores` where all are alike, or the system tells none.
        quota: Cores' worth of time that its container is allowed; infinite without a limit.
    """

    def __init__(self, cores: int, fast: int | None = None, quota: float = math.inf) -> None:
        self.cores = max(cores, 1)
        self.fast = min(max(fast or self.cores, 1), self.cores)
        self.quota = quota

    @property
    def most(self) -> int:
        """The most threads that can be of use."""
        return max(1, min(self.cores, math.ceil(min(self.quota, self.cores))))


def machine() -> Machine:
    """What this process may compute with, as far as the system tells."""
    usable = _usable()
    if sys.platform == "darwin":
        return Machine(_sysctl("hw.physicalcpu") or usable, _sysctl("hw.perflevel0.physicalcpu"))
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(usable)
    cores = _cores(cpus)
    if cores is None:
        return Machine(min(_physical() or usable, usable), quota=_quota())
    return Machine(len(cores), len(_fast(cores)), _quota())


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _physical() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.cpu_count(logical=False) or 0) or None


def _cores(cpus: Iterable[int], root: Path = _CPUS) -> dict[str, int] | None:
    """One CPU of each physical core that may be used, by the core; None if the system does not tell."""
    cores: dict[str, int] = {}
    for cpu in cpus:
        siblings = _text(root / f"cpu{cpu}/topology/thread_siblings_list")
        if not siblings:
            return None
        cores.setdefault(siblings, cpu)
    return cores or None


def _fast(cores: Mapping[str, int], root: Path = _CPUS) -> list[int]:
    """CPUs on performance cores; all where the system knows of no difference."""
    listed = _text(root.parent.parent / "cpu_core/cpus")  # Intel's hybrids
    if listed:
        fast = _ranges(listed)
        found = [cpu for cpu in cores.values() if cpu in fast]
        return found or list(cores.values())
    capacity = {cpu: _number(_text(root / f"cpu{cpu}/cpu_capacity")) for cpu in cores.values()}  # Arm's
    most = max(capacity.values())
    return [cpu for cpu, able in capacity.items() if able >= _ALIKE * most]


def _ranges(text: str) -> set[int]:
    """`0-3,8` as numbers."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        with suppress(ValueError):
            found.update(range(int(first), int(last or first) + 1))
    return found


def _quota(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that the cgroups above this process allow it; infinite without a limit."""
    allowed = math.inf
    for line in _text(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _quota_v1
        else:
            continue
        # A container may not see its own path, but only what is mounted as the root.
        inner = base / path.strip("/")
        for folder in {base, inner, *inner.parents}:
            if folder.is_relative_to(base):
                allowed = min(allowed, read(folder))
    return allowed


def _quota_v2(folder: Path) -> float:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _number(quota) / _number(period) if _number(quota) > 0 and _number(period) > 0 else math.inf


def _quota_v1(folder: Path) -> float:
    quota, period = (_number(_text(folder / f"cpu.cfs_{what}_us")) for what in ("quota", "period"))
    return quota / period if quota > 0 and period > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _sysctl(name: str) -> int | None:
    """A number that macOS's kernel tells; None if it knows no such thing."""
    value, size = ctypes.c_int32(), ctypes.c_size_t(4)
    try:
        ask = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError):
        return None
    failed = ask(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed or value.value < 1 else int(value.value)
