"""What a schema's grammar lets through, the schema accepts: shown with random weights, which try everything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import llama_cpp.llama_cpp as c
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from adapters.local.engine import Sampling
from adapters.local.grammar import SchemaError, schema_to_gbnf
from adapters.local.sampling import GrammarError, Sampler, recommended
from router.errors import ModelProtocolError
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import Alone, asking

Short = Annotated[str, Field(max_length=8)]


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int = Field(ge=-120, le=37)
    y: float = Field(gt=0.25, lt=99.5)


class Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: Short
    kind: Literal["refund", "host", 'sæfety "q" \\ ']
    open: bool
    points: Annotated[list[Point], Field(min_length=1, max_length=3)]
    note: Short | None = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    code: Annotated[str, Field(pattern=r"^[A-Z]{2,3}-\d{4}(x|y)?$")] = "AB-1234"


class Tree(BaseModel):
    value: Annotated[int, Field(ge=0, le=9)]
    children: Annotated[list[Tree], Field(max_length=1)] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0, lt=10)]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: Annotated[list[Literal["sit", "roll"]], Field(max_length=3)]


class Circle(BaseModel):
    shape: Literal["circle", "ring"] = "circle"
    radius: Annotated[int, Field(ge=0, le=9)]


class Group(BaseModel):
    shape: Literal["group"] = "group"
    parts: Annotated[list[Annotated[Circle | Group, Field(discriminator="shape")]], Field(max_length=1)]


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shape: Annotated[Circle | Group, Field(discriminator="shape")]
    label: Annotated[str, Field(pattern="^[a-z]+$", max_length=5)]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    since: date
    seen: datetime
    id: UUID
    pair: tuple[Literal[1, 2], Short]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    from tests.gguf_files import write_gguf

    path = write_gguf(tmp_path_factory.mktemp("grammar") / "tiny.gguf", "llama", n_ctx=4096)
    model = Alone(path)
    yield model
    model.close()


def generate(native: Alone, grammar: str, seed: int, most: int = 3000) -> str | None:
    """One answer; None if it did not end in time."""
    native.reset()
    sampler = Sampler(native.model, recommended(Sampling(seed=seed, temperature=1.5), {}), grammar)
    data = b""
    try:
        native.decode(native.model.tokenize(f"seed {seed}"))
        for _ in range(most):
            token = native.sample(sampler)
            if native.model.ends_turn(token):
                return data.decode()
            data += native.model.piece(token, special=True)
            native.decode([token])
    finally:
        sampler.close()
    return None


@pytest.mark.gguf
@pytest.mark.parametrize("model", [Ticket, Tree, Owner, Point, Drawing])
def test_pydantic_models_are_held(native: Alone, model: type[BaseModel]) -> None:
    grammar = schema_to_gbnf(model.model_json_schema())
    texts = [generate(native, grammar, seed) for seed in range(12)]
    assert all(texts)
    for text in texts:
        model.model_validate_json(text or "")
    assert len(set(texts)) > 6


@pytest.mark.gguf
@pytest.mark.parametrize(
    ("schema", "holds"),
    [
        (
            {"type": "integer", "minimum": -7, "maximum": 1234},
            lambda v: isinstance(v, int) and -7 <= v <= 1234,
        ),
        ({"type": "integer", "minimum": 95}, lambda v: v >= 95),
        ({"type": "integer", "exclusiveMaximum": -3}, lambda v: v < -3),
        ({"type": "number", "minimum": 0.2, "maximum": 0.7}, lambda v: 0.2 <= v <= 0.7),
        ({"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1}, lambda v: -1 < v < 1),
        ({"type": "string", "minLength": 3, "maxLength": 5}, lambda v: 3 <= len(v) <= 5),
        ({"enum": [1, "a", None, True, {"k": [1.5]}]}, lambda v: v in [1, "a", None, True, {"k": [1.5]}]),
        ({"const": {"a": "é"}}, lambda v: v == {"a": "é"}),
        ({"type": ["string", "null"], "maxLength": 2}, lambda v: v is None or len(v) <= 2),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
            lambda v: [1, 2][: len(v)] == v,
        ),
        ({"type": "array", "items": {"const": 1}, "maxItems": 0}, lambda v: v == []),
        (
            {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4},
            lambda v: 2 <= len(v) <= 4,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}},
                "required": ["b"],
            },
            lambda v: v["b"] == 2 and set(v) <= {"a", "b", "c"},
        ),
        ({"type": "object", "properties": {}, "additionalProperties": False}, lambda v: v == {}),
        (
            {"type": "object", "required": ["k"], "additionalProperties": {"type": "boolean"}},
            lambda v: isinstance(v["k"], bool),
        ),
        (
            {
                "allOf": [
                    {
                        "type": "object",
                        "properties": {"a": {"type": "integer", "minimum": 3}},
                        "required": ["a"],
                    },
                    {"properties": {"a": {"maximum": 5}, "b": {"const": 0}}, "required": ["b"]},
                ]
            },
            lambda v: 3 <= v["a"] <= 5 and v["b"] == 0,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"const": 1}},
                "required": ["a"],
                "anyOf": [{"required": ["b"]}],
            },
            lambda v: "b" in v,
        ),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, lambda v: isinstance(v, bool)),
        (
            {"type": "string", "pattern": r"^\w+@[a-z]+\.(com|org)$"},
            lambda v: re.search(r"^\w+@[a-z]+\.(com|org)$", v),
        ),
        (
            {"type": "string", "pattern": "^[a-c]+$", "minLength": 2, "maxLength": 4},
            lambda v: re.search("^[a-c]{2,4}$", v),
        ),
        ({"type": "string", "pattern": "^é{3,9}$", "maxLength": 5}, lambda v: re.search("^é{3,5}$", v)),
        ({"type": "string", "pattern": r"\w", "minLength": 1}, lambda v: re.search(r"^\w$", v)),
        ({"oneOf": [{"type": "integer", "maximum": 9, "minimum": 0}]}, lambda v: v in range(10)),
        (
            {
                "type": "object",
                "oneOf": [
                    {"properties": {"k": {"$ref": "#/$defs/a"}}},
                    {"properties": {"k": {"enum": ["b", "c"]}}, "required": ["k"]},
                ],
                "$defs": {"a": {"enum": ["a"]}},
            },
            lambda v: v["k"] in ("a", "b", "c"),
        ),
        (
            {
                "oneOf": [
                    {"type": "boolean"},
                    {"const": 1},
                    {"enum": ["a", 0]},
                    {"type": "array", "maxItems": 0},
                ]
            },
            lambda v: v in ([], True, False, 1, 0, "a"),
        ),
        ({"type": "string", "pattern": "[^a-z]{2,4}"}, lambda v: re.search("[^a-z]{2,4}", v)),
        ({"type": "string", "pattern": r'^"\\\S.\u00e9*$'}, lambda v: re.search('^"\\\\\\S.é*$', v)),
    ],
)
def test_what_is_let_through_is_valid(native: Alone, schema: Any, holds: Callable[[Any], bool]) -> None:
    grammar = schema_to_gbnf(schema)
    texts = [text for seed in range(8) if (text := generate(native, grammar, seed, 400)) is not None]
    assert len(texts) >= 3
    for text in texts:
        assert holds(json.loads(text)), text


@pytest.mark.gguf
def test_any_json_is_json_and_objects_are_objects(native: Alone) -> None:
    for schema, kind in ((True, object), ({}, object), ({"type": "object"}, dict)):
        texts = [generate(native, schema_to_gbnf(schema), seed, 1500) for seed in range(6)]
        ended = [json.loads(text) for text in texts if text is not None]
        assert all(isinstance(value, kind) for value in ended)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (False, "nothing fits"),
        ("string", "not a schema"),
        ({"type": "strnig"}, "strnig"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "'not' cannot be held"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"$ref": "https://example.com/schema"}, "inside the schema"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "leads back to itself"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {
                    "a": {
                        "anyOf": [
                            {"type": "array", "items": {"$ref": "#/$defs/b"}},
                            {"$ref": "#/$defs/b"},
                        ]
                    },
                    "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]},
                },
            },
            "leads back to itself",
        ),
        ({"allOf": [{"$ref": "#"}]}, "deep"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no number"),
        ({"type": "number", "minimum": 5, "exclusiveMaximum": 5}, "no number"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "no text"),
        ({"type": "string", "maxLength": 10**9}, "cannot be held"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "pattern": "(a"}, "unclosed"),
        (
            {"type": "string", "pattern": "^([a-z]{1,100} ){1,50}$"},
            "pattern '^([a-z]{1,100} ){1,50}$': nested",
        ),
        ({"type": "string", "pattern": "^(a*)*$"}, "pattern '^(a*)*$': what may be nothing"),
        ({"type": "string", "pattern": "^(a|b?)+$"}, "what may be nothing"),
        ({"type": "string", "pattern": "^ab$", "maxLength": 3}, "one repeated character or class"),
        ({"type": "string", "pattern": "^[a-z]+x$", "maxLength": 3}, "one repeated character or class"),
        ({"type": "string", "pattern": "^(ab)+$", "maxLength": 3}, "one repeated character or class"),
        ({"type": "string", "pattern": "a|b", "maxLength": 3}, "one repeated character or class"),
        ({"type": "string", "pattern": "", "maxLength": 3}, "one repeated character or class"),
        ({"type": "string", "pattern": "^[a-z]{4,}$", "maxLength": 3}, "no match"),
        ({"type": "string", "format": "date", "maxLength": 3}, "a format beside"),
        ({"type": "string", "format": "date", "pattern": "a"}, "a format beside"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use 'anyOf'"),
        ({"oneOf": [{"type": ["string", "null"]}, {"type": ["null", "array"]}]}, "use 'anyOf'"),
        ({"oneOf": [{"const": 1}, {"const": 1.0}]}, "use 'anyOf'"),
        ({"oneOf": [{"const": 1.0}, {"type": "integer"}]}, "use 'anyOf'"),
        ({"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, "use 'anyOf'"),
        ({"oneOf": [{"const": "a"}, {"type": "string"}]}, "#/oneOf: a value might match both 0 and 1"),
        ({"oneOf": [{"type": "string"}, True]}, "use 'anyOf'"),
        # The standard asks only objects for their members.
        ({"oneOf": [{"properties": {"k": {"const": 1}}}, {"type": "null"}]}, "use 'anyOf'"),
        ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "use 'anyOf'"),
        (
            {
                "type": "object",
                "oneOf": [
                    {"properties": {"k": {"enum": ["a", "b"]}}},
                    {"properties": {"k": {"enum": ["b", "c"]}}},
                ],
            },
            "use 'anyOf'",
        ),
        ({"enum": []}, "no value"),
        ({"enum": [1], "minimum": 3}, "beside"),
        ({"anyOf": []}, "something in it"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no value is both"),
    ],
)
def test_what_cannot_be_held_is_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(why)):
        schema_to_gbnf(schema)


def test_nesting_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SchemaError, match="deep"):
        schema_to_gbnf(schema)
    with pytest.raises(SchemaError, match="rules"):
        schema_to_gbnf({"type": "object", "properties": {f"p{number}": {} for number in range(5000)}})


@pytest.mark.gguf
def test_a_grammar_that_llama_cpp_cannot_compile_is_an_error_and_no_abort(
    native: Alone, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GrammarError):
        Sampler(native.model, recommended(Sampling(), {}), 'root ::= root "a"')
    capfd.readouterr()


REPEATED = st.recursive(
    st.sampled_from(["a", "[a-z]", r"\d", "."]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda both: f"({both[0]}|{both[1]})"),
        st.tuples(
            inner, st.sampled_from(["*", "+", "?", "{3}", "{40}", "{0,9}", "{2,70}", "{9,}", "{600}"])
        ).map(lambda both: f"({both[0]}){both[1]}"),
    ),
    max_leaves=6,
)


@pytest.mark.gguf
@given(REPEATED)
@example("(([a-z]){44}){45}")
@example("([a-z]{1,100} ){1,19}")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pattern_is_refused_here_or_taken_by_llama_cpp_which_prints_nothing(
    native: Alone, capfd: pytest.CaptureFixture[str], pattern: str
) -> None:
    try:
        grammar = schema_to_gbnf({"type": "string", "pattern": f"^{pattern}$"})
    except SchemaError:
        return
    Sampler(native.model, recommended(Sampling(), {}), grammar).close()
    assert capfd.readouterr().err == ""


@pytest.mark.gguf
@pytest.mark.parametrize(
    ("least", "most"), [(0, 501), (3, 700), (0, 2001), (600, None), (599, 600), (750, 2500), (1000, 1000)]
)
def test_a_long_repetition_ends_where_it_should(native: Alone, least: int, most: int | None) -> None:
    """llama.cpp takes one beyond 2000 for one without an end."""
    limits = {"minLength": least} | ({} if most is None else {"maxLength": most})
    sampler = Sampler(
        native.model,
        recommended(Sampling(), {}),
        schema_to_gbnf({"type": "string", "pattern": "^a*$", **limits}),
    )
    quote, letter = (native.model.tokenize(char)[-1] for char in '"a')
    ends = []
    c.llama_sampler_accept(sampler._grammar, quote)
    for count in range((most or 2200) + 2):
        if sampler._admits(quote):
            ends.append(count)
        if not sampler._admits(letter):
            break
        c.llama_sampler_accept(sampler._grammar, letter)
    sampler.close()
    assert ends == list(range(least, (most or 2201) + 1))


@pytest.mark.gguf
@pytest.mark.parametrize("count", [500, 501, 1000, 1999, 2001, 10_000])
def test_long_lists_and_texts_are_taken_by_llama_cpp(
    native: Alone, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    for schema in (
        {"type": "array", "minItems": count},
        {"type": "array", "maxItems": count, "items": {"type": "string", "maxLength": count}},
        {"type": "array", "prefixItems": [{"const": 1}], "items": {"enum": [1, 2]}, "maxItems": count},
        {"type": "string", "minLength": count, "maxLength": count},
    ):
        Sampler(native.model, recommended(Sampling(), {}), schema_to_gbnf(schema)).close()
    assert capfd.readouterr().err == ""


def test_a_reference_to_itself_below_something_written_is_no_circle() -> None:
    for schema in (
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": {"$ref": "#"}}]},
        Tree.model_json_schema(),
    ):
        assert "::=" in schema_to_gbnf(schema)


@pytest.mark.gguf
def test_a_grammar_that_leads_nowhere_is_an_error_and_no_abort(native: Alone) -> None:
    native.reset()
    native.decode(native.model.tokenize("x"))
    sampler = Sampler(native.model, recommended(Sampling(seed=1), {}), 'root ::= "a" [^\\x00-\\U0010FFFF]')
    with pytest.raises(GrammarError):
        for _ in range(5):
            native.decode([native.sample(sampler)])
    sampler.close()


@pytest.mark.gguf
async def test_json_mode_and_schemas_work_through_the_adapter(tmp_path: Path, tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    form = {
        "type": "json_schema",
        "json_schema": {"name": "ticket", "strict": True, "schema": Ticket.model_json_schema()},
    }
    for seed in range(4):
        completion = await adapter.complete(asking(response_format=form, seed=seed))
        Ticket.model_validate_json(completion.choices[0].message.content or "")
        assert completion.choices[0].finish_reason == "stop"
    cut = await adapter.complete(asking(response_format=form, max_tokens=5, seed=1))
    assert cut.choices[0].finish_reason == "length"
    for seed in range(3):
        free = await adapter.complete(
            asking(response_format={"type": "json_object"}, seed=seed, max_tokens=400)
        )
        if free.choices[0].finish_reason == "stop":
            TypeAdapter(dict[str, Any]).validate_json(free.choices[0].message.content or "")


@pytest.mark.gguf
async def test_damaged_weights_are_noticed(tmp_path: Path, tiny: Tiny, make: Make) -> None:
    data = bytearray(tiny("qwen3").read_bytes())
    data[-100_000:-50_000] = b"\xff" * 50_000
    (tmp_path / "nan.gguf").write_bytes(data)
    with pytest.raises(ModelProtocolError, match="damaged"):
        await make(tmp_path / "nan.gguf").complete(asking(max_tokens=5))
