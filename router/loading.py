"""Finds an adapter, and a kind of model, by name. The only place that knows where adapters live."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

from router.errors import ConfigurationError, nearest, shown

if TYPE_CHECKING:
    from pydantic import SecretStr

    from router.adapter import Adapter, AdapterSettings
    from router.allowances import Budget
    from router.ledger.keeper import Keeper
    from router.models import Model

__all__ = ["AdapterFactory", "load_adapter", "load_keeper", "model_from_table"]

AdapterFactory: TypeAlias = "Callable[[Model, AdapterSettings], Adapter]"
"""Builds the adapter of one model. Cheap: what is slow waits for the first request."""

ENTRY_POINTS = "router.adapters"

#: adapter: (module, its factory, the extra that brings its SDK)
_BUILT_IN: dict[str, tuple[str, str, str | None]] = {
    "hosted": ("adapters.hosted", "create", None),
    "local": ("adapters.local", "create", "local"),
    "scripted": ("router.testing.scripted", "create", None),
    "simulated": ("router.simulate.standins", "create", None),
}

#: What keeps budgets and limits for several machines, as above.
_KEEPER = ("adapters.redis", "create", "redis")

#: kind in a configuration file: (module, class)
_KINDS: dict[str, tuple[str, str]] = {
    "hosted": ("router.models", "HostedModel"),
    "local": ("router.models", "LocalModel"),
    "scripted": ("router.testing.scripted", "ScriptedModel"),
}


def load_adapter(model: Model, settings: AdapterSettings) -> Adapter:
    """Builds the adapter that a model names.

    Raises:
        ConfigurationError: if there is no such adapter, or its module cannot be imported.
    """
    return _factory(model.adapter)(model, settings)


def load_keeper(url: SecretStr, budgets: Sequence[Budget], wall: Callable[[], float]) -> Keeper:
    """Builds what keeps budgets and limits on a server that several machines share.

    Raises:
        ConfigurationError: if the URL is none, or what talks to the server is not installed.
    """
    factory = _built_in(*_KEEPER)
    return cast("Keeper", cast("Callable[..., object]", factory)(url, budgets, wall))


def model_from_table(table: Mapping[str, object], *, where: str) -> Model:
    """Builds a model from a table of a configuration file.

    `kind` says what it is; without it, a `path` means a local model and anything else a hosted one.

    Raises:
        ConfigurationError: if the kind is unknown or a field is wrong.
    """
    fields = dict(table)
    kind = fields.pop("kind", "local" if "path" in fields else "hosted")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigurationError(
            f"{where}.kind = {shown(kind)}: no such kind of model{nearest(kind, _KINDS)}",
            field=f"{where}.kind",
            value=shown(kind),
        )
    module, name = _KINDS[kind]
    declared = cast("type[Model]", getattr(importlib.import_module(module), name))
    try:
        return declared.parse(fields)
    except ConfigurationError as error:
        path = f"{where}.{error.field}" if error.field else where
        raise ConfigurationError(f"{where}: {error}", field=path, value=error.value) from None


def _factory(name: str) -> AdapterFactory:
    if name in _BUILT_IN:
        module, attribute, extra = _BUILT_IN[name]
        return _built_in(module, attribute, extra)
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ConfigurationError(
            f"no adapter is called {name!r}{nearest(name, [*_BUILT_IN, *found])}",
            field="adapter",
            value=repr(name),
        )
    return cast("AdapterFactory", found[name].load())


def _built_in(module: str, attribute: str, extra: str | None) -> AdapterFactory:
    if module.startswith("adapters."):
        _check_ours()
    try:
        return cast("AdapterFactory", getattr(importlib.import_module(module), attribute))
    except ImportError as error:
        how = f': pip install "multimodel-router[{extra}]"' if extra else ""
        raise ConfigurationError(f"{module} needs {error.name}, which is not installed{how}") from error


def _check_ours() -> None:
    """Another distribution on PyPI installs a top-level package `adapters`, too; ours carries a marker."""
    package = importlib.import_module("adapters")
    if getattr(package, "BELONGS_TO", None) != "multimodel-router":
        raise ConfigurationError(
            f"the package 'adapters' at {getattr(package, '__file__', '?')} is not this library's: another "
            "distribution installed one of the same name; uninstall it (pip uninstall adapters) and "
            "reinstall multimodel-router"
        )
