"""What every model declares, whatever kind it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from router.capabilities import CAPABILITIES, with_assumed
from router.declared import Declared, number
from router.errors import ConfigurationError, nearest
from router.values import Language, Money, Quality

if TYPE_CHECKING:
    from router.profile import Profile

__all__ = ["Model", "Price"]


class Price(Declared):
    """What a hosted model costs.

    Attributes:
        input: USD per million prompt tokens.
        output: USD per million output tokens.
        cached_input: USD per million prompt tokens that the host had cached; None: as `input`.
        per_request: USD per request.
    """

    input: Money
    output: Money
    cached_input: Money | None = None
    per_request: Money = 0.0


class Model(Declared):
    """Something that can answer. Others declare their own kinds on this base.

    Attributes:
        adapter: The name of the adapter that talks to it (class attribute): a built-in one, or one that
            a distribution offers under the entry-point group `router.adapters`.
        name: What it is called; unique in a router.
        quality: The probability that its answer is good: one number, or a table per task in which
            `default` stands for the unlisted. None is unknown.
        capabilities: What it can do (words of `router.capabilities`); None: what its catalogue row, its
            file or its adapter says.
        languages: ISO 639-1 codes of the languages it is good at; None: unknown.
        licence: SPDX id or a name; None: unknown.
    """

    adapter: ClassVar[str] = ""
    guarded: ClassVar[bool] = True

    name: str = Field(kw_only=False, min_length=1, max_length=200)
    quality: Quality = None
    capabilities: frozenset[str] | None = None
    languages: frozenset[Language] | None = None
    licence: str | None = None

    if not TYPE_CHECKING:

        def __init__(self, *name: str, **data: Any) -> None:
            if len(name) > 1 or (name and "name" in data):
                kind = type(self).__name__
                raise ConfigurationError(f"{kind}: only the name has no keyword, and only once", field="name")
            super().__init__(**data, **dict(zip(("name",), name, strict=False)))

    @field_validator("name")
    @classmethod
    def _name_is_usable(cls, name: str) -> str:
        if name == "auto":
            raise ValueError("'auto' is taken: it lets the router choose")
        if name != name.strip() or not name.isprintable():
            raise ValueError("a name has no space around it and nothing unprintable in it")
        return name

    @field_validator("capabilities")
    @classmethod
    def _capabilities_exist(cls, capabilities: frozenset[str] | None) -> frozenset[str] | None:
        for word in sorted(capabilities or ()):
            if word not in CAPABILITIES:
                raise ValueError(f"no capability is called {word!r}{nearest(word, CAPABILITIES)}")
        return capabilities

    @field_validator("quality", mode="before")
    @classmethod
    def _quality_is_a_probability(cls, quality: object) -> object:
        checked = number(quality)
        if isinstance(checked, int | float) and not 0 <= checked <= 1:
            raise ValueError("a probability from 0 to 1 is needed, or a table of them per task")
        return checked

    @property
    def quality_table(self) -> Mapping[str, float]:
        """`quality` as a table; empty if unknown."""
        if self.quality is None:
            return {}
        return {"default": self.quality} if isinstance(self.quality, int | float) else self.quality

    def profile(self) -> Profile:
        """What is known of the model. Reads files at most; asks no network."""
        from router.profile import Profile

        return Profile(
            capabilities=with_assumed(self.capabilities),
            languages=self.languages,
            licence=self.licence,
            quality=self.quality_table,
        )
