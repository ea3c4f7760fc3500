"""Whether a value survives being written and read: what a type leaves out, and where two values differ.

What is kept in a history and what travels to a service is bytes. A value that comes back as another one would make a
saga that is rebuilt differ from the one that was driven, so it is refused when it is written.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import UnionType
from typing import Any
from uuid import UUID

import msgspec

#: Compared by value alone: nothing is in them.
_SIMPLE = frozenset((str, int, float, bool, type(None), bytes, Decimal))
#: pydantic's types that are written as stars.
_SECRETS = frozenset(("Secret", "SecretStr", "SecretBytes"))

#: Of which a value can't be written in two ways, as a float can (1 and 1.0).
_SETTLED = frozenset((str, int, bool, type(None), bytes, Decimal, datetime, date, timedelta, UUID))

Fill = Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is known of a type without a value of it."""

    #: Why no value of it survives; empty if it may.
    refusal: str = ""
    #: Writes the defaults into a value that was just read; None where that is done already.
    fill: Fill | None = None
    #: Those defaults, where they are the type's own.
    defaults: frozenset[str] = frozenset()
    #: Nothing but what it declares can be in a value of exactly this class, and that is written in one way only.
    settled: bool = False
    #: What `==` says of two values is about all that is in them.
    by_equality: bool = False
    #: A pydantic model is in it.
    has_model: bool = False
    #: A pydantic model in it has a Decimal: pydantic reads a JSON number as a double first.
    decimal_in_model: bool = False


def survey(kind: Any) -> Survey:
    """Look at a type and at all types that it is made of."""
    seen: set[Any] = set()
    refusal, decimals, lazy, equality, models, settled = "", False, False, True, False, is_dataclass(kind)
    for part, in_model in _parts(kind, seen, in_model=is_model(kind)):
        refusal = refusal or _why_not(part)
        decimals = decimals or (in_model and part is Decimal)
        settled = settled and (part is kind or part in _SETTLED or _is_optional(part))
        models = models or is_model(part)
        lazy = lazy or (part is not kind and bool(_lazy_fields(part)))
        equality = equality and _compares_all(part)
    names = _lazy_fields(kind)
    fill: Fill | None = complete if lazy else None
    if fill is None and names:
        fill = _filler(names)
    return Survey(
        refusal=refusal,
        fill=fill,
        defaults=frozenset(names),
        settled=settled,
        by_equality=equality,
        has_model=models,
        decimal_in_model=decimals,
    )


def is_model(kind: Any) -> bool:
    """A pydantic model, without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json") and hasattr(kind, "model_dump_json")


def difference(value: Any, back: Any, path: str = "$") -> str | None:
    """Where the value that was read differs from the one that was written; None if nowhere. It shows no values."""
    kind = value.__class__
    if kind in _SIMPLE:
        return None if value == back else _changed(path, value, back)
    if kind in (list, tuple):
        return _in_sequence(value, back, path)
    if kind is dict or isinstance(value, Mapping):
        return _in_mapping(value, back, path)
    names = _fields(value)
    if names is None:
        return None if value == back else _changed(path, value, back)
    known = _fields(back)
    if known is None:
        return _changed(path, value, back)
    for name in names:
        if name not in known:
            return f"{path}.{name}: {kind.__qualname__} has it, {back.__class__.__qualname__} has not, so it is lost"
        found = difference(getattr(value, name, None), getattr(back, name, None), f"{path}.{name}")
        if found is not None:
            return found
    return None


def complete(value: Any) -> bool:
    """Write the defaults that are missing into every dataclass in `value`; whether any was.

    msgspec leaves those to the class.
    """
    found = False
    stack = [value]
    while stack:
        item = stack.pop()
        kind = item.__class__
        if kind in _SIMPLE:
            continue
        if kind in (list, tuple, set, frozenset):
            stack.extend(item)
        elif kind is dict:
            stack.extend(item.values())
        elif (fields := getattr(kind, "__dataclass_fields__", None)) is not None:
            found = _fill_in(item, _lazy_fields(kind)) or found
            stack.extend(getattr(item, name, None) for name in fields)
        elif isinstance(item, msgspec.Struct):
            stack.extend(getattr(item, name) for name in item.__struct_fields__)
    return found


def _in_sequence(value: Any, back: Any, path: str) -> str | None:
    # A tuple where a list is declared, or nothing is, comes back as a list: that is how JSON has it.
    if not isinstance(back, list | tuple) or len(value) != len(back):
        return None if isinstance(back, set | frozenset) and set(value) == back else _changed(path, value, back)
    for n, (one, other) in enumerate(zip(value, back, strict=True)):
        if (found := difference(one, other, f"{path}[{n}]")) is not None:
            return found
    return None


def _in_mapping(value: Any, back: Any, path: str) -> str | None:
    if not isinstance(back, Mapping):
        return _changed(path, value, back)
    for key, item in value.items():
        if key not in back:
            return f"{path}: the key {key!r:.80} is lost or comes back as another one"
        if (found := difference(item, back[key], f"{path}[{key!r:.40}]")) is not None:
            return found
    return None if len(value) == len(back) else f"{path}: there are keys that were not written"


def _changed(path: str, value: Any, back: Any) -> str:
    before, after = value.__class__.__qualname__, back.__class__.__qualname__
    return f"{path}: {before} comes back as {after if after != before else 'another value'}"


def _fields(value: Any) -> Any:
    """The names of what is in an object; None for one that nothing is in."""
    kind = value.__class__
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        return fields
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_model(kind):
        return {**value.__dict__, **(getattr(value, "__pydantic_extra__", None) or {})}
    return None


def _compares_all(kind: Any) -> bool:
    """Whether `==` of this class, if it is a user's own, compares every field: nobody has written or narrowed it."""
    if not isinstance(kind, type) or not is_dataclass(kind):
        return not is_model(kind) or "__eq__" not in vars(kind)
    generated = getattr(getattr(kind.__eq__, "__code__", None), "co_filename", "") == "<string>"
    return generated and all(field.compare for field in kind.__dataclass_fields__.values())


def _lazy_fields(kind: Any) -> tuple[str, ...]:
    """Fields whose default stands in the class: an instance that msgspec has read looks it up there."""
    if not isinstance(kind, type) or not is_dataclass(kind) or not getattr(kind, "__dictoffset__", 0):
        return ()
    defined = frozenset(name for base in kind.__mro__ for name in vars(base) if name not in _slots(base))
    return tuple(name for name in kind.__dataclass_fields__ if name in defined)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _filler(names: tuple[str, ...]) -> Fill:
    return lambda value: _fill_in(value, names)


def _fill_in(value: Any, names: tuple[str, ...]) -> bool:
    # With slots there is no __dict__, and nothing is missing either.
    missing = [name for name in names if name not in value.__dict__]
    for name in missing:
        value.__dict__[name] = getattr(value, name)
    return bool(missing)


def _is_optional(kind: Any) -> bool:
    """`X | None`; of another union a value may be written like that of another member."""
    inner = typing.get_args(kind)
    return typing.get_origin(kind) in (typing.Union, UnionType) and len(inner) == 2 and type(None) in inner


def _why_not(kind: Any) -> str:
    """Why no value of this class survives."""
    name = getattr(kind, "__name__", "")
    if name.partition("[")[0] in _SECRETS and getattr(kind, "__module__", "").startswith("pydantic"):
        return f"{name} is written as stars, so the secret would be lost; pass a reference to it instead"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.omit_defaults:
        return f"{name} leaves its defaults out (omit_defaults), so another default would change what was kept"
    if is_model(kind):
        model: Any = kind
        for field, info in model.model_fields.items():
            if info.exclude:
                return f"{kind.__qualname__}.{field} is left out when it is written (exclude), so it would be lost"
    return ""


def _parts(kind: Any, seen: set[Any], *, in_model: bool) -> Iterator[tuple[Any, bool]]:
    """The classes that a type is made of, itself included, and whether they are in a pydantic model."""
    try:
        if kind in seen:
            return
        seen.add(kind)
    except TypeError:  # the values of a Literal may be anything
        return
    yield kind, in_model
    origin = typing.get_origin(kind)
    inner = [*typing.get_args(kind), *([origin] if isinstance(origin, type) and origin is not UnionType else [])]
    metadata = getattr(kind, "__pydantic_generic_metadata__", None)
    if is_model(kind):
        in_model = True
        inner += [info.annotation for info in kind.model_fields.values()]
        inner += (metadata or {}).get("args", ())
    elif isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, msgspec.Struct) or _is_typed(kind)):
        inner += _hints(kind)
    for part in inner:
        yield from _parts(part, seen, in_model=in_model)


def _is_typed(kind: type) -> bool:
    return typing.is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "__annotations__"))


def _hints(kind: type) -> list[Any]:
    try:
        return list(typing.get_type_hints(kind).values())
    except Exception:  # noqa: BLE001 - names that can't be found now; msgspec says so when it is to read the type
        return []
