"""What changes over time does so as declared, and the same for every chooser of a seed."""

from __future__ import annotations

import statistics
from itertools import islice, pairwise

import pytest

from router.errors import ConfigurationError
from router.simulate import AtOnce, Bursts, Diurnal, Drift, Outages, Poisson, Regular, Steady
from router.simulate.processes import joined


def test_a_drift_goes_from_one_to_its_factor_in_a_straight_line() -> None:
    path = Drift(factor=3.0, start=100.0, over=50.0).path("x")
    assert [path(at) for at in (0, 99, 100, 125, 150, 1e6)] == [1, 1, 1, 2, 3, 3]


def test_a_drift_over_no_time_is_a_jump() -> None:
    path = Drift(factor=0.5, start=10.0).path("x")
    assert [path(at) for at in (9.99, 10.0, 11.0)] == [1.0, 0.5, 0.5]


def test_two_drifts_make_something_come_and_go() -> None:
    path = joined((Drift(factor=4.0, start=10.0), Drift(factor=0.25, start=20.0), Steady(factor=2.0)), "x")
    assert path is not None
    assert [path(at) for at in (0, 10, 20)] == [2.0, 8.0, 2.0]


def test_a_day_has_its_peak_and_its_night() -> None:
    path = Diurnal(amplitude=0.4, period=100.0, peak=25.0).path("x")
    assert path(25.0) == pytest.approx(1.4)
    assert path(75.0) == pytest.approx(0.6)
    assert path(125.0) == pytest.approx(1.4)
    assert Diurnal(amplitude=0.4, period=100.0).most == pytest.approx(1.4)


def test_bursts_take_the_share_of_time_that_their_means_say() -> None:
    path = Bursts(factor=5.0, every=30.0, lasting=10.0).path("seed")
    values = [path(at / 2) for at in range(400_000)]
    assert set(values) == {1.0, 5.0}
    assert statistics.fmean(value == 5.0 for value in values) == pytest.approx(0.25, abs=0.02)


def test_bursts_are_the_same_for_one_seed_and_others_for_another() -> None:
    bursts = Bursts(factor=2.0, every=5.0, lasting=5.0)
    one, again, other = (
        [path(at / 10) for at in range(2000)]
        for path in (bursts.path("1"), bursts.path("1"), bursts.path("2"))
    )
    assert one == again
    assert one != other


def test_outages_hold_in_their_windows_only() -> None:
    out = Outages(at=((10.0, 5.0), (30.0, 1.0))).path("x")
    assert [at for at in range(40) if out(at)] == [10, 11, 12, 13, 14, 30]


def test_random_outages_come_and_go() -> None:
    out = Outages(every=50.0, lasting=50.0).path("x")
    assert statistics.fmean(out(at) for at in range(100_000)) == pytest.approx(0.5, abs=0.05)


def test_poisson_arrivals_have_their_rate_and_spread() -> None:
    times = list(islice(Poisson(rate=4.0).times("x"), 20_000))
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.03)


def test_a_rate_that_changes_is_followed() -> None:
    arrivals = Poisson(rate=10.0, over_time=(Drift(factor=3.0, start=1000.0),))
    times = list(islice(arrivals.times("x"), 40_000))
    assert sum(time < 1000 for time in times) == pytest.approx(10_000, rel=0.03)
    assert sum(1000 <= time < 2000 for time in times) == pytest.approx(30_000, rel=0.03)


def test_a_rate_that_falls_to_nothing_ends_the_arrivals() -> None:
    times = list(Poisson(rate=100.0, over_time=(Drift(factor=0.0, start=1.0),)).times("x"))
    assert times
    assert max(times) < 1.0


def test_a_flood_comes_after_what_was_before_it() -> None:
    arrivals = AtOnce(at=25.0, before=Regular(every=10.0))
    assert list(islice(arrivals.times("x"), 5)) == [0.0, 10.0, 20.0, 25.0, 25.0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Poisson(rate=-1.0),
        lambda: Poisson(rate=0.0),
        lambda: Poisson(rate=float("nan")),
        lambda: Poisson(rate=float("inf")),
        lambda: Poisson(rate=True),
        lambda: Regular(every=0.0),
        lambda: Drift(factor=-0.5),
        lambda: Diurnal(amplitude=1.5),
        lambda: Diurnal(amplitude=0.5, period=0.0),
        lambda: Bursts(factor=2.0, every=0.0, lasting=1.0),
        lambda: Bursts(factor=2.0, every=1e-300, lasting=1.0),
        lambda: Outages(at=((1.0, 0.0),)),
        lambda: Outages(every=10.0),
        lambda: Outages.parse({"kind": "explodes"}),
        lambda: Outages.parse({"wen": 3}),
    ],
)
def test_nonsense_is_refused_with_the_field_named(build: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build()  # type: ignore[operator]  # a table of constructors
    assert caught.value.field
