"""Warnings about saga code, read from its source: iteration over a set, whose order differs from process to process.

A replay in another process would give the second item's result to the first one. It is noticed then, and the saga is
blocked; here it is noticed before.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, FunctionType
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
    """The lines that go over a set: of a saga's function, and of those of its package that it calls.

    A method is followed where the name in front of it stands for its object, class or module in the saga's module.
    Empty where the source is not here.
    """
    package = definition.function.__module__.partition(".")[0]
    found: dict[tuple[str, int, str], Warned] = {}
    todo: list[Callable[..., Any]] = [definition.function]
    seen: set[CodeType] = set()
    while todo:
        function = todo.pop(0)
        source = _Source.of(function)
        if source is None or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for line, text in source.gone_over():
            found.setdefault((source.file, line, text), _warned(definition.name, source.file, line, text))
        todo.extend(called for called in source.called() if called.__module__.partition(".")[0] == package)
    return sorted(found.values(), key=lambda warned: (warned.file, warned.line, warned.what))


def _warned(saga: str, file: str, line: int, text: str) -> Warned:
    what = f"it goes over the set {text:.60}, whose order is another one in each process: use sorted(…)"
    return Warned(saga=saga, file=file, line=line, what=what)


class _Source:
    """The source of one function, and what its names stand for."""

    def __init__(self, function: FunctionType, lines: Sequence[str], first: int) -> None:
        self.file = inspect.getsourcefile(function) or "?"
        self._first = first
        self._tree = ast.parse(textwrap.dedent("".join(lines)))
        self._names = {**function.__globals__, **_closed_over(function)}
        self._sets = _Sets(function, self._tree, self._meant)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Source | None:
        """None for what has no source here."""
        if not isinstance(function, FunctionType):
            return None
        try:
            lines, first = inspect.getsourcelines(function)
            return cls(function, lines, first)
        except (OSError, TypeError, SyntaxError):
            return None

    def gone_over(self) -> list[tuple[int, str]]:
        """Line and text of each set whose order matters."""
        found = {(node.lineno, ast.unparse(node)) for node in _gone_over(self._tree, self._sets)}
        return sorted((self._first + line - 1, text) for line, text in found)

    def called(self) -> Iterator[FunctionType]:
        """The functions that it calls, as far as their names say which."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                meant = self._meant(node.func)
                if meant is not None:
                    yield meant

    def _meant(self, node: ast.expr) -> FunctionType | None:
        match node:
            case ast.Name(id=name):
                found = self._names.get(name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in self._names:
                found = inspect.getattr_static(self._names[name], attribute, None)
            case _:
                return None
        found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        return found if isinstance(found, FunctionType) else None


def _closed_over(function: FunctionType) -> dict[str, Any]:
    """The values of names that a function has from the one around it."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not set yet
            found[name] = cell.cell_contents
    return found


class _Sets:
    """Tells which expressions of one function are sets, as far as its source and its types say."""

    def __init__(
        self, function: FunctionType, tree: ast.Module, meant: Callable[[ast.expr], FunctionType | None]
    ) -> None:
        self._meant = meant
        hints = _hints(function)
        hints.pop("return", None)
        self._fields = {name: _set_fields(hint) for name, hint in hints.items()}
        self._names = {name for name, hint in hints.items() if _is_set_type(hint)}
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_set(node.annotation):
                self._names.add(node.target.id)
            elif isinstance(node, ast.arg) and node.annotation is not None and _says_set(node.annotation):
                self._names.add(node.arg)
            elif isinstance(node, ast.Assign) and self.has(node.value):
                self._names |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def has(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                return name in self._names
            case ast.Attribute(value=ast.Name(id=name), attr=field):
                return field in self._fields.get(name, ())
            case ast.Call(func=ast.Name(id=name)) if name in _SETS:
                return True
            case ast.Call(func=ast.Attribute(value=of, attr=name)) if name in _SET_METHODS and self.has(of):
                return True
            case ast.Call(func=called):
                function = self._meant(called)
                return function is not None and _is_set_type(_hints(function).get("return"))
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


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing)
    except (NameError, TypeError, AttributeError):
        return {}


def _set_fields(kind: Any) -> frozenset[str]:
    return frozenset(name for name, hint in _hints(kind).items() if _is_set_type(hint))


def _is_set_type(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in (set, frozenset)


def _says_set(annotation: ast.expr) -> bool:
    name = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(name, ast.Name) and name.id in _SETS
