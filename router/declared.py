"""The base of everything that an app declares: strict, frozen, and clear about what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from router.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Declared", "configuration_error"]

#: A value is shown in an error only if its field cannot hold a secret.
_SECRET = ("api_key", "headers")


class Declared(BaseModel):
    """A frozen pydantic object that refuses unknown fields.

    Raises:
        ConfigurationError: on construction, naming the field, the value and the nearest valid choice.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True, validate_default=False
    )

    if not TYPE_CHECKING:

        def __init__(self, /, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise configuration_error(error, type(self), data) from None

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """Builds one from plain data.

        Raises:
            ConfigurationError: naming the field, the value and the nearest valid choice.
        """
        return cls(**data)


def configuration_error(
    error: ValidationError, declared: type[BaseModel], data: Mapping[str, object]
) -> ConfigurationError:
    """The first of pydantic's complaints, as an error a person can act on. All of them are in the text."""
    details = error.errors(include_url=False, include_context=True, include_input=False)
    lines = [_line(detail, declared, data) for detail in details]
    first = details[0]
    path = ".".join(map(str, first["loc"]))
    return ConfigurationError(
        f"{declared.__name__}: " + "; ".join(lines), field=path, value=_value_text(first["loc"], data)
    )


def _line(detail: ErrorDetails, declared: type[BaseModel], data: Mapping[str, object]) -> str:
    loc = detail["loc"]
    path = ".".join(map(str, loc))
    value = _value_text(loc, data)
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown option {path!r} (= {value}){nearest(str(loc[-1]), _fields_at(declared, loc[:-1]))}"
    if detail["type"] == "missing":
        return f"{path}: a value is needed"
    message = detail["msg"].removeprefix("Value error, ")
    hint = ""
    if detail["type"] == "literal_error":
        choices = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = nearest(value.strip("'"), choices)
    return f"{path} = {value}: {message}{hint}" if path else message


def _fields_at(declared: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The names of the fields of the object that a path leads to."""
    current: type[BaseModel] | None = declared
    for step in loc:
        if current is None or not isinstance(step, str) or step not in current.model_fields:
            continue
        current = next(_models_in(current.model_fields[step].annotation), None)
    return list(current.model_fields) if current else []


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _value_text(loc: tuple[int | str, ...], data: Mapping[str, object]) -> str:
    current: object = data if loc else ""
    for step in loc:
        if any(secret in str(step) for secret in _SECRET):
            return "(hidden)"
        if isinstance(current, Mapping) and step in current:
            current = current[step]
        elif isinstance(current, list | tuple) and isinstance(step, int):
            current = current[step] if step < len(current) else None
        elif isinstance(current, BaseModel) and isinstance(step, str):
            current = getattr(current, step, None)
        else:
            break
    text = repr(current)
    if any(secret in text for secret in _SECRET):
        return "(hidden)"
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - one line of an error text
