"""How much memory local models may take when nobody says: what the machine, or its container, can spare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Room", "margin", "room"]

_MIB = 1 << 20
#: Left free, as a share of all memory, within these bounds: the app's own growth, and what a prompt takes
#: while it is computed. A machine without it swaps, or ends a process.
_SHARE, _LEAST_MARGIN, _MOST_MARGIN = 0.05, 256 * _MIB, 2048 * _MIB
#: A limit above this is none: version 1 of control groups writes the largest number it has.
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Room:
    """Memory, in bytes.

    Attributes:
        available: What could be had now without swapping.
        total: Of the machine, or what its container may take.
    """

    available: int
    total: int


def margin(total: int) -> int:
    """Bytes to leave free on a machine with `total`: 5 %, but 256 MiB at least and 2 GiB at most."""
    return int(min(max(_SHARE * total, _LEAST_MARGIN), _MOST_MARGIN))


def room(root: Path = Path("/")) -> Room | None:
    """What there is now: the machine's, or a control group's if that is less. None: nobody can tell.

    Args:
        root: Where `/proc` and `/sys` are.
    """
    found = [one for one in (_machine(root), *_groups(root)) if one is not None]
    if not found:
        return None
    return Room(min(one.available for one in found), min(one.total for one in found))


def _machine(root: Path) -> Room | None:
    try:
        import psutil
    except ImportError:
        return _from_kernel(root)
    memory = psutil.virtual_memory()
    return Room(int(memory.available), int(memory.total))


def _from_kernel(root: Path) -> Room | None:
    """Without psutil, on Linux."""
    figures = _figures(root / "proc" / "meminfo")
    if "MemAvailable:" not in figures or "MemTotal:" not in figures:
        return None
    return Room(figures["MemAvailable:"] * 1024, figures["MemTotal:"] * 1024)


def _groups(root: Path) -> Iterator[Room]:
    """Every limit on this process: its control group's and those of all groups around it."""
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, names = root / "sys/fs/cgroup", _VERSION_2
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", _VERSION_1
        else:
            continue
        place = PurePosixPath(path)
        # A container may see its own group as the root of all: the path is then of another view.
        for group in (place, *place.parents):
            found = _group(base / str(group).lstrip("/"), names)
            if found is not None:
                yield found


#: Files of a control group (its limit, what it uses) and the figures of what it could give back at once.
_VERSION_2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def _group(folder: Path, names: tuple[str, str, tuple[str, str]]) -> Room | None:
    limit, used = _text(folder / names[0]), _text(folder / names[1])
    if not limit.isdecimal() or not used.isdecimal() or int(limit) >= _UNLIMITED:
        return None
    figures = _figures(folder / "memory.stat")
    cached = sum(figures.get(name, 0) for name in names[2])
    return Room(max(0, int(limit) - max(0, int(used) - cached)), int(limit))


def _figures(path: Path) -> dict[str, int]:
    """The first number of every line, by the line's first word."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
