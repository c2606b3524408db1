"""JSON schemas as llama.cpp's grammars (GBNF).

What a grammar admits, the schema admits; not always the reverse. A keyword that cannot be held is an error
and never ignored; only annotations are.
"""

from __future__ import annotations

from adapters.local.grammar.rules import Rules, SchemaError, alternatives, literal
from adapters.local.grammar.schema import add_schema, schema_to_gbnf

__all__ = ["Rules", "SchemaError", "add_schema", "alternatives", "literal", "schema_to_gbnf"]
