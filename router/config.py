"""What a router is built from: models, policy, recovery, budgets, ledger."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, SerializeAsAny, field_validator

from router.decision import Candidate
from router.declared import Declared
from router.errors import ConfigurationError, nearest
from router.models import Count, Model, Money, Probability

__all__ = ["Budget", "Policy", "Privacy", "Recovery", "RouterConfig", "RoutingOptions"]

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Privacy = Literal["any", "private"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

#: A configuration is written by hand; a larger file is a mistake.
MOST_TOML_BYTES = 4 * 1024 * 1024


class Policy(Declared):
    """Constraints that must hold, and an objective to minimise.

    The objective is `cost + value_of_time × latency − value_of_quality × quality`, in USD.

    Attributes:
        value_of_time: USD that a second of waiting costs.
        value_of_quality: USD that a good answer is worth over a bad one.
        min_quality: The least probability of a good answer; unknown quality fails it.
        max_cost: USD per request.
        max_latency: Seconds to the end of the answer, kept with probability `confidence`.
        max_ttft: Seconds to the first token, kept with probability `confidence`.
        privacy: "private" admits local models and hosted ones declared private, and nothing else.
        hedge: Start a second attempt on the next candidate when the first is late.
        on_infeasible: "relax" gives up max_latency, max_ttft, min_quality, max_cost, in that order, when no
            model meets them all, and says so; never privacy, capability, context or budget.
        explore: The share of requests that may go to an eligible model that little is known of.
        confidence: The probability with which times are to be kept.
        utility: A pure callable from a candidate to a number to maximise, instead of the objective.
        rank_by: Set by `cheapest`, `fastest` and `best`.
    """

    value_of_time: Weight = 0.001
    value_of_quality: Weight = 0.0
    min_quality: Probability | None = None
    max_cost: Money | None = None
    max_latency: Seconds | None = None
    max_ttft: Seconds | None = None
    privacy: Privacy = "any"
    hedge: bool = False
    on_infeasible: Literal["raise", "relax"] = "raise"
    explore: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    utility: Callable[[Candidate], float] | None = None
    rank_by: Literal["objective", "cheapest", "fastest", "best"] = "objective"

    @classmethod
    def cheapest(cls, *, min_quality: float | None = None, max_latency: float | None = None) -> Self:
        """Sorts by cost, then latency. Explores nothing."""
        return cls(rank_by="cheapest", explore=0.0, min_quality=min_quality, max_latency=max_latency)

    @classmethod
    def fastest(cls, *, min_quality: float | None = None, max_cost: float | None = None) -> Self:
        """Sorts by latency, then cost. Explores nothing."""
        return cls(rank_by="fastest", explore=0.0, min_quality=min_quality, max_cost=max_cost)

    @classmethod
    def best(cls, *, max_cost: float | None = None, max_latency: float | None = None) -> Self:
        """Sorts by quality, then cost. Explores nothing."""
        return cls(rank_by="best", explore=0.0, max_cost=max_cost, max_latency=max_latency)


class Recovery(Declared):
    """What happens when an attempt fails.

    Attributes:
        max_attempts: Attempts per request, all counted; None: the eligible models + 1.
        attempt_timeout: Seconds for one attempt that does not stream.
        ttft_timeout: Seconds to the first visible token of a stream.
        cooldown: Seconds that a failing model is left alone.
        failure_threshold: Failures in a row that make a model a failing one.
        retry_share: Attempts beyond the first, as a share of requests, when models fail.
        max_response_bytes: The most bytes of one answer, decompressed.
        on_interrupt: What to do when a stream breaks after its first token.
    """

    max_attempts: Count | None = None
    attempt_timeout: Seconds = 120.0
    ttft_timeout: Seconds = 30.0
    cooldown: Seconds = 10.0
    failure_threshold: Count = 3
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_response_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    on_interrupt: Literal["raise"] = "raise"


class Budget(Declared):
    """Money that may be spent in a period.

    Attributes:
        usd: How much.
        period: Per calendar hour, day or month in UTC, or in all.
        task: Only requests of this task count; None: all.
        model: Only requests to this model count; None: all.
    """

    usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    period: Literal["hour", "day", "month", "total"] = "day"
    task: str | None = None
    model: str | None = None


class RoutingOptions(Declared):
    """What one request asks of the router.

    Numbers override the policy's; `privacy`, `models` and `exclude` only tighten.

    Attributes:
        task: What kind of request it is; a key of the models' quality tables.
        deadline: Seconds to the very end: queue, load, all attempts and the whole stream.
        min_quality: As the policy's.
        max_cost: As the policy's.
        max_ttft: As the policy's.
        privacy: As the policy's.
        language: ISO 639-1 code of the request's language; None: unknown.
        models: Only these may answer.
        exclude: These may not.
        session: Requests of one conversation carry the same.
        hedge: As the policy's.
        tags: Free labels for the ledger.
    """

    task: str | None = None
    deadline: Seconds | None = None
    min_quality: Probability | None = None
    max_cost: Money | None = None
    max_ttft: Seconds | None = None
    privacy: Privacy | None = None
    language: str | None = None
    models: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    session: str | None = None
    hedge: bool | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)


class RouterConfig(Declared):
    """Everything that a router is built from; `Router(...)`, `from_config` and `from_file` share it.

    Attributes:
        models: At least one; names are unique.
        policy: What to choose by.
        recovery: What to do about failures.
        budget: Money limits, all of which hold.
        ledger: An SQLite file for the durable record; None: in memory.
        keep_text: Whether the ledger keeps prompts and answers.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    models: tuple[SerializeAsAny[Model], ...] = Field(min_length=1)
    policy: Policy = Field(default_factory=Policy)
    recovery: Recovery = Field(default_factory=Recovery)
    budget: tuple[Budget, ...] = ()
    ledger: Path | None = None
    keep_text: bool = False

    @field_validator("budget", mode="before")
    @classmethod
    def _one_or_several(cls, budget: object) -> object:
        if budget is None:
            return ()
        return (budget,) if isinstance(budget, Budget | Mapping) else budget

    @field_validator("models", mode="before")
    @classmethod
    def _from_tables(cls, models: object) -> object:
        from router.loading import model_from_table

        if not isinstance(models, Sequence) or isinstance(models, str | bytes):
            return models
        return tuple(
            model_from_table(model, where=f"models.{place}") if isinstance(model, Mapping) else model
            for place, model in enumerate(models)
        )

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        seen: set[str] = set()
        for model in models:
            if model.name in seen:
                raise ValueError(f"two models are called {model.name!r}; a name is unique in a router")
            seen.add(model.name)
        return models

    def model_post_init(self, _context: object, /) -> None:
        """Checks what needs all the fields at once."""
        names = [model.name for model in self.models]
        for place, budget in enumerate(self.budget):
            if budget.model is not None and budget.model not in names:
                raise ConfigurationError(
                    f"budget.{place}.model = {budget.model!r}: no such model{nearest(budget.model, names)}",
                    field=f"budget.{place}.model",
                    value=repr(budget.model),
                )

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads a TOML file. Paths in it are relative to the file.

        Raises:
            ConfigurationError: if the file cannot be read, is no TOML, or says something wrong.
        """
        file = Path(path)
        try:
            if file.stat().st_size > MOST_TOML_BYTES:
                raise ConfigurationError(f"{file}: larger than {MOST_TOML_BYTES} bytes", field=str(file))
            data = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {file}: {error.strerror or error}", field=str(file)
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(f"{file} is not valid TOML: {error}", field=str(file)) from error
        return cls.parse(_anchored(data, file.parent))


def _anchored(data: dict[str, object], folder: Path) -> dict[str, object]:
    """The configuration with its relative paths made relative to the folder of its file."""
    ledger = data.get("ledger")
    if isinstance(ledger, str):
        data["ledger"] = folder / Path(ledger).expanduser()
    models = data.get("models")
    for model in models if isinstance(models, list) else ():
        for key in ("path", "lora"):
            if isinstance(model, dict) and isinstance(model.get(key), str):
                model[key] = folder / Path(model[key]).expanduser()
    return data
