"""Every behaviour that a file and memory share is tested on both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledger.making import Wall


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where the ledger is; None: in memory."""
    return tmp_path / "ledger.db" if request.param == "file" else None


@pytest.fixture
def wall() -> Wall:
    """Stands at noon."""
    return Wall()
