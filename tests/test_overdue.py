"""When another model must be asked at the latest so that somebody answers before the deadline."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from router.objective import EVEN, MEASURED_AFTER
from router.overdue import IN_HAND, last_call
from router.profile import HOSTED_SPEED
from router.routing import Routing


class Takes:
    """An estimate: even chances within `usual` seconds, nearly all within `most`."""

    def __init__(self, usual: float, most: float) -> None:
        self.usual, self.most = usual, most

    def work_within(self, probability: float) -> float:
        return self.usual if probability <= EVEN else self.most

    first_within = work_within


def routing_of(*takes: Takes, stream: bool) -> Routing:
    """A decision between measured models, best first."""
    fleet = SimpleNamespace(
        learned=SimpleNamespace(samples=[MEASURED_AFTER] * len(takes)),
        profiles=[SimpleNamespace(speed=HOSTED_SPEED)] * len(takes),
    )
    made: Any = SimpleNamespace(
        request=SimpleNamespace(stream=stream),
        order=range(len(takes)),
        estimate=takes.__getitem__,
        fleet=fleet,
    )
    return cast(Routing, made)


@pytest.mark.parametrize("stream", [False, True])
class TestLastCall:
    def test_the_next_model_gets_what_it_needs_and_a_little_more(self, stream: bool) -> None:
        routing = routing_of(Takes(0.1, 0.2), Takes(0.1, 0.2), stream=stream)
        assert last_call(routing, 0, 1.0) == pytest.approx(1.0 - IN_HAND - 0.2)

    def test_a_model_has_the_time_that_it_nearly_always_keeps_to(self, stream: bool) -> None:
        routing = routing_of(Takes(0.1, 0.85), Takes(0.1, 0.2), stream=stream)
        assert last_call(routing, 0, 1.0) == pytest.approx(0.85)

    def test_one_that_may_take_longer_than_there_is_time_is_left_for_one_that_does_not(
        self, stream: bool
    ) -> None:
        """Nobody would be asked any more if it got all the time that it may need."""
        routing = routing_of(Takes(0.5, 3.0), Takes(0.1, 0.2), stream=stream)
        assert last_call(routing, 0, 1.0) == pytest.approx(1.0 - IN_HAND - 0.2)

    def test_nobody_is_left_for_one_that_would_be_late_too(self, stream: bool) -> None:
        routing = routing_of(Takes(0.5, 0.8), Takes(2.0, 3.0), stream=stream)
        assert last_call(routing, 0, 1.0) == math.inf
        assert last_call(routing, 0, math.inf) == math.inf
