"""Evaluates expressions of test scripts on plain values: outside of the sandbox, without ``eval``.

The expressions come from a data set, the values from a hostile program: numbers, texts and
containers, as ``archer.rewards.code.value_codec`` decodes them.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archer.rewards.code.value_codec import Node, spread

MAX_BITS = 1 << 20
"""Of a power: ``10**10**10`` would never end."""
MAX_ERROR_CHARS = 1000
"""Of what a call raised, for a pattern whose time may grow with their square."""
HASHING = (set, frozenset, dict, Counter)
MAX_ITEMS = 10_000_000
"""Of a sequence times a number, and of a range."""


class Unsupported(ValueError):
    """An expression that cannot be evaluated outside of the sandbox."""


def evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Args:
        names: values of its free names; those of ``FUNCTIONS`` are known besides.

    Raises:
        Unsupported: it uses something else.
        Exception: whatever Python raises on such values.
    """

    def value(child: ast.expr) -> Any:
        return evaluate(child, names)

    def values(children: Sequence[ast.expr]) -> Iterator[Any]:
        for child in children:
            if isinstance(child, ast.Starred):
                yield from value(child.value)
            else:
                yield value(child)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Name() | ast.Attribute() if (name := dotted(node)) in FUNCTIONS:
            return FUNCTIONS[name]
        case ast.List():
            return list(values(node.elts))
        case ast.Tuple():
            return tuple(values(node.elts))
        case ast.Set():
            return set(spread(values(node.elts)))
        case ast.Dict() if None not in node.keys:
            return dict(zip(spread(values(node.keys)), values(node.values), strict=True))  # type: ignore[arg-type]
        case ast.UnaryOp():
            return OPERATORS[type(node.op)](value(node.operand))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        case ast.BoolOp():
            decisive = isinstance(node.op, ast.Or)
            result: Any = None
            for result in values(node.values):
                if bool(result) == decisive:
                    break
            return result
        case ast.Compare():
            left = value(node.left)
            for op, right in zip(node.ops, values(node.comparators), strict=True):
                if not OPERATORS[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.Lambda(args=ast.arguments(args=parameters, defaults=[])):
            named = [parameter.arg for parameter in parameters]
            return lambda *given: evaluate(
                node.body, {**names, **dict(zip(named, given, strict=True))}
            )
        case ast.IfExp():
            return value(node.body if value(node.test) else node.orelse)
        case ast.Subscript():
            return value(node.value)[value(node.slice)]
        case ast.Slice():
            return slice(*(part and value(part) for part in (node.lower, node.upper, node.step)))
        case ast.Call(func=ast.Attribute(value=receiver, attr=method)) if is_text_method(node):
            owner = value(receiver)
            if not any(isinstance(owner, kind) and method in METHODS[kind] for kind in METHODS):
                raise TypeError(f"{method} of a {type(owner).__name__}")
            arguments = list(values(node.args))
            if isinstance(owner, set | frozenset):
                arguments = [_hashable(set, argument) for argument in arguments]
            if method == "join" and len(owner) * len(arguments[0]) > MAX_ITEMS:
                raise OverflowError("a text too long")
            return getattr(owner, method)(*arguments)
        case ast.Call():
            keywords = {keyword.arg: value(keyword.value) for keyword in node.keywords}
            if None in keywords:
                raise Unsupported("** in a call")
            function, arguments = value(node.func), list(values(node.args))
            if function in HASHING:
                arguments = [_hashable(function, argument) for argument in arguments]
            return function(*arguments, **keywords)  # type: ignore[arg-type]
        case ast.ListComp() | ast.GeneratorExp():
            return [evaluate(node.elt, bound) for bound in _bindings(node.generators, names)]
        case ast.SetComp():
            bindings = _bindings(node.generators, names)
            return set(spread(evaluate(node.elt, bound) for bound in bindings))
        case ast.DictComp():
            bindings = _bindings(node.generators, names)
            pairs = [(evaluate(node.key, b), evaluate(node.value, b)) for b in bindings]
            return dict(zip(spread(key for key, _ in pairs), (v for _, v in pairs), strict=True))
    raise Unsupported(f"{ast.unparse(node)[:80]!r} cannot be evaluated outside of the sandbox")


def _hashable(function: Any, argument: Any) -> Any:
    """What a class that hashes is called with, once that is known to be safe."""
    if isinstance(argument, dict | set | frozenset):  # has been looked at
        return argument
    items = list(argument)
    spread([key for key, _ in items] if function is dict else items)
    return items


def _bindings(
    generators: Sequence[ast.comprehension], names: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    if not generators:
        yield names
        return
    first, *others = generators
    for item in evaluate(first.iter, names):
        bound = {**names, **_unpacked(first.target, item)}
        if all(evaluate(condition, bound) for condition in first.ifs):
            yield from _bindings(others, bound)


def _unpacked(target: ast.expr, item: Any) -> dict[str, Any]:
    match target:
        case ast.Name(id=name):
            return {name: item}
        case ast.Tuple() | ast.List():
            pairs = zip(target.elts, item, strict=True)
            return {k: v for part, value in pairs for k, v in _unpacked(part, value).items()}
    raise Unsupported(f"{ast.unparse(target)!r} as a loop variable")


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of names and attributes, else an empty text."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=owner, attr=attribute) if prefix := dotted(owner):
            return f"{prefix}.{attribute}"
    return ""


def is_text_method(node: ast.Call) -> bool:
    """Whether it calls a method of Python's own types, on a value and not on the type."""
    return (
        isinstance(node.func, ast.Attribute)
        and any(node.func.attr in methods for methods in METHODS.values())
        and not node.keywords
        and dotted(node.func) not in FUNCTIONS
        and dotted(node.func.value) not in FUNCTIONS
    )


def _power(base: Any, exponent: Any) -> Any:
    are_integers = isinstance(base, int) and isinstance(exponent, int)
    if are_integers and base.bit_length() * abs(exponent) > MAX_BITS:
        raise OverflowError("a power too large")
    return base**exponent


def _product(left: Any, right: Any) -> Any:
    for sequence, number in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and len(sequence) * number > MAX_ITEMS:
            raise OverflowError("a sequence too long")
    return left * right


def _sum(values: Any, start: Any = 0) -> Any:
    """Lists in linear time."""
    if not isinstance(start, list | tuple):
        return sum(values, start)
    parts = [start, *values]
    if any(type(part) is not type(start) for part in parts):
        raise TypeError("a sum of different types")
    return type(start)(itertools.chain.from_iterable(parts))


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_ITEMS:
        raise OverflowError("a range too long")
    return numbers


def _is(left: Any, right: Any) -> bool:
    """Identity, for the values that have one wherever they come from."""
    return type(left) is type(right) and left == right


OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _product,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Is: _is,
    ast.IsNot: lambda left, right: not _is(left, right),
}


@dataclass(frozen=True, eq=False)
class Approximation:
    """``pytest.approx``: equal to what is near enough, number by number.

    https://docs.pytest.org/en/stable/reference/reference.html#pytest-approx
    """

    expected: Any
    rel: float | None = None
    abs: float | None = None
    nan_ok: bool = False

    def __eq__(self, other: object) -> bool:
        return self._near(other, self.expected)

    def _near(self, got: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            return (
                isinstance(got, dict)
                and got.keys() == expected.keys()
                and all(self._near(got[key], expected[key]) for key in expected)
            )
        if isinstance(expected, list | tuple):
            return (
                type(got) is type(expected)
                and len(got) == len(expected)
                and all(map(self._near, got, expected))
            )
        if isinstance(expected, bool) or not isinstance(expected, int | float):
            return got == expected
        if isinstance(got, bool) or not isinstance(got, int | float):
            return False
        if math.isnan(expected):
            return self.nan_ok and math.isnan(got)
        if got == expected:
            return True
        # A tolerance given for one of the two switches the other's default off.
        absolute = 1e-12 if self.abs is None else self.abs
        relative = self.rel if self.rel is not None else (1e-6 if self.abs is None else 0.0)
        return abs(got - expected) <= max(absolute, relative * abs(expected)) < math.inf


def is_close(
    got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """``numpy.allclose`` on numbers and containers of them; a number stands for all of a container.

    https://numpy.org/doc/stable/reference/generated/numpy.allclose.html
    """
    if isinstance(got, list | tuple) or isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            got = [got] * len(expected)
        if not isinstance(expected, list | tuple):
            expected = [expected] * len(got)
        return len(got) == len(expected) and all(
            is_close(g, e, rtol, atol, equal_nan) for g, e in zip(got, expected, strict=True)
        )
    if equal_nan and got != got and expected != expected:
        return True
    return got == expected or abs(got - expected) <= atol + rtol * abs(expected) < math.inf


def evalplus_equal(got: Any, expected: Any, atol: float = 0) -> bool:
    """``assertion`` of HumanEval+ and MBPP+: floats within 1e-6, the rest exactly.

    https://github.com/evalplus/evalplus
    """
    if got == expected:
        return True
    if atol == 0 and _are_floats(expected):
        atol = 1e-6
    # As numpy.testing.assert_allclose, for which nan equals nan. A number for a list is wrong.
    same_kind = isinstance(got, list | tuple) == isinstance(expected, list | tuple)
    return atol != 0 and same_kind and is_close(got, expected, 1e-7, atol, equal_nan=True)


def _are_floats(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, float) for item in items)


def has_raised(raised: Any, expected: Sequence[str], pattern: str | None = None) -> bool:
    """Whether a call raised one of the expected classes, with a text in which the pattern occurs.

    Args:
        raised: what ``archer.rewards.code.value_codec.raised`` returned.
    """
    if raised is None:
        return False
    classes, text = raised
    return bool(set(classes) & set(expected)) and bool(
        re.search(pattern or "", text[:MAX_ERROR_CHARS])
    )


def _tree(values: Sequence[Any]) -> Node | None:
    values = list(values)
    while values and values[-1] is None:
        values.pop()
    return Node("tree", tuple(values)) if values else None


FUNCTIONS: dict[str, Any] = {
    **{
        function.__name__: function
        for function in (
            *(abs, all, any, bool, dict, divmod, enumerate, float, frozenset, int, isinstance),
            *(filter, len, list, map, max, min, reversed, round, set, sorted, str, tuple, type),
            zip,
        )
    },
    "range": _range,
    "sum": _sum,
    "Counter": Counter,
    "collections.Counter": Counter,
    "math.inf": math.inf,
    "math.nan": math.nan,
    "math.pi": math.pi,
    "math.e": math.e,
    "math.isclose": math.isclose,
    "math.isnan": math.isnan,
    "math.isinf": math.isinf,
    "math.sqrt": math.sqrt,
    "isclose": math.isclose,
    "pytest.approx": Approximation,
    "approx": Approximation,
    **{
        f"{numpy}.{name}": is_close for numpy in ("np", "numpy") for name in ("isclose", "allclose")
    },
    "assertion": evalplus_equal,
    "list_node": lambda values: Node("linked list", tuple(values)) if values else None,
    "tree_node": _tree,
    "is_same_list": operator.eq,
    "is_same_tree": operator.eq,
    "#raised": has_raised,
}
"""What an expression may name, apart from the values it is about."""
IMPORTED = ("Counter", "approx", "isclose")
"""Those that a script has to import; without that, the name is the program's."""
_OF_SETS = frozenset(
    {"issuperset", "issubset", "isdisjoint", "union", "intersection", "difference"}
    | {"symmetric_difference", "copy"}
)
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {
            *("startswith", "endswith", "strip", "lstrip", "rstrip", "lower", "upper", "title"),
            *("split", "splitlines", "isdigit", "isalpha", "isalnum", "isupper", "islower"),
            *("isspace", "count", "index", "find", "join"),
        }
    ),
    dict: frozenset({"keys", "values", "items", "get", "copy"}),
    list: frozenset({"count", "index", "copy"}),
    tuple: frozenset({"count", "index"}),
    set: _OF_SETS,
    frozenset: _OF_SETS,
    float: frozenset({"is_integer"}),
}
"""Methods that are called outside of the sandbox, on values of exactly these types."""
