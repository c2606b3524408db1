"""A Jinja environment for chat templates that nobody has read.

A GGUF file is data from the internet, and its chat template is a program. Jinja's sandbox keeps it from
reaching Python's insides; here it is kept from eating time and memory as well. Two rules do it:

* every loop, call and filter looks at the clock;
* no value is ever larger than a limit, counted in full, so that no single step of Python's own (a
  comparison, a conversion to text, a search) takes long: what makes values larger is checked before
  (`sandbox_filters`) or its result is weighed after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from adapters.local.sandbox_filters import FILTERS, TESTS, check_format, check_growth
from adapters.local.sandbox_limits import CLOCK, joined, times, weighed

__all__ = ["ChatEnvironment", "RefusedError"]

#: Methods that a template may call, by type. What is not named here does not exist for it.
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {
            *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition"),
            *("startswith", "endswith", "removeprefix", "removesuffix", "find", "rfind", "index", "rindex"),
            *("upper", "lower", "title", "capitalize", "casefold", "swapcase", "count", "replace", "join"),
            *("isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "isupper", "islower"),
            *("ljust", "rjust", "center", "zfill"),
        }
    ),
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    list: frozenset({"index", "count", "copy"}),
    tuple: frozenset({"index", "count"}),
    float: frozenset({"is_integer"}),
}


class RefusedError(TemplateRuntimeError):
    """The template itself says that it cannot render these messages (`raise_exception`)."""


def _refuse(message: object = "") -> NoReturn:
    raise RefusedError(str(message)[:500])


def _now(form: str) -> str:
    if len(form) > 100 or any(char in "0123456789_^#-" for char in _after_percent(form)):  # noqa: PLR2004
        raise SecurityError("a date format with widths")
    return datetime.now().astimezone().strftime(form)


def _after_percent(form: str) -> Iterator[str]:
    return (form[place + 1] for place, char in enumerate(form[:-1]) if char == "%")


class _QuietNamespace(Namespace):
    """Printing a namespace would print what it holds, and what that holds, ..."""

    def __repr__(self) -> str:
        return "<namespace>"


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class _Generator(CodeGenerator):
    """Puts the checks into the compiled template."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802 - Jinja's name
        for loop in node.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "paced", [], [], None, None).set_lineno(loop.lineno)
        super().visit_Template(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.concat_checked((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.weighed(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.weighed(")
        super().visit_Tuple(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.weighed(")
        super().visit_Dict(node, frame)
        self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        # Nothing is computed while compiling: there the checks above are not in force yet.
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Generation(Extension):
    """`{% generation %}`, which marks what to train on: without effect here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and renders chat templates as Hugging Face's transformers do, within limits.

    Raises:
        jinja2.TemplateSyntaxError: by `from_string`.
        SecurityError, ClockError: by whatever a template must not do.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    concat = staticmethod(joined)
    weighed = staticmethod(weighed)
    concat_checked = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=weighed,
            cache_size=0,
            extensions=[loopcontrols, _Generation],
        )
        self.filters = dict(FILTERS)
        self.tests = {name: test for name, test in self.tests.items() if name not in TESTS} | TESTS
        self.globals = {
            "range": safe_range,
            "dict": _dict,
            "namespace": _QuietNamespace,
            "raise_exception": _refuse,
            "strftime_now": _now,
        }
        self._callable = frozenset(self.globals.values())

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls something for a template, if it may be called at all."""
        CLOCK.tick()
        weighed((args, kwargs))
        self._check_callable(called, args)
        return weighed(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes for a template, if the result is of bearable size."""
        CLOCK.tick()
        if operator == "*":
            return times(left, right)
        if operator == "**" and not (abs(left) < 1 << 32 and abs(right) < 1 << 6):
            raise SecurityError("a power too large")
        if operator == "%" and isinstance(left, str):
            check_format(left, right)
        return weighed(super().call_binop(context, operator, left, right))

    def _check_callable(self, called: Any, args: tuple[Any, ...]) -> None:
        if isinstance(called, Macro | LoopContext):
            return
        if isinstance(called, BuiltinMethodType):
            owner = called.__self__
            names: Iterable[str] = next(
                (names for kind, names in _METHODS.items() if isinstance(owner, kind)), ()
            )
            if called.__name__ in names:
                if isinstance(owner, str):
                    check_growth(called.__name__, owner, args)
                return
        elif isinstance(called, MethodType) and isinstance(called.__self__, LoopContext):
            return
        elif isinstance(called, FunctionType) and hasattr(called, "__wrapped__"):  # Jinja's safe str.format
            check_format(called.__wrapped__.__self__, args)
            return
        elif isinstance(called, FunctionType | type) and called in self._callable:
            return
        raise SecurityError(f"a template may not call {getattr(called, '__name__', type(called).__name__)!r}")
