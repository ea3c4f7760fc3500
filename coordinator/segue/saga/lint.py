"""Warnings about saga code, read from its source: iteration over a set, whose order differs from process to process.

A replay in another process would give the second item's result to the first one. It is noticed then, and the saga is
blocked; here it is noticed before.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segue.saga.definition import SagaDefinition

#: What makes a sequence of what it is given, in the order in which that comes.
_IN_ORDER = frozenset(("list", "tuple", "enumerate", "iter", "zip", "map", "filter", "gather"))
_SETS = frozenset(("set", "frozenset"))
_SET_METHODS = frozenset(("union", "intersection", "difference", "symmetric_difference"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A line of saga code that may do something else at a replay."""

    saga: str
    file: str
    line: int
    what: str


def lint(definition: SagaDefinition[Any, Any]) -> list[Warned]:
    """The lines of a saga's function that go over a set; empty where its source is not here."""
    try:
        lines, first = inspect.getsourcelines(definition.function)
    except (OSError, TypeError):
        return []
    tree = ast.parse(textwrap.dedent("".join(lines)))
    file = inspect.getsourcefile(definition.function) or "?"
    found = {(node.lineno, ast.unparse(node)) for node in _gone_over(tree, _Sets(definition, tree))}
    return [
        Warned(
            saga=definition.name,
            file=file,
            line=first + line - 1,
            what=f"it goes over the set {text:.60}, whose order is another one in each process: use sorted(…)",
        )
        for line, text in sorted(found)
    ]


class _Sets:
    """Tells which expressions of one function are sets, as far as its source and the type of its input say."""

    def __init__(self, definition: SagaDefinition[Any, Any], tree: ast.Module) -> None:
        parameters = list(inspect.signature(definition.function).parameters)
        self._input = parameters[1]
        self._fields = _set_fields(definition.input_type)
        self._names: set[str] = {self._input} if _is_set_type(definition.input_type) else set()
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_set(node.annotation):
                self._names.add(node.target.id)
            elif isinstance(node, ast.Assign) and self.has(node.value):
                self._names |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def has(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return name in self._names
            case ast.Attribute(value=ast.Name(id=name), attr=field):
                return name == self._input and field in self._fields
            case ast.Call(func=ast.Name(id=name)):
                return name in _SETS
            case ast.Call(func=ast.Attribute(value=of, attr=name)):
                return name in _SET_METHODS and self.has(of)
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), left=left, right=right):
                return self.has(left) or self.has(right)
            case _:
                return False


def _gone_over(tree: ast.Module, sets: _Sets) -> Iterator[ast.expr]:
    """The sets whose order matters: those of loops, of comprehensions that keep it, and those made a sequence."""
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=over) | ast.AsyncFor(iter=over):
                candidates = [over]
            case ast.ListComp(generators=parts) | ast.GeneratorExp(generators=parts) | ast.DictComp(generators=parts):
                candidates = [part.iter for part in parts]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments) if name in _IN_ORDER:
                candidates = list(arguments)
            case ast.Starred(value=over):
                candidates = [over]
            case _:
                continue
        yield from (candidate for candidate in candidates if sets.has(candidate))


def _set_fields(input_type: Any) -> frozenset[str]:
    try:
        hints = typing.get_type_hints(input_type)
    except (NameError, TypeError):
        return frozenset()
    return frozenset(name for name, hint in hints.items() if _is_set_type(hint))


def _is_set_type(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in (set, frozenset)


def _says_set(annotation: ast.expr) -> bool:
    name = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(name, ast.Name) and name.id in _SETS
