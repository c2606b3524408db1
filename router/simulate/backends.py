"""A declared model with its true behaviour, which only the simulation knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SerializeAsAny

from router.declared import Declared
from router.errors import (
    ConfigurationError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelProtocolError,
)
from router.models import Model
from router.profile import Profile, Speed
from router.simulate.processes import NotNegative, Outages, Positive, Process, Sigma
from router.values import Count, Probability

__all__ = ["Backend", "PromptCache", "check_backends"]

Failing = Literal["server error", "rate limit", "connection", "nonsense"]


class PromptCache(Declared):
    """A host keeps the last prompt of a conversation: what the next one repeats is neither read nor billed.

    Attributes:
        seconds: How long it is kept after it was used.
        hit: The probability that it is found.
    """

    seconds: Positive = 300.0
    hit: Probability = 1.0


class Backend(Declared):
    """A declared model, and how its backend really behaves.

    Price, quality, capabilities and limits are the model's own `profile()`. A key that is not set, an engine
    or a file that is not there makes no difference: nothing is called. The router is told none of the rest:
    it begins with what the profile says of the speed, and learns.

    Attributes:
        model: What the router is told.
        ttft: Mean seconds to the first token of an empty prompt.
        prefill: Prompt tokens per second.
        decode: Output tokens per second.
        noise: Standard deviation of the logarithm of the time that one request takes (mean 1).
        slots: Requests served at once; more wait in the order they came. None: no limit.
        load: Seconds that a model of this machine takes to load at its first request.
        verbosity: Its answers' length, as a factor on the task's.
        token_ratio: Prompt tokens that it counts per token of ours.
        failure: The probability that an attempt fails.
        failure_after: Seconds after which such an attempt fails, if it would last that long.
        failure_kind: How it fails.
        latency_over_time: What its times are multiplied with.
        output_over_time: What its answers' length is multiplied with.
        failure_over_time: What its failure rate is multiplied with.
        outages: When it is out altogether.
        cache: Its prompt cache; None: it has none.
    """

    model: SerializeAsAny[Model]
    ttft: NotNegative = 0.4
    prefill: Positive = 10_000.0
    decode: Positive = 60.0
    noise: Sigma = 0.2
    slots: Count | None = None
    load: NotNegative = 0.0
    verbosity: Positive = 1.0
    token_ratio: Positive = 1.0
    failure: Probability = 0.0
    failure_after: NotNegative = 0.3
    failure_kind: Failing = "server error"
    latency_over_time: tuple[SerializeAsAny[Process], ...] = ()
    output_over_time: tuple[SerializeAsAny[Process], ...] = ()
    failure_over_time: tuple[SerializeAsAny[Process], ...] = ()
    outages: Outages = Field(default_factory=Outages)
    cache: PromptCache | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            model: Model,
            ttft: float = 0.4,
            prefill: float = 10_000.0,
            decode: float = 60.0,
            noise: float = 0.2,
            slots: int | None = None,
            load: float = 0.0,
            verbosity: float = 1.0,
            token_ratio: float = 1.0,
            failure: float = 0.0,
            failure_after: float = 0.3,
            failure_kind: Failing = "server error",
            latency_over_time: Sequence[Process] = (),
            output_over_time: Sequence[Process] = (),
            failure_over_time: Sequence[Process] = (),
            outages: Outages | Mapping[str, object] = ...,
            cache: PromptCache | None = None,
        ) -> None: ...

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def profile(self) -> Profile:
        """The model's profile, without what only a real call needs: a key, an engine, a file."""
        profile = replace(self.model.profile(), unavailable=None, credentials=None)
        if profile.local and "file" in profile.notes:  # it cannot be read, so it cannot tell how large it is
            speed = Speed(
                ttft=self.ttft or 1 / self.decode, prefill=self.prefill, decode=self.decode, load=self.load
            )
            profile = replace(profile, speed=speed, notes={})
        return profile

    def error(self) -> ModelError:
        """What an attempt fails with."""
        name, text = self.name, "the simulated backend failed"
        if self.failure_kind == "server error":
            return ModelHTTPError(text, model=name, status_code=500)
        if self.failure_kind == "rate limit":
            return ModelHTTPError(text, model=name, status_code=429)
        if self.failure_kind == "connection":
            return ModelConnectionError(text, model=name)
        return ModelProtocolError(text, model=name)


def check_backends(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The backends, if a simulation can run on them.

    Raises:
        ConfigurationError: if there are none, one is something else, or two have one name.
    """
    if not isinstance(backends, Sequence) or not backends:
        raise ConfigurationError("a sequence of one or more backends is needed", field="backends")
    for place, backend in enumerate(backends):
        if not isinstance(backend, Backend):
            raise ConfigurationError(
                f"backends.{place}: a Backend is needed, not {type(backend).__name__}; "
                "Backend(model=..., ttft=..., decode=...) says how a model behaves",
                field=f"backends.{place}",
            )
    names = [backend.name for backend in backends]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigurationError(
                f"backends.{place}.model.name = {name!r}: two models are called so; a name is unique",
                field=f"backends.{place}.model.name",
                value=repr(name),
            )
    return tuple(backends)
