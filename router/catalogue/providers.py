"""The hosts that speak OpenAI's chat completions API: where they are and what dialect they speak.

The rows are data (`router/data/providers.toml`), each with the page it was read from and the day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from router.capabilities import CAPABILITIES
from router.catalogue.tables import checked_row, read_table

if TYPE_CHECKING:
    from router.models import HostedModel

__all__ = ["GENERIC", "PROVIDERS", "Provider", "provider_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A host, and how its API differs from OpenAI's.

    Attributes:
        name: The row's name.
        title: What people call it.
        base_url: The API's root; empty in `GENERIC`.
        key_env: The environment variable of the key; None: no key is needed.
        prices: The provider's id in genai-prices; None if it has none.
        self_hosted: Runs on the owner's machines, so tokens cost nothing.
        lacks: Capabilities (`router.capabilities`) that no model of this host has: the host refuses or
            ignores the field.
        renames: OpenAI's parameter: this host's name for it.
        developer_role: Knows the role `developer`; else it is sent as `system`.
        stream_options: Accepts `stream_options={"include_usage": true}`.
        prefix: What to add to the last message, one of the assistant's, to have it gone on with instead of
            answered (`prefix_body`: to the whole request); None: it is not known that the host can do that
            without giving the beginning again.
        prefix_body: See `prefix`.
        prefix_source: The page that says so.
        prefix_checked: The day it was read, ISO 8601.
        source: The host's documentation that the row was read from.
        checked: The day it was read, ISO 8601.
    """

    name: str
    title: str
    base_url: str
    key_env: str | None = None
    prices: str | None = None
    self_hosted: bool = False
    lacks: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    developer_role: bool = False
    stream_options: bool = True
    prefix: Mapping[str, object] | None = None
    prefix_body: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    prefix_source: str = ""
    prefix_checked: str = ""
    source: str = ""
    checked: str = ""


_FIELDS = tuple(row.name for row in fields(Provider) if row.name != "name")

GENERIC = Provider(name="", title="an OpenAI-compatible host", base_url="")
"""Stands for a bare `base_url`: nothing is renamed, `developer` is sent as `system`, usage is asked for."""


def _provider(name: str, row: object) -> Provider:
    where = f"providers.toml: {name}"
    values = dict(checked_row(row, where=where, known=_FIELDS))
    lacks = frozenset(cast("list[str]", values.pop("lacks", [])))
    renames = cast("Mapping[str, str]", values.pop("renames", {}))
    if not lacks <= CAPABILITIES.keys():
        raise ValueError(f"{where}: no capability is called {min(lacks - CAPABILITIES.keys())!r}")
    return Provider(
        name=name,
        lacks=lacks,
        renames=MappingProxyType(dict(renames)),
        **values,  # type: ignore[arg-type]  # the names were checked; a test checks the types
    )


def _load() -> Mapping[str, Provider]:
    return MappingProxyType(
        {name: _provider(name, row) for name, row in read_table("providers.toml").items()}
    )


PROVIDERS: Mapping[str, Provider] = _load()
"""Every row, by name."""


def provider_of(model: HostedModel) -> Provider:
    """The row of a model's host; `GENERIC` for a bare `base_url`."""
    return GENERIC if model.provider is None else PROVIDERS[model.provider]
