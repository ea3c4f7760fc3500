"""Walks over an Avro datum by its schema before any decoder sees it.

fastavro's C reader crashes the process on deep recursion, and a few bytes can make it build millions of items. So
recursive schemas and items without a size are refused when a schema is compiled, and every count and length is held
against the bytes that are there when a datum is walked. The cost of a walk is bounded by the limit on items.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from segue.errors import ConfigError, DecodeError
from segue.limits import Limits

#: Digits of a decimal that are converted; PostgreSQL's numeric ends at 1,000 when declared.
MAX_PRECISION = 1000
_INT32 = (-(2**31), 2**31 - 1)


class UnsafeSchema(ConfigError):
    """An Avro schema is malformed, recursive, or lets a few bytes claim millions of items."""

    code = "unsafe_schema"


class Cursor:
    """Where a walk stands; every step takes one of the items that are left."""

    __slots__ = ("data", "items", "position")

    def __init__(self, data: bytes, items: int) -> None:
        self.data = data
        self.items = items
        self.position = 0

    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> None:
        self.items -= count
        if self.items < 0:
            raise DecodeError("Avro datum has more items than are allowed")

    def skip(self, size: int) -> None:
        if not 0 <= size <= self.left():
            raise DecodeError(f"Avro datum claims {size} bytes where {self.left()} are left")
        self.position += size

    def long(self) -> int:
        """A zigzag varint of at most 64 bits."""
        shift = value = 0
        for byte in self.data[self.position : self.position + 10]:
            self.position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                if value >= 2**64:
                    break
                return (value >> 1) ^ -(value & 1)
        raise DecodeError("Avro datum has a number that is cut off or does not fit 64 bits")


Walk = Callable[[Cursor], None]


class Bounds:
    """The compiled walk of one schema. Raises UnsafeSchema for a schema that can't be walked safely."""

    def __init__(self, schema: Any, limits: Limits) -> None:
        self._limits = limits
        self._named: dict[str, tuple[Walk, int]] = {}
        self._open: list[str] = []
        self._walk, _ = self._compile(schema, 0)

    def check(self, data: bytes) -> None:
        """Raise DecodeError unless `data` is exactly one datum of the schema, within the limits."""
        cursor = Cursor(data, self._limits.avro_items)
        self._walk(cursor)
        if cursor.left():
            raise DecodeError(f"Avro datum is followed by {cursor.left()} bytes that do not belong to it")

    def _compile(self, schema: Any, depth: int) -> tuple[Walk, int]:
        """The walk over one type and the least number of bytes that a value of it takes."""
        if depth > self._limits.depth:
            raise UnsafeSchema(f"Avro schema is nested deeper than {self._limits.depth} levels")
        if isinstance(schema, list):
            return self._union(schema, depth)
        if isinstance(schema, str):
            return self._primitive_or_named(schema)
        kind = schema["type"]
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(schema, kind, depth)
        if kind == "array":
            return self._array(*self._compile(schema["items"], depth + 1))
        if kind == "map":
            return _map(self._compile(schema["values"], depth + 1)[0])
        if schema.get("logicalType") == "decimal":
            return _decimal(schema)
        return self._compile(kind, depth + 1)

    def _primitive_or_named(self, name: str) -> tuple[Walk, int]:
        if name in _PRIMITIVES:
            return _PRIMITIVES[name]
        if name in self._open:
            raise UnsafeSchema(
                f"Avro schema is recursive ({' → '.join([*self._open, name])}); such a datum has no bounds"
            )
        if name not in self._named:
            raise UnsafeSchema(f"Avro schema refers to {name!r:.80}, which it does not define")
        return self._named[name]

    def _define(self, schema: Mapping[str, Any], kind: str, depth: int) -> tuple[Walk, int]:
        name = schema["name"]
        if kind == "enum":
            made = _choice(len(schema["symbols"]))
        elif kind == "fixed":
            made = _fixed(int(schema["size"]), schema)
        else:
            self._open.append(name)
            made = _record([self._compile(field["type"], depth + 1) for field in schema["fields"]])
            self._open.pop()
        self._named[name] = made
        return made

    def _union(self, branches: list[Any], depth: int) -> tuple[Walk, int]:
        walks = [self._compile(branch, depth + 1) for branch in branches]

        def walk(cursor: Cursor) -> None:
            cursor.take(1)
            index = cursor.long()
            if not 0 <= index < len(walks):
                raise DecodeError(f"Avro datum names branch {index} of a union of {len(walks)}")
            walks[index][0](cursor)

        return walk, 1 + min((size for _, size in walks), default=0)

    def _array(self, item: Walk, least: int) -> tuple[Walk, int]:
        if least == 0:
            raise UnsafeSchema("Avro schema has an array of items that take no bytes; five bytes could claim millions")

        def walk(cursor: Cursor) -> None:
            for count in _blocks(cursor, least):
                for _ in range(count):
                    item(cursor)

        return walk, 1


def _blocks(cursor: Cursor, least: int) -> Any:
    """The counts of the blocks of an array or a map, each held against the bytes that are left."""
    while True:
        count = cursor.long()
        if count == 0:
            return
        if count < 0:
            count = -count
            size = cursor.long()
            if not 0 <= size <= cursor.left():
                raise DecodeError(f"Avro datum claims a block of {size} bytes where {cursor.left()} are left")
        if count * least > cursor.left():
            raise DecodeError(f"Avro datum claims {count} items where {cursor.left()} bytes are left")
        cursor.take(count)
        yield count


def _record(fields: list[tuple[Walk, int]]) -> tuple[Walk, int]:
    walks = [walk for walk, _ in fields]

    def walk(cursor: Cursor) -> None:
        cursor.take(1)
        for field in walks:
            field(cursor)

    return walk, sum(size for _, size in fields)


def _map(value: Walk) -> tuple[Walk, int]:
    def walk(cursor: Cursor) -> None:
        for count in _blocks(cursor, 1):
            for _ in range(count):
                cursor.skip(cursor.long())
                value(cursor)

    return walk, 1


def _choice(count: int) -> tuple[Walk, int]:
    def walk(cursor: Cursor) -> None:
        cursor.take(1)
        index = cursor.long()
        if not 0 <= index < count:
            raise DecodeError(f"Avro datum names symbol {index} of an enum of {count}")

    return walk, 1


def _fixed(size: int, schema: Mapping[str, Any]) -> tuple[Walk, int]:
    if schema.get("logicalType") == "decimal" and size > _decimal_bytes(schema):
        raise UnsafeSchema(f"Avro schema has a decimal of {size} bytes, more than its precision needs")

    def walk(cursor: Cursor) -> None:
        cursor.take(1)
        cursor.skip(size)

    return walk, size


def _decimal(schema: Mapping[str, Any]) -> tuple[Walk, int]:
    most = _decimal_bytes(schema)

    def walk(cursor: Cursor) -> None:
        cursor.take(1)
        size = cursor.long()
        # A decimal of 200 kB would take minutes to convert.
        if size > most:
            raise DecodeError(f"Avro datum has a decimal of {size} bytes, its precision needs at most {most}")
        cursor.skip(size)

    return walk, 1


def _decimal_bytes(schema: Mapping[str, Any]) -> int:
    precision = int(schema.get("precision", 0))
    if not 0 < precision <= MAX_PRECISION:
        raise UnsafeSchema(f"Avro schema has a decimal of precision {precision}; allowed are 1 to {MAX_PRECISION}")
    # Sign, and a byte for writers that do not shorten.
    return math.ceil(precision * math.log2(10) / 8) + 2


def _null(cursor: Cursor) -> None:
    cursor.take(1)


def _boolean(cursor: Cursor) -> None:
    cursor.take(1)
    if cursor.data[cursor.position : cursor.position + 1] not in (b"\x00", b"\x01"):
        raise DecodeError("Avro datum has a boolean that is neither 0 nor 1")
    cursor.position += 1


def _int(cursor: Cursor) -> None:
    cursor.take(1)
    number = cursor.long()
    if not _INT32[0] <= number <= _INT32[1]:
        raise DecodeError(f"Avro datum has the int {number}, which does not fit 32 bits")


def _long(cursor: Cursor) -> None:
    cursor.take(1)
    cursor.long()


def _bytes(cursor: Cursor) -> None:
    cursor.take(1)
    cursor.skip(cursor.long())


def _floating(code: str, size: int) -> Walk:
    def walk(cursor: Cursor) -> None:
        cursor.take(1)
        begin = cursor.position
        cursor.skip(size)
        if not math.isfinite(struct.unpack_from(code, cursor.data, begin)[0]):
            raise DecodeError("Avro datum has NaN or an infinity, which JSON can't express")

    return walk


_PRIMITIVES: Mapping[str, tuple[Walk, int]] = {
    "null": (_null, 0),
    "boolean": (_boolean, 1),
    "int": (_int, 1),
    "long": (_long, 1),
    "float": (_floating("<f", 4), 4),
    "double": (_floating("<d", 8), 8),
    "bytes": (_bytes, 1),
    "string": (_bytes, 1),
}
