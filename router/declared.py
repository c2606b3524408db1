"""The base of everything that an app declares: strict, frozen, and clear about what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from router.errors import ConfigurationError, nearest, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Declared", "number"]

#: Names of fields that may hold a secret: their values are never shown.
_SECRET = ("key", "header", "secret", "token", "password", "auth", "shared")
HIDDEN = "(not shown)"
#: Mistakes that one error tells of: to find the nearest right name for a hundred thousand takes minutes.
MOST_PROBLEMS = 50


def number(value: object) -> object:
    """Lets numbers through; pydantic alone would take `True` for 1 and `"0.5"` for 0.5.

    Raises:
        ValueError: for truth values and text.
    """
    if isinstance(value, bool | str | bytes):
        kind = "true or false" if isinstance(value, bool) else "text"
        raise ValueError(f"a number is needed, not {kind}")  # noqa: TRY004 - pydantic wants a ValueError
    return value


class _Telling(type(BaseModel)):  # type: ignore[misc]  # pydantic does not export its metaclass
    """Turns pydantic's complaints about a declaration into one error that a person can act on.

    Only where the app itself builds something: pydantic builds the parts of a declaration without calling
    their classes, so that their complaints carry the whole path.
    """

    def __call__(cls, *args: Any, **data: Any) -> Any:
        try:
            return super().__call__(*args, **data)
        except ValidationError as error:
            given = {**dict(zip(("name",), args, strict=False)), **data}
            problem = _configuration_error(error, cls, given)
        # Outside the except clause: the cause holds the inputs, keys among them, and would travel along.
        raise problem


if TYPE_CHECKING:
    _Base = BaseModel
else:
    _Base = _Telling("_Base", (BaseModel,), {"__module__": __name__, "__doc__": None})


class Declared(_Base):
    """A frozen pydantic object that refuses unknown fields.

    Attributes:
        guarded: Whether a key could be among the options (class attribute): text given for an option that
            does not exist is not shown then, since it may be one.

    Raises:
        ConfigurationError: on construction, naming the field, the value and the nearest valid choice.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True, validate_default=False
    )
    guarded: ClassVar[bool] = False

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Only what differs from the default: the rest is noise in a log."""
        for name, value in super().__repr_args__():
            field = type(self).model_fields.get(name or "")
            if field is None or field.is_required() or value != field.get_default(call_default_factory=True):
                yield name, value

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> Self:
        """Builds one from plain data.

        Raises:
            ConfigurationError: naming the field, the value and the nearest valid choice.
        """
        if wrong := [name for name in data if not isinstance(name, str)]:
            raise ConfigurationError(f"{cls.__name__}: an option's name is text, not {shown(wrong[0])}")
        return cls(**data)


class _Problem(NamedTuple):
    path: tuple[int | str, ...]
    text: str
    value: str
    missing: bool = False


def _configuration_error(
    error: ValidationError, declared: type[BaseModel], data: Mapping[str, object]
) -> ConfigurationError:
    """All of pydantic's complaints in one text; `field` and `value` are those of the first."""
    details = error.errors(include_url=False, include_context=True, include_input=True)
    more = len(details) - MOST_PROBLEMS
    problems = [_problem(detail, declared, data) for detail in details[:MOST_PROBLEMS]]
    paths = {problem.path for problem in problems}
    # Of a value that could be one thing or another, only the complaint that went deepest helps.
    problems = [problem for problem in problems if not _goes_deeper(paths, problem.path)]
    # A misspelt option is the likely reason for one that is missing.
    problems.sort(key=lambda problem: problem.missing)
    lines = dict.fromkeys(problem.text for problem in problems)
    if more > 0:
        lines[f"and {more} more mistakes"] = None
    field = ".".join(map(str, problems[0].path))
    value = problems[0].value
    return ConfigurationError(
        f"{declared.__name__}: " + "; ".join(lines), field=field, value="" if value == HIDDEN else value
    )


def _goes_deeper(paths: set[tuple[int | str, ...]], than: tuple[int | str, ...]) -> bool:
    return any(len(path) > len(than) and path[: len(than)] == than for path in paths)


def _problem(detail: ErrorDetails, declared: type[BaseModel], data: Mapping[str, object]) -> _Problem:
    path = _path(detail, data)
    where = ".".join(map(str, path))
    owner = _owner(declared, path[:-1])
    unknown = detail["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    if detail["type"] == "missing":
        return _Problem(path, f"{where}: a value is needed", "", missing=True)
    value = _value_text(path, detail["input"], unknown=unknown, guarded=getattr(owner, "guarded", False))
    if unknown:
        hint = nearest(str(path[-1]), owner.model_fields if owner else ())
        return _Problem(path, f"unknown option {where!r} (= {value}){hint}", value)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        choices = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        message = f"no such choice{nearest(detail['input'], choices)}"
    return _Problem(path, f"{where} = {value}: {message}" if path else message, value if path else "")


def _path(detail: ErrorDetails, data: Mapping[str, object]) -> tuple[int | str, ...]:
    """Where a complaint points to, without the names that pydantic gives to the branches of a union."""
    path: list[int | str] = []
    current: object = data
    for step in detail["loc"]:
        listed = isinstance(current, list | tuple) and isinstance(step, int) and step < len(current)
        if listed or (isinstance(current, Mapping) and step in current):
            current = current[step]  # type: ignore[index]  # either kind has this step
        elif path and isinstance(step, str) and detail["type"] != "missing":
            continue
        path.append(step)
    return tuple(path)


def _owner(declared: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The class of the object that a path leads to; None if it is no declaration."""
    current: type[BaseModel] | None = declared
    for step in path:
        if current is None or not isinstance(step, str) or step not in current.model_fields:
            continue
        current = next(_models_in(current.model_fields[step].annotation), None)
    return current


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _value_text(path: tuple[int | str, ...], value: object, *, unknown: bool, guarded: bool) -> str:
    """The value for the text of an error, unless it is or holds what could be a secret."""
    if any(secret in str(step).lower() for step in path for secret in _SECRET):
        return HIDDEN
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple | set | frozenset):
        plain = all(isinstance(part, str | int | float) for part in value)
        return HIDDEN if not plain or (unknown and guarded) else shown(value, 80)
    if isinstance(value, Mapping):
        return HIDDEN if value else "{}"
    if isinstance(value, str) and ((unknown and guarded) or ("://" in value and set(value) & set("@?#"))):
        return HIDDEN  # a URL may carry a password or a key
    return shown(value, 80)
