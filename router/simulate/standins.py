"""The models and the adapter that stand for simulated backends in a router's core."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import PrivateAttr

from router.adapter import AdapterSettings, Call, Load
from router.models import Model
from router.profile import Profile
from router.simulate.hosts import Host

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["HostedStandIn", "LocalStandIn", "create", "stand_in"]


def stand_in(host: Host) -> Model:
    """The model that stands for a backend."""
    return (LocalStandIn if host.local else HostedStandIn).of(host)


class HostedStandIn(Model):
    """Stands for a hosted model in a world: the same to the router, and never called."""

    adapter: ClassVar[str] = "hosted"
    _profile: Profile = PrivateAttr(default_factory=Profile)

    @classmethod
    def of(cls, host: Host) -> Self:
        """The stand-in of a backend."""
        made = cls(host.truth.backend.name)
        made._profile = host.truth.profile
        return made

    def profile(self) -> Profile:
        """As declared."""
        return self._profile


class LocalStandIn(HostedStandIn):
    """Stands for a model of this machine: the router asks how busy it is, a simulated engine answers."""

    adapter: ClassVar[str] = "simulated"
    _host: Host | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, host: Host) -> Self:
        """The stand-in of a backend."""
        made = super().of(host)
        made._host = host  # noqa: SLF001 - its own kind
        return made

    @property
    def host(self) -> Host:
        """The engine."""
        if self._host is None:
            raise TypeError("a stand-in is built by the simulation")
        return self._host


class _Engine:
    """Tells how busy a simulated engine is. Nothing else is ever asked of it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def load(self) -> Load:
        """As `Adapter`."""
        return self._host.load()

    async def complete(self, call: Call) -> ChatCompletion:
        """Never called: the world serves the attempts itself."""
        raise NotImplementedError

    def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Never called: the world serves the attempts itself."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Holds nothing."""


def create(model: Model, settings: AdapterSettings) -> _Engine:
    """The adapter of a stand-in."""
    del settings
    if not isinstance(model, LocalStandIn):
        raise TypeError(f"the simulated adapter serves stand-ins, not {type(model).__name__}")
    return _Engine(model.host)
