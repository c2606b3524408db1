"""What a router is built from: models, policy, recovery, budgets, ledger."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypedDict, Unpack

from pydantic import ByteSize, ConfigDict, Field, SecretStr, SerializeAsAny, StrictBool, field_validator

from router.decision import Candidate
from router.declared import Declared
from router.errors import ConfigurationError, nearest
from router.models import Count, Language, Model, Money, Number, Probability
from router.words import is_server

__all__ = ["Budget", "Policy", "Privacy", "RateLimit", "Recovery", "RouterConfig", "RoutingOptions"]

Seconds = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
Privacy = Literal["any", "private"]
Weight = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]

#: A configuration is written by hand; a larger file is a mistake.
MOST_TOML_BYTES = 4 * 1024 * 1024
#: Parts of a dotted key; ours have three.
MOST_KEY_PARTS = 40
_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)"""  # a part and its dot
    rf"{{{MOST_KEY_PARTS}}}"
)


class Constraints(TypedDict, total=False):
    """What must hold of a choice, whatever it is sorted by; see `Policy`."""

    min_quality: float | None
    max_cost: float | None
    max_latency: float | None
    max_ttft: float | None
    privacy: Privacy
    on_infeasible: Literal["raise", "relax"]
    confidence: float
    hedge: bool


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
    hedge: StrictBool = False
    on_infeasible: Literal["raise", "relax"] = "raise"
    explore: Annotated[float, Number, Field(ge=0, le=0.5)] = 0.02
    confidence: Annotated[float, Number, Field(ge=0.5, lt=1)] = 0.95
    utility: Callable[[Candidate], float] | None = None
    rank_by: Literal["objective", "cheapest", "fastest", "best"] = "objective"

    @classmethod
    def cheapest(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by cost, then latency. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "cheapest", "explore": 0.0, **constraints})

    @classmethod
    def fastest(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by latency, then cost. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "fastest", "explore": 0.0, **constraints})

    @classmethod
    def best(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by quality, then cost. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "best", "explore": 0.0, **constraints})


class Recovery(Declared):
    """What happens when an attempt fails.

    Attributes:
        max_attempts: Attempts per request, all counted; None: the eligible models + 1, and as many again of
            those that have answered before.
        attempt_timeout: Seconds for one attempt that does not stream.
        ttft_timeout: Seconds to the first visible token of a stream.
        cooldown: Seconds that a failing model is left alone.
        failure_threshold: Failures in a row that make a model a failing one.
        retry_share: Attempts beyond the first, as a share of requests, when models fail.
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


class Budget(Declared):
    """Money that may be spent in a period.

    Attributes:
        usd: How much.
        period: Per calendar hour, day or month in UTC, or in all.
        task: Only requests of this task count; None: all.
        model: Only requests to this model count; None: all.
    """

    usd: Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
    period: Literal["hour", "day", "month", "total"] = "day"
    task: str | None = None
    model: str | None = None


class RateLimit(Declared):
    """What may be sent in a minute and at once, besides what models declare for themselves.

    Requests beyond it wait, in the order in which they came; those that could not be in time are refused with
    `OverloadedError`. Processes that share a ledger's file share it. Every attempt counts.

    Attributes:
        rpm: Requests per minute.
        tpm: Tokens per minute, prompts and answers together.
        max_concurrency: Requests at once.
        task: Only requests of this task count; None: all.
        model: Only requests to this model count; None: all.
    """

    rpm: Count | None = None
    tpm: Count | None = None
    max_concurrency: Count | None = None
    task: str | None = None
    model: str | None = None

    def model_post_init(self, _context: object, /) -> None:
        """Checks that it limits anything."""
        if self.rpm is self.tpm is self.max_concurrency is None:
            raise ConfigurationError(
                "a rate limit needs rpm, tpm or max_concurrency: without any it limits nothing", field="rpm"
            )


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
    language: Language | None = None
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    exclude: tuple[str, ...] = ()
    session: str | None = None
    hedge: StrictBool | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            task: str | None = None,
            deadline: float | None = None,
            min_quality: float | None = None,
            max_cost: float | None = None,
            max_ttft: float | None = None,
            privacy: Privacy | None = None,
            language: str | None = None,
            models: Sequence[str] | None = None,
            exclude: Sequence[str] = (),
            session: str | None = None,
            hedge: bool | None = None,
            tags: Mapping[str, str] = ...,
        ) -> None: ...


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
        file = Path(path)
        try:
            text = _read(file)
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {file}: {error.strerror or error}", field=str(file)
            ) from error
        try:
            # Some editors begin a UTF-8 file with a byte order mark.
            data = tomllib.loads(_sane(text.decode("utf-8-sig").replace("\r\n", "\n")))
        except (ValueError, RecursionError) as error:
            # Not `from error`: some of them carry the file's content, and there may be keys in it.
            trouble = str(error)
        else:
            return cls.parse(_anchored(data, file.parent))
        raise ConfigurationError(f"{file} is not valid TOML: {trouble}", field=str(file))


def _sane(text: str) -> str:
    """A text that tomllib can read: a key of very many parts takes it the square of their number in memory.

    Raises:
        ValueError: if it has one.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MOST_KEY_PARTS} parts")
    return text


def _read(file: Path) -> bytes:
    """A file's content. Anything but a file is refused: reading from a pipe could wait for ever."""
    if not file.is_file():
        file.stat()  # says why, if it is because there is nothing
        raise OSError(None, "it is no regular file")
    with file.open("rb") as stream:
        text = stream.read(MOST_TOML_BYTES + 1)
    if len(text) > MOST_TOML_BYTES:
        raise OSError(None, f"it is larger than {MOST_TOML_BYTES} bytes")
    return text


def _anchored(data: dict[str, object], folder: Path) -> dict[str, object]:
    """The configuration with its relative paths made relative to the folder of its file."""
    models = data.get("models")
    _anchor(data, "ledger", folder)
    for model in models if isinstance(models, list) else ():
        for key in ("path", "lora", "session_dir"):
            if isinstance(model, dict):
                _anchor(model, key, folder)
    return data


def _anchor(table: dict[str, object], key: str, folder: Path) -> None:
    path = table.get(key)
    if isinstance(path, str) and path:
        try:
            table[key] = folder / Path(path).expanduser()
        except RuntimeError as error:
            raise ConfigurationError(f"{key} = {path!r}: {error}", field=key, value=repr(path)) from error
