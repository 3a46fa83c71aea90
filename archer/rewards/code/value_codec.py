"""Python values as JSON and back, with the types that JSON lacks: what assertions are about.

``encode`` runs in the sandbox, inside of the tested program's process. Its text is sent there
with ``MAX_DEPTH``, so it uses nothing else from here. Whatever it returns is data to ``decode``: a
program that forges it says no more than one that returns such a value.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 200
"""Of values; also what ends on one that holds itself."""

MAX_COLLISIONS = 256
"""Different items with one hash. Powers of two, which share 61, stay far below."""


@dataclass(frozen=True)
class Node:
    """A linked list or binary tree of LeetCode, by its values."""

    kind: str
    values: tuple[Any, ...]


def encode(value, depth=0):
    """A value as plain JSON; whatever JSON lacks becomes ``{"type": name, "of": content}``.

    Raises:
        TypeError: it is neither a number, text or container, nor a linked list or tree.
        ValueError: it is nested more than ``MAX_DEPTH`` deep.
    """
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")

    def each(values):
        return [encode(item, depth + 1) for item in values]

    def linked(node):
        values, seen = [], set()
        while node is not None and id(node) not in seen:
            seen.add(id(node))
            values.append(node.val)
            node = node.next
        return values

    def level_order(root):
        nodes, values, seen = [root], [], set()
        for node in nodes:
            values.append(None if node is None else node.val)
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                nodes += [node.left, node.right]
        while values and values[-1] is None:
            values.pop()
        return values

    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else {"type": "float", "of": repr(value)}
    if isinstance(value, dict):
        return {"type": "dict", "of": [each(item) for item in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            items = each(value)
            return items if kind is list else {"type": kind.__name__, "of": items}
    if hasattr(value, "tolist"):  # numpy
        return encode(value.tolist(), depth + 1)
    if hasattr(value, "__next__") or isinstance(value, range):
        return {"type": "iterator", "of": each(value)}
    if hasattr(value, "val") and hasattr(value, "next"):
        return {"type": "linked list", "of": each(linked(value))}
    if hasattr(value, "val") and hasattr(value, "left"):
        return {"type": "tree", "of": each(level_order(value))}
    raise TypeError(f"{type(value).__name__} is not plain data")


def raised(body):
    """Names of the class and base classes of what a call raises, and its text; or None."""
    try:
        body()
    except Exception as error:
        return [[kind.__name__ for kind in type(error).__mro__], str(error)[:1000]]
    return None


_SOURCE = f"MAX_DEPTH = {MAX_DEPTH}\n{inspect.getsource(encode)}{inspect.getsource(raised)}"
ENCODER = f"_archer = {{}}\n__import__('builtins').exec({_SOURCE!r}, _archer)"
"""Statements that define both where the program runs, whatever names that has taken."""


def spread(items: Iterable[Any]) -> list[Any]:
    """The items, safe to make a set or keys of.

    Hashes of numbers are no secret: a set of multiples of ``2**61 - 1``, which all hash to 0, takes
    quadratic time, in one call that nothing interrupts.

    Raises:
        ValueError: too many different items share a hash.
        TypeError: one has none.
    """
    items = list(items)
    if len(items) - len(set(map(hash, items))) < MAX_COLLISIONS:
        return items
    by_hash = defaultdict(list)
    for item in items:
        same = by_hash[hash(item)]
        if item not in same:
            same.append(item)
            if len(same) > MAX_COLLISIONS:
                raise ValueError("too many values share a hash")
    return items


def _dict(pairs: Any) -> dict[Any, Any]:
    pairs = [(key, value) for key, value in pairs]
    spread(key for key, _ in pairs)
    return dict(pairs)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "dict": _dict,
    "tuple": tuple,
    "set": lambda values: set(spread(values)),
    "frozenset": lambda values: frozenset(spread(values)),
    "iterator": iter,
    "linked list": lambda values: Node("linked list", tuple(values)),
    "tree": lambda values: Node("tree", tuple(values)),
}


def decode(value: Any) -> Any:
    """The value that ``encode`` was given.

    Raises:
        ValueError, TypeError, RecursionError: it cannot come from ``encode``.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"type", "of"} or value["type"] not in _DECODERS:
        raise ValueError("not an encoded value")
    return _DECODERS[value["type"]](decode(value["of"]))
