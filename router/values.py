"""The kinds of values that declarations are made of, each checked as it should be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from router.declared import number
from router.words import primary_language, variable

__all__ = [
    "Count",
    "Language",
    "Money",
    "Number",
    "Privacy",
    "Probability",
    "Quality",
    "Seconds",
    "Variable",
    "Weight",
]

Number = BeforeValidator(number)
Probability = Annotated[float, Number, Field(ge=0, le=1, allow_inf_nan=False)]
Money = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
#: Backends count in 32 bits.
Count = Annotated[int, Number, Field(ge=1, lt=2**31)]
Variable = Annotated[str, AfterValidator(variable)]
Language = Annotated[str, AfterValidator(primary_language)]
Quality = Probability | Mapping[str, Probability] | None
Privacy = Literal["any", "private"]
