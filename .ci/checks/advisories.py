"""Known vulnerabilities of what is locked: by a table, and by OSV where it can be reached."""

# ruff: noqa: INP001 - a folder that is run, not a package
from __future__ import annotations

import json
import os
import tomllib
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from common import ROOT, CheckError, meets, normal
from lock import Locked, read_lock

OSV = "https://api.osv.dev/v1/querybatch"
#: Seconds for the one question that goes to the network.
PATIENCE = 10


def check_table(table: Mapping[str, Any], locked: Sequence[Locked]) -> frozenset[str]:
    """Looks for locked versions in a table of advisories.

    Returns:
        The ids of those that are accepted, each for the reason in the table.

    Raises:
        CheckError: for every version that is affected, where that is not accepted.
    """
    versions, wrong, accepted = dict(locked), [], set()
    for row in table.get("advisory", []):
        if not all(row.get(key) for key in ("ids", "package", "affected", "source", "seen")):
            raise CheckError(f"advisories.toml: {row.get('ids')} has no source, date or versions")
        version = versions.get(normal(row["package"]))
        if version is None or not meets(version, row["affected"]):
            continue
        if row.get("accepted"):
            accepted.update(row["ids"])
        else:
            wrong.append(f"{row['package']} {version}: {', '.join(row['ids'])} ({row['source']})")
    if wrong:
        raise CheckError("known vulnerabilities:\n  " + "\n  ".join(wrong))
    return frozenset(accepted)


def ask_osv(locked: Sequence[Locked], url: str = OSV) -> list[tuple[Locked, list[str]]]:
    """What OSV knows of the locked versions, one question for all.

    Raises:
        OSError: if it cannot be reached.
        ValueError: if it answers something else.
    """
    queries = [{"package": {"ecosystem": "PyPI", "name": one.name}, "version": one.version} for one in locked]
    request = urllib.request.Request(  # noqa: S310 - a constant of ours
        url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - as above
        told = json.loads(answer.read(16 << 20))
    results = told.get("results") if isinstance(told, dict) else None
    if not isinstance(results, list) or len(results) != len(locked):
        raise ValueError("OSV's answer has not a result for each question")
    return [
        (one, [vulnerability["id"] for vulnerability in result.get("vulns", [])])
        for one, result in zip(locked, results, strict=True)
    ]


def check_advisories(_python: str, url: str = OSV) -> str:
    """See the module; returns what to print."""
    locked = read_lock((ROOT / "requirements.lock").read_text())
    accepted = check_table(tomllib.loads((ROOT / ".ci" / "advisories.toml").read_text()), locked)
    by_table = f"the table knows nothing else ({len(accepted)} ids accepted with a reason)"
    try:
        found = ask_osv(locked, url)
    except (OSError, ValueError) as error:
        if os.environ.get("CI_NEEDS_ADVISORIES"):
            raise CheckError(f"OSV cannot be asked: {error}") from error
        return f"NOT CHECKED against OSV, which cannot be asked ({error}); {by_table}"
    news = [(one, ids) for one, ids in found if not accepted.issuperset(ids)]
    wrong = [f"{one.name} {one.version}: {', '.join(ids)}" for one, ids in news]
    if wrong:
        raise CheckError("known vulnerabilities, by OSV:\n  " + "\n  ".join(wrong))
    return f"OSV knows nothing of {len(locked)} versions that is not accepted; {by_table}"
