"""The kinds of models that an app declares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, StrictBool, ValidationInfo, field_validator, model_validator

from router.declared import number
from router.errors import ConfigurationError, nearest
from router.model import Model, Price
from router.values import Count, Money, Number, Variable
from router.words import is_header

if TYPE_CHECKING:
    from router.profile import Profile

__all__ = ["HostedModel", "LocalModel", "Model", "Price"]


class LocalModel(Model):
    """A GGUF file that runs inside this process, through llama-cpp-python (extra `local`).

    Attributes:
        path: The GGUF file.
        n_ctx: Context window in tokens; None: what the file was trained with, at most 8192.
        n_gpu_layers: Layers to run on the GPU (Metal, CUDA); "auto": all if the build has a GPU, else none.
        threads: Threads to compute with; "auto": what is fastest here, measured once with the first model.
        max_parallel: Requests at once, at most; 48 are the most that one model takes.
        usd_per_hour: What an hour of this machine's computing is worth; 0 makes the model free.
        preload: Load at construction instead of at the first request.
        lora: A LoRA adapter's GGUF file.
        isolation: Where the engine runs: on a thread of this process, or in a process of its own, so that a
            crash of native code fails its requests and nothing else.
        sha256: What the file must hash to, in hexadecimal.
        chat_template: A Jinja chat template to use instead of the file's own.
        idle_ttl: Seconds without a request after which it leaves memory; None: when others need the room.
        session_dir: A folder in which long beginnings of chats are kept as the model computed them, so that
            they go on at once after a restart. Chats can be read from it; those of private requests are never
            written there. None: nothing is written.
    """

    adapter: ClassVar[str] = "local"

    path: Path
    n_ctx: Count | None = None
    n_gpu_layers: Annotated[int, Field(ge=-1, lt=2**31)] | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    max_parallel: Count = 8
    usd_per_hour: Money = 0.0
    preload: StrictBool = False
    lora: Path | None = None
    isolation: Literal["thread", "process"] = "thread"
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    chat_template: str | None = None
    idle_ttl: Annotated[float, Number, Field(gt=0, allow_inf_nan=False)] | None = None
    session_dir: Path | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            name: str,
            *,
            path: str | Path,
            n_ctx: int | None = None,
            n_gpu_layers: int | Literal["auto"] = "auto",
            threads: int | Literal["auto"] = "auto",
            max_parallel: int = 8,
            usd_per_hour: float = 0.0,
            preload: bool = False,
            lora: str | Path | None = None,
            isolation: Literal["thread", "process"] = "thread",
            sha256: str | None = None,
            chat_template: str | None = None,
            idle_ttl: float | None = None,
            session_dir: str | Path | None = None,
            quality: float | Mapping[str, float] | None = None,
            capabilities: Collection[str] | None = None,
            languages: Collection[str] | None = None,
            licence: str | None = None,
        ) -> None: ...

    @field_validator("n_gpu_layers", "threads", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return value
        least = -1 if info.field_name == "n_gpu_layers" else 1
        if not isinstance(number(value), Real) or value < least or value % 1:  # type: ignore[operator]
            raise ValueError(f"a number of at least {least}, or 'auto'")
        return value

    @field_validator("path", "lora", "session_dir", mode="before")
    @classmethod
    def _path_is_not_empty(cls, path: object) -> object:
        if path == "":
            raise ValueError("the path of a file is needed")
        return path

    def profile(self) -> Profile:
        """The declaration, with the GGUF file's own facts where the file can be read."""
        from router.catalogue.local import local_profile

        return local_profile(self)


class HostedModel(Model):
    """A model behind an OpenAI-compatible API.

    Attributes:
        provider: A row of the provider table (`router.catalogue`), which gives the base URL, the variable
            of the key and the dialect. Needed unless `base_url` is given.
        model: What the host calls the model; None: as `name`.
        base_url: The API's root; overrides the provider's.
        api_key: The key: text, a `SecretStr`, or a callable that returns it each time (for rotation).
        api_key_env: The environment variable that holds the key.
        price: None: the catalogue's if it knows the model, else unknown.
        context_window: Tokens of prompt and answer; None: the catalogue's, else unknown.
        max_output: The most output tokens; None: the catalogue's, else unknown.
        private: The host is one's own machine: private requests may go there.
        region: Where it runs; only for people to read.
        headers: Headers to send with every request.
        organization: OpenAI's organisation id.
        project: OpenAI's project id.
        rpm: Requests per minute that the host allows.
        tpm: Tokens per minute that the host allows.
        max_concurrency: Requests at once that the host allows.
    """

    adapter: ClassVar[str] = "hosted"

    provider: str | None = None
    model: str | None = None
    base_url: str | None = None
    api_key: SecretStr | Callable[[], str] | None = None
    api_key_env: Variable | None = None
    price: Price | None = None
    context_window: Count | None = None
    max_output: Count | None = None
    private: StrictBool = False
    region: str | None = None
    headers: Mapping[str, SecretStr] | None = None
    organization: str | None = None
    project: str | None = None
    rpm: Count | None = None
    tpm: Count | None = None
    max_concurrency: Count | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            name: str,
            *,
            provider: str | None = None,
            model: str | None = None,
            base_url: str | None = None,
            api_key: str | SecretStr | Callable[[], str] | None = None,
            api_key_env: str | None = None,
            price: Price | Mapping[str, float] | None = None,
            context_window: int | None = None,
            max_output: int | None = None,
            capabilities: Collection[str] | None = None,
            private: bool = False,
            region: str | None = None,
            headers: Mapping[str, str | SecretStr] | None = None,
            organization: str | None = None,
            project: str | None = None,
            rpm: int | None = None,
            tpm: int | None = None,
            max_concurrency: int | None = None,
            quality: float | Mapping[str, float] | None = None,
            languages: Collection[str] | None = None,
            licence: str | None = None,
        ) -> None: ...

    @field_validator("base_url")
    @classmethod
    def _base_url_is_one(cls, url: str | None) -> str | None:
        from urllib.parse import urlsplit

        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("a base URL begins with http:// or https:// and names a host")
            if parts.port == 0 or not url.isprintable() or " " in url:  # .port raises if it is no number
                raise ValueError("a base URL has no port 0, no spaces and nothing unprintable")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError("a base URL carries no user, password, query or fragment")
        return url

    @field_validator("provider")
    @classmethod
    def _provider_is_known(cls, provider: str | None) -> str | None:
        if provider is not None:
            from router.catalogue.providers import PROVIDERS

            if provider not in PROVIDERS:
                raise ValueError(f"no such provider{nearest(provider, PROVIDERS)}")
        return provider

    @field_validator("headers")
    @classmethod
    def _headers_can_be_sent(cls, headers: Mapping[str, SecretStr] | None) -> Mapping[str, SecretStr] | None:
        for name, value in (headers or {}).items():
            if not is_header(name, value.get_secret_value()):
                raise ValueError(f"{name!r}: no HTTP header has such a name or value")
        return headers

    @model_validator(mode="after")
    def _host_is_given(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ConfigurationError(
                f"{self.name}: api_key and api_key_env are both given: which one holds?", field="api_key_env"
            )
        if self.provider is None and self.base_url is None:
            raise ConfigurationError(
                f"{self.name}: a hosted model needs a provider or a base_url", field="provider"
            )
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle would hold: never a key, which would stand in it for whoever finds it.

        Raises:
            ConfigurationError: if the declaration holds one.
        """
        if isinstance(self.api_key, SecretStr) or self.headers:
            raise ConfigurationError(
                f"{self.name}: a declaration that holds a key or headers cannot be pickled, since they could "
                "be read in it; name the key's variable (api_key_env), or build the model where it is used",
                field="api_key" if self.api_key is not None else "headers",
            )
        return super().__getstate__()

    @property
    def model_id(self) -> str:
        """What the host calls the model."""
        return self.model or self.name

    def profile(self) -> Profile:
        """The declaration, with the catalogue's facts where it has any."""
        from router.catalogue.hosted import hosted_profile

        return hosted_profile(self)
