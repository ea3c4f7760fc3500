"""The fingerprint of a saga's code: what changes it, and what must not."""

from __future__ import annotations

import linecache
from typing import Any

from segue.saga import Saga, saga
from segue.saga.fingerprint import comparable, fingerprint_of

CODE = '''
async def order(s, order):
    """Ship it."""
    total = [n for n in order.items if n > 1]
    return f"{total} {order.id!r:>10}"
'''


def made(text: str, name: str = "<told>") -> Any:
    names: dict[str, Any] = {}
    exec(compile(text, name, "exec"), names)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return names["order"]


def test_the_fingerprint_of_a_code_is_the_same_under_every_version_of_python() -> None:
    assert fingerprint_of(made(CODE)) == "source1:ebb1977ebc49fbba8a759255c892b54b2f882f2dbe3af642"


def test_comments_formatting_annotations_and_docstrings_do_not_count() -> None:
    other = """
async def order(s: object,  order: object) -> str:  # ships
    total = [
        n for n in order.items if n > 1
    ]
    return f"{total} {order.id!r:>10}"
"""
    assert fingerprint_of(made(other, "<other>")) == fingerprint_of(made(CODE))


def test_what_the_code_does_counts() -> None:
    for n, (before, after) in enumerate((("n > 1", "n > 2"), ("order.id", "order.no"), ("[n for", "[-n for"))):
        assert fingerprint_of(made(CODE.replace(before, after), f"<{n}>")) != fingerprint_of(made(CODE))


def test_the_decorators_arguments_are_no_code() -> None:
    def define(version: int) -> str:
        @saga("same", version=version)
        async def same(s: Saga, n: int) -> int:
            return n

        return same.fingerprint

    assert define(1) == define(2)
    assert define(1).startswith("source1:")
    assert len(define(1)) <= 64


def test_without_a_source_it_is_of_the_compiled_code_and_says_nothing_about_others() -> None:
    names: dict[str, Any] = {}
    exec("async def order(s, order): return 1", names)
    without = fingerprint_of(names["order"])
    assert without.startswith("code3.")
    assert not comparable(without, fingerprint_of(made(CODE)))
    assert not comparable("0" * 64, "0" * 64)
    assert comparable("source1:a", "source1:b")
