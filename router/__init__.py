"""Routes each chat request to the cheapest and fastest model that is good enough.

Local GGUF models in the app's own process and hosted APIs, under one policy. Start with `Router`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.client import AsyncRouter, Router
from router.config import Budget, Policy, RateLimit, Recovery, RouterConfig, RoutingOptions
from router.decision import Attempt, Candidate, Decision
from router.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    ConfigurationError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
    ModelTimeoutError,
    NoEligibleModelError,
    OverloadedError,
    RouterClosedError,
    RouterError,
    StreamInterruptedError,
)
from router.models import HostedModel, LocalModel, Model, Price

if TYPE_CHECKING:
    from router.completion import RoutedCompletion
    from router.streams import AsyncRoutedStream
    from router.sync_streams import RoutedStream

__version__ = "0.1.0"

__all__ = [
    "AllModelsFailedError",
    "AsyncRoutedStream",
    "AsyncRouter",
    "Attempt",
    "Budget",
    "BudgetExceededError",
    "Candidate",
    "ConfigurationError",
    "ContextWindowExceededError",
    "DeadlineExceededError",
    "Decision",
    "HostedModel",
    "InvalidRequestError",
    "LocalModel",
    "Model",
    "ModelConnectionError",
    "ModelError",
    "ModelHTTPError",
    "ModelLoadError",
    "ModelProtocolError",
    "ModelTimeoutError",
    "NoEligibleModelError",
    "OverloadedError",
    "Policy",
    "Price",
    "RateLimit",
    "Recovery",
    "RoutedCompletion",
    "RoutedStream",
    "Router",
    "RouterClosedError",
    "RouterConfig",
    "RouterError",
    "RoutingOptions",
    "StreamInterruptedError",
]


def __getattr__(name: str) -> object:
    """What is heavy is loaded when it is asked for: the types of answers (openai), the simulator."""
    if name == "RoutedCompletion":
        from router.completion import RoutedCompletion

        return RoutedCompletion
    if name == "AsyncRoutedStream":
        from router.streams import AsyncRoutedStream

        return AsyncRoutedStream
    if name == "RoutedStream":
        from router.sync_streams import RoutedStream

        return RoutedStream
    if name == "simulate":
        from importlib import import_module

        return import_module("router.simulate")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
