"""What an app may spend and send: budgets, and rate limits of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from router.declared import Declared
from router.errors import ConfigurationError
from router.values import Count, Number

__all__ = ["Budget", "RateLimit"]


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
