"""Checks what is installed and what is built; `.ci/run` calls it after the tests.

- lock: every entry of requirements.lock has a SHA-256, what is installed is what the lock says, and what
  pyproject.toml asks for is what the lock gives.
- advisories: no locked version has a known vulnerability, by `.ci/advisories.toml` and, where it can be
  reached, by OSV (https://osv.dev). Where it cannot, that is said: it is no success. With CI_NEEDS_ADVISORIES
  set it is a failure.
- packages: the wheel and the source archive hold what the tree holds, byte for byte, and nothing else; the
  wheel, installed into an environment of its own, can be imported and decides a request.

Needs the standard library only; builds with the hatchling of the interpreter that it checks.
"""

# ruff: noqa: INP001 - a folder that is run, not a package
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from advisories import check_advisories
from common import CheckError
from lock import check_lock
from packages import check_packages

CHECKS: dict[str, Callable[[str], str]] = {
    "lock": check_lock,
    "advisories": check_advisories,
    "packages": check_packages,
}


def main() -> int:
    """Runs all checks, or those that are named; the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="whose environment is checked")
    parser.add_argument("checks", nargs="*", default=list(CHECKS), help=f"some of {', '.join(CHECKS)}")
    asked = parser.parse_args()
    failed = 0
    for name in asked.checks:
        try:
            print(f"{name}: {CHECKS[name](asked.python)}")  # noqa: T201 - its whole output
        except CheckError as error:
            failed += 1
            print(f"{name}: FAILED: {error}")  # noqa: T201 - as above
    return failed


if __name__ == "__main__":
    sys.exit(main())
