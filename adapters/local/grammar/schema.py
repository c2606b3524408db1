"""Turns a JSON schema into rules. See the package's docstring for what is promised."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.local.grammar.exclusive import tag_of
from adapters.local.grammar.merging import merged
from adapters.local.grammar.rules import Rules, SchemaError, alternatives, literal, repeated
from adapters.local.grammar.scalars import count_of, is_of, number_body, string_body

__all__ = ["add_schema", "schema_to_gbnf"]

#: Keywords that limit values and that no grammar here can hold.
_CANNOT = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames"),
        *("dependentRequired", "dependentSchemas", "dependencies", "patternProperties", "minProperties"),
        *("maxProperties", "uniqueItems", "multipleOf", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    }
)
_BY_KEYWORD = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_LIMITS = frozenset(word for words in _BY_KEYWORD.values() for word in words) - {"format"}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ABSENT = object()


def schema_to_gbnf(schema: object) -> str:
    """A whole grammar for one schema.

    Raises:
        SchemaError: if it cannot be held; the text says where and why.
    """
    rules = Rules()
    return rules.text(add_schema(rules, schema))


def add_schema(rules: Rules, schema: object) -> str:
    """Adds the rules for one schema to a grammar; gives the name of the topmost.

    Raises:
        SchemaError: if it cannot be held; the text says where and why.
    """
    try:
        return rules.add("json", _Converter(rules, schema).body(schema, "#"))
    except RecursionError:
        raise SchemaError("the schema is nested too deeply") from None


class _Converter:
    """The rules of one schema document."""

    def __init__(self, rules: Rules, document: object) -> None:
        self._rules = rules
        self._document = document
        self._refs: dict[str, str] = {}
        self._leads: dict[str, set[str]] = {}  # what each reference may begin with
        self._begins: str | None = None  # whose beginning is read; None: something was written since

    def body(self, schema: object, where: str) -> str:
        """What a value of this schema looks like."""
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{where}: {'nothing fits false' if schema is False else 'not a schema'}")
        self._check(schema, where)
        for word in ("$ref", "allOf", "anyOf", "oneOf"):
            if word in schema:
                return self._combined(schema, word, where)
        if "const" in schema or "enum" in schema:
            return self._listed(schema, where)
        return self._typed(schema, where)

    def _check(self, schema: Mapping[str, Any], where: str) -> None:
        for word in schema:
            harmless = word == "uniqueItems" and schema[word] is False
            if word in _CANNOT and not harmless and not (word == "multipleOf" and schema[word] == 1):
                raise SchemaError(f"{where}: {word!r} cannot be held by a grammar")
        types = schema.get("type", [])
        for kind in [types] if isinstance(types, str) else types:
            if kind not in _TYPES:
                raise SchemaError(f"{where}: there is no type {kind!r}")

    def _combined(self, schema: Mapping[str, Any], word: str, where: str) -> str:
        rest = {key: value for key, value in schema.items() if key != word}
        limits = any(
            key in _LIMITS or key in ("type", "enum", "const", "allOf", "anyOf", "oneOf") for key in rest
        )
        if word == "$ref" and not limits:
            return self._reference(schema[word], where)
        if word == "$ref":
            return self.body(merged([rest, self._resolve(schema[word], where)], where), where)
        parts = schema[word]
        if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
            raise SchemaError(f"{where}/{word}: a list with something in it is needed")
        if word == "allOf":
            return self.body(merged([rest, *(self._followed(part, where) for part in parts)], where), where)
        branches: dict[str, object] = {}
        for place, part in enumerate(parts):
            spot = f"{where}/{word}/{place}"
            branches[spot] = merged([rest, self._followed(part, spot)], spot) if limits else part
        tag = self._tag(branches, where) if word == "oneOf" and len(parts) > 1 else None
        return alternatives(self._branch(branch, tag, spot) for spot, branch in branches.items())

    def _tag(self, branches: Mapping[str, object], where: str) -> str | None:
        """See `tag_of`."""
        schemas: list[Mapping[str, Any]] = []
        for spot, branch in branches.items():
            schema = self._followed(branch, spot)
            schemas.append(schema if isinstance(schema, Mapping) else {})
        return tag_of(schemas, _kinds_of, lambda schema: self._followed(schema, where), where)

    def _branch(self, schema: object, tag: str | None, where: str) -> str:
        """One of several schemas, of which objects must have a property if a tag is named."""
        whole = None if tag is None else self._followed(schema, where)
        if tag is None or not isinstance(whole, Mapping) or tag not in whole.get("properties", {}):
            return self.body(schema, where)
        if isinstance(schema, Mapping) and set(schema) == {"$ref"}:
            return self._reference(schema["$ref"], where, tag)
        return self.body(merged([whole, {"required": [tag]}], where), where)

    def _followed(self, schema: object, where: str) -> object:
        """A schema with the reference at its top, if any, replaced by what it refers to."""
        for _ in range(50):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                return schema
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = merged([rest, self._resolve(schema["$ref"], where)], where)
        raise SchemaError(f"{where}: references go round in a circle")

    def _reference(self, ref: object, where: str, tag: str | None = None) -> str:
        """The rule of what a reference leads to; with a tag, that property is required there."""
        key = str(ref)
        name = key if tag is None else f"{key} {tag}"
        self._note_lead(name, where)
        if name not in self._refs:
            target = self._resolve(ref, where)
            if tag is not None:
                target = merged([target, {"required": [tag]}], where)
            self._refs[name] = self._rules.reserve(key.rsplit("/", 1)[-1])
            begins, self._begins = self._begins, name
            self._rules.define(self._refs[name], self.body(target, key))
            self._begins = begins
        return self._refs[name]

    def _note_lead(self, name: str, where: str) -> None:
        """Notes that what is being read may begin with a reference.

        Raises:
            SchemaError: if that leads back to where it is: llama.cpp refuses a rule that begins with itself.
        """
        if self._begins is None:
            return
        self._leads.setdefault(self._begins, set()).add(name)
        met, ahead = {name}, [name]
        while ahead:
            found = self._leads.get(ahead.pop(), set()) - met
            met |= found
            ahead += found
        if self._begins in met:
            raise SchemaError(f"{where}: a reference leads back to itself, and nothing is written in between")

    def _resolve(self, ref: object, where: str) -> object:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise SchemaError(f"{where}: only references inside the schema are followed, not {ref!r}")
        found: Any = self._document
        for step in ref[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise SchemaError(f"{where}: {ref!r} leads nowhere")
        return found

    def _listed(self, schema: Mapping[str, Any], where: str) -> str:
        if beside := [word for word in schema if word in _LIMITS]:
            raise SchemaError(f"{where}: {beside[0]!r} beside 'enum' or 'const' cannot be held")
        values = schema.get("enum", _ABSENT)
        if values is _ABSENT:
            values = [schema["const"]]
        elif "const" in schema:
            values = [value for value in values if value == schema["const"]]
        types = schema.get("type", _TYPES)
        kinds = (types,) if isinstance(types, str) else types
        texts = [json.dumps(value, ensure_ascii=False) for value in values if is_of(value, kinds)]
        if not texts:
            raise SchemaError(f"{where}: no value is left")
        return alternatives(map(literal, texts))

    def _typed(self, schema: Mapping[str, Any], where: str) -> str:
        kinds = _kinds_of(schema)
        if not kinds and "type" in schema:
            raise SchemaError(f"{where}: an empty list of types")
        if not kinds:
            return "value"
        if "number" in kinds and "integer" in kinds:
            kinds.remove("integer")
        return alternatives(self._of_type(kind, schema, where) for kind in kinds)

    def _of_type(self, kind: str, schema: Mapping[str, Any], where: str) -> str:
        if kind in ("object", "array"):
            begins, self._begins = self._begins, None
            body = self._object(schema, where) if kind == "object" else self._array(schema, where)
            self._begins = begins
            return body
        if kind == "string":
            return string_body(schema, where)
        if kind in ("integer", "number"):
            return number_body(kind, schema, where)
        return kind

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        first = schema.get("prefixItems", [])
        least, most = count_of(schema, "minItems", where) or 0, count_of(schema, "maxItems", where)
        if most is not None and most < least:
            raise SchemaError(f"{where}: no list can have {least} items at least and {most} at most")
        heads = [self._named(part, f"{where}/prefixItems/{place}") for place, part in enumerate(first)]
        more = schema.get("items", True)
        if more is False:
            most = min(len(heads) if most is None else most, len(heads))
        item = "value" if more in (True, False) else self._named(more, f"{where}/items")
        return f'"[" gap {self._items(heads, item, least, most)} gap "]"'

    def _items(self, heads: list[str], item: str, least: int, most: int | None) -> str:
        """Items from the last to the first: what may follow each of them is known then."""
        heads = heads if most is None else heads[:most]
        left = None if most is None else most - len(heads)
        if not heads:
            if most == 0:
                return '""'
            tail = repeated(f'("," gap {item})', max(0, least - 1), None if most is None else most - 1)
            tail = "" if most == 1 else tail
            return f"{item} {tail}" if least else f"({item} {tail})?"
        body = repeated(f'("," gap {item})', max(0, least - len(heads)), left) if left != 0 else '""'
        for place in range(len(heads) - 1, -1, -1):
            comma = '"," gap ' if place else ""
            body = f"{comma}{heads[place]} {body}"
            if place >= least:
                body = f"({body})?"
        return body

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = dict(schema.get("properties", {}))
        required = list(schema.get("required", []))
        extra = schema.get("additionalProperties", True)
        for name in required:
            if name not in properties and extra is False:
                raise SchemaError(f"{where}: {name!r} is required and not allowed")
            properties.setdefault(name, extra)
        if not properties:
            return self._map(extra, where)
        pairs = [
            (self._pair(name, part, f"{where}/properties/{name}"), name in required)
            for name, part in properties.items()
            if part is not False or name in required
        ]
        return f'"{{" gap {self._members(pairs, where)} gap "}}"'

    def _map(self, values: object, where: str) -> str:
        if values is False:
            return '"{" gap "}"'
        if values is True or values == {}:
            return "object"
        pair = f'string ":" " "? {self._named(values, f"{where}/additionalProperties")}'
        return f'"{{" gap ({pair} ("," gap {pair})*)? gap "}}"'

    def _pair(self, name: str, schema: object, where: str) -> str:
        key = literal(json.dumps(name, ensure_ascii=False) + ":")
        return self._rules.add(name, f'{key} " "? {self.body(schema, where)}')

    def _members(self, pairs: list[tuple[str, bool]], where: str) -> str:
        """Members in declared order; the optional ones may be left out, and commas must still be right."""
        tails = [""] * (len(pairs) + 1)
        for place in range(len(pairs) - 1, 0, -1):
            pair, required = pairs[place]
            member = f'"," gap {pair}'
            body = f"{member if required else f'({member})?'} {tails[place + 1]}"
            tails[place] = self._rules.add(f"{where[-12:]} tail", body)
        heads = []
        for place, (pair, required) in enumerate(pairs):
            heads.append(f"{pair} {tails[place + 1]}".rstrip())
            if required:
                return alternatives(heads)
        return f"({' | '.join(heads)})?"

    def _named(self, schema: object, where: str) -> str:
        return self._rules.add(where.rsplit("/", 1)[-1], self.body(schema, where))


def _kinds_of(schema: Mapping[str, Any]) -> list[str]:
    """The types that are written for a schema: those it names, or else those that its limits are for."""
    types = schema.get("type")
    if types is None:
        return [kind for kind, words in _BY_KEYWORD.items() if any(word in schema for word in words)]
    return [types] if isinstance(types, str) else list(types)
