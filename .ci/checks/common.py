"""What the checks share: versions and their bounds, markers, other programs."""

# ruff: noqa: INP001 - a folder that is run, not a package
from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_MARKER = re.compile(r"(\w+)\s*(==|!=|<=|>=|<|>)\s*['\"]([^'\"]*)['\"]")
_BOUND = re.compile(r"(==|!=|<=|>=|<|>)\s*([\w.]+)")


class CheckError(Exception):
    """Something is not as it should be."""


def normal(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version; what follows them (rc1, post1) does not matter here."""
    found = re.match(r"\d+(\.\d+)*", version)
    if found is None:
        raise CheckError(f"{version!r} is no version")
    numbers = [int(part) for part in found[0].split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def meets(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as `>=3.54,<4`."""
    said = [bound.strip() for bound in bounds.split(",") if bound.strip()]
    for bound in said:
        parts = _BOUND.fullmatch(bound)
        if parts is None:
            raise CheckError(f"the bound {bound!r} is not understood")
        if not _holds(release(version), parts[1], release(parts[2])):
            return False
    return True


def _holds(left: tuple[int, ...], operator: str, right: tuple[int, ...]) -> bool:
    outcomes = {"==": left == right, "!=": left != right, "<": left < right, ">": left > right}
    outcomes |= {"<=": left <= right, ">=": left >= right}
    return outcomes[operator]


def applies(marker: str | None) -> bool:
    """Whether an entry with such a marker is for this machine and this Python."""
    facts = {
        "sys_platform": sys.platform,
        "platform_system": platform.system(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "python_full_version": platform.python_version(),
    }
    return not marker or any(
        all(_condition(part, facts) for part in choice.split(" and ")) for choice in marker.split(" or ")
    )


def _condition(text: str, facts: Mapping[str, str]) -> bool:
    parts = _MARKER.fullmatch(text.strip())
    if parts is None or parts[1] not in facts:
        raise CheckError(f"the marker {text.strip()!r} is not understood")
    fact, operator, value = facts[parts[1]], parts[2], parts[3]
    if parts[1].startswith("python_"):
        return _holds(release(fact), operator, release(value))
    return (fact == value) is (operator == "==")


def run(command: Sequence[str], **options: object) -> str:
    """What another program prints.

    Raises:
        CheckError: with all that it said, if it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)  # type: ignore[call-overload]  # noqa: S603 - commands of ours
    except (OSError, subprocess.SubprocessError) as error:
        raise CheckError(f"{' '.join(command)[:200]} failed: {error}") from error
    if done.returncode:
        raise CheckError(f"{' '.join(command)[:200]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    told: str = done.stdout
    return told
