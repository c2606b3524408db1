"""A process that crashes again and again is left alone for longer and longer, and given another chance."""

from __future__ import annotations

from adapters.local.isolation.crashes import FIRST_PAUSE, LONGEST_PAUSE, WINDOW, Crashes


def crashed(*times: float) -> Crashes:
    crashes = Crashes()
    for time in times:
        crashes.add(time)
    return crashes


def test_one_or_two_crashes_do_not_keep_it_from_starting() -> None:
    assert Crashes().wait(0.0) == 0
    assert crashed(1.0, 2.0).wait(2.0) == 0


def test_the_third_within_a_minute_makes_it_wait() -> None:
    crashes = crashed(0.0, 10.0, 20.0)
    assert crashes.wait(20.0) == FIRST_PAUSE
    assert crashes.wait(40.0) == FIRST_PAUSE - 20
    assert crashes.wait(20.0 + FIRST_PAUSE) == 0


def test_three_crashes_in_a_day_do_not() -> None:
    assert crashed(0.0, 10_000.0, 20_000.0).wait(20_000.0) == 0


def test_a_crash_right_after_a_pause_doubles_it_up_to_the_longest() -> None:
    crashes, now, pauses = crashed(0.0, 1.0, 2.0), 2.0, []
    for _ in range(8):
        pauses.append(crashes.wait(now))
        now += pauses[-1] + 5
        crashes.add(now)
    assert pauses == [30, 60, 120, 240, 480, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_running_well_for_a_while_is_forgiven() -> None:
    later = 3.0 + FIRST_PAUSE + WINDOW + 1
    crashes = crashed(0.0, 1.0, 2.0, later)
    assert crashes.wait(later) == 0
    crashes.add(later + 1)
    assert crashes.wait(later + 1) == 0
    crashes.add(later + 2)
    assert crashes.wait(later + 2) == FIRST_PAUSE
