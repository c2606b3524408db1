"""Traffic of a real ledger is simulated as it came."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import Policy, RoutingOptions
from router.errors import ConfigurationError
from router.ledger import Ledger
from router.simulate import Recorded, run
from tests.ledger.making import NOON, attempt, decision
from tests.simulate.making import backend


def write(path: Path) -> None:
    """Six requests ten seconds apart, recorded in another order than they came in."""
    ledger = Ledger(path)
    for number in (1, 0, 2, 4, 3, 5):
        odd = number % 2 == 1
        features = {
            "prompt_tokens": 1000 + number,
            "task": "odd" if odd else "even",
            "max_output_tokens": 250 if odd else None,
            "session": "talk" if odd else None,
            "stream": odd,
            "language": "de" if odd else None,
            "sensitivity": "private" if number == 5 else "any",
            "expected_output_tokens": 77.0,
        }
        made = attempt(completion_tokens=100 + number, outcome="failed" if number == 4 else "succeeded")
        ledger.record(decision(number, made, features=features, at=NOON + 10 * number))
    assert ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger.db"
    write(found)
    return found


def test_requests_come_in_the_order_and_at_the_distances_in_which_they_came(path: Path) -> None:
    demands = list(Recorded(path=path).demands("1"))
    assert [demand.at for demand in demands] == [0, 10, 20, 30, 40, 50]
    assert [demand.prompt_tokens for demand in demands] == [1000, 1001, 1002, 1003, 1004, 1005]
    assert [demand.kind.task for demand in demands] == ["even", "odd"] * 3


def test_what_was_asked_and_answered_is_kept(path: Path) -> None:
    demands = list(Recorded(path=path).demands("1"))
    assert [demand.first.length for demand in demands] == [100, 101, 102, 103, 77, 105]
    odd, even = demands[1].kind, demands[0].kind
    assert (odd.max_tokens, odd.request.stream, odd.options.language) == (250, True, "de")
    assert (even.max_tokens, even.request.stream, even.options.language) == (None, False, None)
    assert [demand.session for demand in demands[:2]] == [None, "talk"]
    assert demands[5].kind.options.privacy == "private"
    assert demands[1].expected == pytest.approx(103)
    assert demands[0].kind is demands[2].kind


def test_a_recorded_conversation_begins_with_what_was_said(path: Path) -> None:
    said = [demand.prompt for demand in Recorded(path=path).demands("1") if demand.prompt is not None]
    assert [prompt.total for prompt in said] == [1001, 1003, 1005]
    assert said[1].cuts[:1] == said[0].cuts
    assert said[2].tokens == (1001, 1003, 1005)


def test_a_day_can_be_played_faster_and_under_other_demands(path: Path) -> None:
    recorded = Recorded(path=path, pace=5.0, options={"odd": RoutingOptions(deadline=3.0)})
    demands = list(recorded.demands("1"))
    assert [demand.at for demand in demands] == pytest.approx([0, 2, 4, 6, 8, 10])
    assert [demand.kind.options.deadline for demand in demands] == [None, 3.0] * 3


def test_only_the_newest_can_be_played(path: Path) -> None:
    assert len(list(Recorded(path=path, limit=2).demands("1"))) == 2
    assert len(list(Recorded(path=path, since=NOON + 25).demands("1"))) == 3


def test_recorded_traffic_runs_through_a_simulation(path: Path) -> None:
    recorded = Recorded(path=path)
    report = run(recorded, (backend("a", 1.0, 1.0),), Policy(explore=0.0))
    assert report.requests == 6
    assert report.lost == {"not eligible": 1}  # the private one: the host is not
    lengths = (100, 101, 102, 103, 77)
    assert report.latency.mean == pytest.approx(sum(0.5 + length / 100 for length in lengths) / 5, rel=1e-3)
    assert report == run(recorded, (backend("a", 1.0, 1.0),), Policy(explore=0.0))


def test_an_empty_ledger_is_an_empty_day(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    report = run(Recorded(path=path), (backend(),))
    assert report.requests == 0
    assert "requests" in str(report)


def test_a_ledger_that_is_not_there_is_said_to_be_missing_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nothing.db"
    with pytest.raises(ConfigurationError) as caught:
        run(Recorded(path=path), (backend(),))
    assert caught.value.field == "path"
    assert not path.exists()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and no ledger; " * 100)
    with pytest.raises(ConfigurationError):
        run(Recorded(path=path), (backend(),))
