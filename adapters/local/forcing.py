"""The grammar that holds an answer to the form that was asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

from adapters.local.grammar import Rules, SchemaError, add_schema, literal
from adapters.local.plan import NOT_ASKED, Plan
from adapters.local.tools import ToolFormat
from router.errors import ModelHTTPError

__all__ = ["grammar_of"]


def grammar_of(asked: Plan, form: ToolFormat, model: str, *, source: str, after: str = "") -> str | None:
    """The grammar that forces what was asked for; None: nothing is forced.

    Args:
        asked: What.
        form: How the model writes calls.
        model: Its name, for errors.
        source: Its chat template, from which `form` follows.
        after: What stands before the answer: the body of a rule; empty if nothing does.

    Raises:
        ModelHTTPError: 400 `invalid_schema`, if a schema cannot be held.
    """
    if not asked.constrained:
        return None
    try:
        tools = [[tool.name, tool.parameters] for tool in asked.forced or asked.tools]
        schema = [] if asked.schema is NOT_ASKED else [asked.schema]
        key = json.dumps([tools, bool(asked.forced), asked.several, schema, after])
        return _grammar(_Wanted(source, key, asked, form, after))
    except (SchemaError, TypeError) as error:
        raise ModelHTTPError(
            f"the schema cannot be held by a local model: {error}",
            model=model,
            status_code=400,
            code="invalid_schema",
        ) from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a grammar is made of; the first two fields tell one from another."""

    source: str
    key: str
    asked: Plan = field(compare=False)
    form: ToolFormat = field(compare=False)
    after: str = field(compare=False)


@lru_cache(maxsize=128)
def _grammar(wanted: _Wanted) -> str:
    """Agents send the same schemas and tools again and again."""
    rules = Rules()
    answer = _answer(rules, wanted.asked, wanted.form)
    return rules.text(f"{wanted.after} ({answer})" if wanted.after else answer)


def _answer(rules: Rules, asked: Plan, form: ToolFormat) -> str:
    if asked.forced:
        return form.grammar(rules, asked.forced, several=asked.several)
    answer = add_schema(rules, asked.schema)
    if form.lead:
        answer = f"{literal(form.lead)} {answer}"
    if asked.tools:  # it may call a tool instead of answering
        answer = f"{answer} | {form.grammar(rules, asked.tools, several=asked.several)}"
    return answer
