"""What a router is built from: models, policy, recovery, budgets, ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import ByteSize, ConfigDict, Field, SecretStr, SerializeAsAny, StrictBool, field_validator

from router.allowances import Budget, RateLimit
from router.declared import Declared
from router.errors import ConfigurationError, nearest
from router.models import Model
from router.options import RoutingOptions
from router.policy import Policy
from router.toml import read_toml
from router.values import Count, Number, Privacy, Seconds
from router.words import is_server

__all__ = ["Budget", "Policy", "Privacy", "RateLimit", "Recovery", "RouterConfig", "RoutingOptions"]


class Recovery(Declared):
    """What happens when an attempt fails.

    Attributes:
        max_attempts: Attempts per request, all counted; None: the eligible models + 1, and as many again of
            those that have answered before.
        attempt_timeout: Seconds for one attempt that does not stream.
        ttft_timeout: Seconds to the first visible token of a stream.
        cooldown: Seconds that a failing model is left alone at first; twice as long after each probe that
            fails, and less again while it answers. What a host asks for, and what only a person can mend,
            lasts longer.
        failure_threshold: Failures in a row that make a model a failing one, unless it fails so often that
            chance makes as many. A share of failing or slow calls that is too high does, too.
        retry_share: Retries in vain that each answered request allows for; a retry asks a model again, or one
            that is failing, or a second one beside the first. A model that works is asked without.
        max_response_bytes: The most bytes of one answer, decompressed.
        on_interrupt: What to do when a stream breaks after its first token: "raise" `StreamInterruptedError`,
            or "continue" it, once, on another model that can go on from the very character (or on the same,
            if no other can). What cannot be continued is raised: several choices, log probabilities, a tool
            call, reasoning that no text has followed yet, answers of a forced form.
    """

    max_attempts: Count | None = None
    attempt_timeout: Seconds = 120.0
    ttft_timeout: Seconds = 30.0
    cooldown: Seconds = 10.0
    failure_threshold: Count = 3
    retry_share: Annotated[float, Number, Field(ge=0, le=1)] = 0.1
    max_response_bytes: Annotated[int, Number, Field(ge=1024, lt=2**63)] = 16 * 1024 * 1024
    on_interrupt: Literal["raise", "continue"] = "raise"


class RouterConfig(Declared):
    """Everything that a router is built from; `Router(...)`, `from_config` and `from_file` share it.

    Attributes:
        models: At least one; names are unique.
        policy: What to choose by.
        recovery: What to do about failures.
        budget: Money limits, all of which hold.
        limits: Requests and tokens per minute and requests at once, of the router or of tasks; all hold.
        ledger: An SQLite file for the durable record; None: in memory.
        keep_text: Whether the ledger keeps prompts and answers (never those of private requests).
        local_memory: Bytes that all local models of the process may take together, as a number or as text
            ("8GiB"); of several routers in one process the least holds. None: what the machine has to spare.
        shared: The URL of a Redis server (`redis://`, `rediss://` for TLS, `unix://`) that keeps budgets and
            rate limits for all routers that name it, on whatever machine; None: the ledger's file does, for
            the processes that use it. `prefix=` among its options tells apart groups that share nothing.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    guarded: ClassVar[bool] = True

    models: tuple[SerializeAsAny[Model], ...] = Field(min_length=1)
    policy: Policy = Field(default_factory=Policy)
    recovery: Recovery = Field(default_factory=Recovery)
    budget: tuple[Budget, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    ledger: Path | None = None
    keep_text: StrictBool = False
    local_memory: Annotated[ByteSize, Field(ge=1, lt=2**63)] | None = None
    shared: SecretStr | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            models: Sequence[Model | Mapping[str, object]],
            policy: Policy | Mapping[str, object] = ...,
            recovery: Recovery | Mapping[str, object] = ...,
            budget: Budget | Sequence[Budget] | None = (),
            limits: RateLimit | Sequence[RateLimit] | None = (),
            ledger: str | Path | None = None,
            keep_text: bool = False,
            local_memory: str | int | None = None,
            shared: str | SecretStr | None = None,
        ) -> None: ...

    @field_validator("budget", "limits", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        if given is None:
            return ()
        return (given,) if isinstance(given, Budget | RateLimit | Mapping) else given

    @field_validator("ledger", mode="before")
    @classmethod
    def _ledger_is_a_file(cls, ledger: object) -> object:
        if ledger in ("", ":memory:"):
            raise ValueError("the path of a file is needed; without one, the ledger is kept in memory")
        return ledger

    @field_validator("shared")
    @classmethod
    def _shared_is_a_url(cls, shared: SecretStr | None) -> SecretStr | None:
        if shared is not None and not is_server(shared.get_secret_value()):
            raise ValueError(
                "the URL of a Redis server is needed: redis://host:6379/0, rediss://... or unix://..."
            )
        return shared

    @field_validator("local_memory", mode="before")
    @classmethod
    def _bytes_or_a_text(cls, size: object) -> object:
        if isinstance(size, bool | float):
            raise ValueError('a whole number of bytes is needed, or a text such as "8GiB"')  # noqa: TRY004 - pydantic wants a ValueError
        return size

    @field_validator("models", mode="before")
    @classmethod
    def _from_tables(cls, models: object) -> object:
        from router.loading import model_from_table

        if isinstance(models, Model | Mapping | str | bytes) or not isinstance(models, Iterable):
            raise ValueError(  # noqa: TRY004 - pydantic wants a ValueError
                "a list of models is needed; in TOML, each begins with [[models]]"
            )
        listed = tuple(
            model_from_table(model, where=f"models.{place}") if isinstance(model, Mapping) else model
            for place, model in enumerate(models)
        )
        if not listed:
            raise ValueError("at least one model is needed")
        return listed

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        seen: set[str] = set()
        for place, model in enumerate(models):
            if model.name in seen:
                raise ConfigurationError(
                    f"models.{place}.name = {model.name!r}: two models are called so; a name is unique",
                    field=f"models.{place}.name",
                    value=repr(model.name),
                )
            seen.add(model.name)
        return models

    def model_post_init(self, _context: object, /) -> None:
        """Checks what needs all the fields at once."""
        names = [model.name for model in self.models]
        scoped = [("budget", place, budget.model) for place, budget in enumerate(self.budget)]
        scoped += [("limits", place, limit.model) for place, limit in enumerate(self.limits)]
        for what, place, model in scoped:
            if model is not None and model not in names:
                raise ConfigurationError(
                    f"{what}.{place}.model = {model!r}: no such model{nearest(model, names)}",
                    field=f"{what}.{place}.model",
                    value=repr(model),
                )

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads a TOML file. Paths in it are relative to the file.

        Raises:
            ConfigurationError: if the file cannot be read, is no TOML, or says something wrong.
        """
        return cls.parse(read_toml(Path(path)))
