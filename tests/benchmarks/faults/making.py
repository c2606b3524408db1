"""The routers of the scenarios."""

from __future__ import annotations

from typing import Any

from router import HostedModel, Price
from tests.benchmarks.faults.control import FaultServer

__all__ = ["CHEAP", "PRICE", "hosted", "three"]

#: What most models cost here.
PRICE = Price(input=0.5, output=1.5)
CHEAP = Price(input=0.1, output=0.3)


def hosted(server: FaultServer, name: str, *, price: Price = PRICE, **options: Any) -> HostedModel:
    """A model on the fault server."""
    return HostedModel(name, base_url=server.base_url, model=name, api_key="none", price=price, **options)


def three(server: FaultServer, **options: Any) -> list[HostedModel]:
    """Three that are alike: ties go to `a`, so that the one which fails is the one that is preferred."""
    return [hosted(server, name, **options) for name in "abc"]
