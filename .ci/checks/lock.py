"""The lock: every entry has a hash, and the environment and pyproject.toml agree with it."""

# ruff: noqa: INP001 - a folder that is run, not a package
from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common import ROOT, CheckError, applies, meets, normal, run

OURS = "multimodel-router"
#: What an environment holds without being asked.
BROUGHT_ALONG = frozenset({"pip", "setuptools", OURS})

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_LOCKED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*(.*))?")
_WANTED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?\s*([^;]*)(?:;\s*(.*))?")


class Locked(NamedTuple):
    """An entry of the lock that holds on this machine."""

    name: str
    version: str


def read_lock(text: str) -> list[Locked]:
    """The entries of a lock that hold on this machine.

    Raises:
        CheckError: if one has no SHA-256, names no version, or comes twice.
    """
    entries: list[Locked] = []
    for line in text.replace("\\\n", " ").splitlines():
        entry = line.partition(" #")[0].strip()
        if not entry or entry.startswith("#"):
            continue
        said, *hashes = re.split(r"\s+(?=--hash)", entry)
        parts = _LOCKED.fullmatch(said.strip())
        if parts is None:
            raise CheckError(f"requirements.lock: {said!r} is no name with one version")
        if not hashes or not all(_HASH.fullmatch(one.strip()) for one in hashes):
            raise CheckError(f"requirements.lock: {parts[1]} has no SHA-256, or a damaged one")
        if applies(parts[3]):
            entries.append(Locked(normal(parts[1]), parts[2]))
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CheckError(f"requirements.lock has {', '.join(twice)} twice")
    return entries


def check_installed(locked: Sequence[Locked], installed: Mapping[str, str]) -> None:
    """Compares an environment with the lock.

    Raises:
        CheckError: for every distribution that is missing, of another version, or not in the lock.
    """
    wanted = dict(locked)
    wrong = [
        f"{name}: {installed.get(name, 'not')} installed, {version} locked"
        for name, version in wanted.items()
        if installed.get(name) != version
    ]
    wrong += [
        f"{name}: installed, and not in the lock"
        for name in installed
        if name not in wanted and name not in BROUGHT_ALONG
    ]
    if wrong:
        raise CheckError("the environment is not the lock's:\n  " + "\n  ".join(sorted(wrong)))


def check_wanted(project: Mapping[str, Any], locked: Sequence[Locked]) -> None:
    """Compares what pyproject.toml asks for, all extras and the build included, with the lock.

    Raises:
        CheckError: for every requirement that the lock does not meet.
    """
    versions, wrong = dict(locked), []
    for requirement in _requirements(project):
        parts = _WANTED.fullmatch(requirement)
        if parts is None:
            raise CheckError(f"pyproject.toml: {requirement!r} is not understood")
        name, bounds, marker = normal(parts[1]), parts[2], parts[3]
        if name == OURS or not applies(marker):
            continue
        if name not in versions or not meets(versions[name], bounds):
            wrong.append(f"{requirement}: the lock has {versions.get(name, 'none')}")
    if wrong:
        raise CheckError("pyproject.toml asks for what the lock does not give:\n  " + "\n  ".join(wrong))


def _requirements(project: Mapping[str, Any]) -> Iterator[str]:
    yield from project["project"]["dependencies"]
    yield from project["build-system"]["requires"]
    for extra in project["project"].get("optional-dependencies", {}).values():
        yield from extra


def installed_in(python: str) -> dict[str, str]:
    """What an interpreter's environment holds, by name."""
    script = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    told = json.loads(run([python, "-I", "-c", script]))
    return {normal(name): version for name, version in told.items()}


def check_lock(python: str) -> str:
    """See the module; returns what to print."""
    locked = read_lock((ROOT / "requirements.lock").read_text())
    check_wanted(tomllib.loads((ROOT / "pyproject.toml").read_text()), locked)
    check_installed(locked, installed_in(python))
    return f"{len(locked)} distributions, all hashed and installed as locked"
