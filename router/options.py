"""What one request asks of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, StrictBool

from router.declared import Declared
from router.values import Language, Money, Privacy, Probability, Seconds

__all__ = ["RoutingOptions"]


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
