"""What tells one version of a saga's code from another: the same under every version of Python.

A fingerprint is `SCHEME:HASH`. Two of different schemes say nothing about each other. `source1` is of the syntax tree;
where there is no source (a saga typed at a prompt), it is of the compiled code, which each version of Python makes in
a way of its own.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

#: Hexadecimal digits of the hash: with the scheme it fits the column.
_DIGITS = 48
#: Fields of the syntax tree that say nothing about what is done, or that not every version of Python has.
_ASIDE = frozenset(("ctx", "kind", "type_comment", "type_params", "returns", "annotation"))


def fingerprint_of(function: Callable[..., Any]) -> str:
    """The fingerprint of a saga's function; comments, formatting, annotations and docstrings do not count."""
    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, ValueError, SyntaxError):
        scheme = f"code{sys.version_info.major}.{sys.version_info.minor}"
        return f"{scheme}:{_hash(_compiled(function.__code__))}"
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        tree.decorator_list = []  # `@saga` itself: its bounds are no code
    return f"source1:{_hash(_told(tree))}"


def comparable(one: str, other: str) -> bool:
    """Whether two fingerprints are of one scheme. Those from before there were schemes have none."""
    return ":" in one and one.partition(":")[0] == other.partition(":")[0]


def _hash(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:_DIGITS]


def _told(node: Any) -> Iterator[str]:
    """A syntax tree as texts: what is empty is left out, so that a field that Python adds changes nothing."""
    if isinstance(node, list):
        for item in node:
            yield from _told(item)
        yield "."
    elif isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if name in _ASIDE or value is None or value == []:
                continue
            yield name
            yield from _told(_without_docstring(node, value) if name == "body" else value)
        yield "."
    else:
        yield f"{type(node).__name__} {node!r}"


def _without_docstring(node: ast.AST, body: Any) -> Any:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return body
    return body if ast.get_docstring(node, clean=False) is None else body[1:]


def _compiled(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _compiled(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)
