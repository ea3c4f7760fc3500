"""Typed objects ↔ the canonical JSON that is kept and sent.

Dataclasses, msgspec structs, enums, datetimes, `Decimal` (as a string), UUIDs, bytes (base64), lists, dicts and None
are msgspec's; pydantic models are known by what they can do, wherever they are nested. The same value makes the same
bytes: fields in their order, defaults written, keys of dicts and members of sets sorted.

What is written of a declared type is read back at once. What would come back as something else is refused.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, TypeVar, cast, get_origin, is_typeddict

import msgspec

from segue.errors import ContractError, DecodeError, InputError, InvalidPayload
from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.codec import JsonCodec, has_long_number
from segue.topics.survival import Survey, complete, difference, is_model, survey

T = TypeVar("T")

#: Strings (to skip) and numbers that are no integers.
_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*+"|(-?[0-9]+(?:\.[0-9]+|(?=[eE]))(?:[eE][-+]?[0-9]+)?)', re.DOTALL)
_MANY_DIGITS = re.compile(rb"[0-9.]{16}")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_WITH_PATH = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)


class _Kind(msgspec.Struct):
    """What is kept of each type: how it is read, and what is known of it without a value."""

    decoder: msgspec.json.Decoder[Any] | None
    survey: Survey
    #: A value has come back as it was, and so does every other one: reading it costs more than writing it.
    proven: bool = False


class Converter:
    """Converts with one compiled decoder per type; safe to share between threads."""

    __slots__ = ("_by_alias", "_by_name", "_kinds", "_limits", "_strict", "_untyped")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._strict = JsonCodec(limits)
        self._untyped = _encoder(by_alias=True, round_trip=False)
        self._by_alias = _encoder(by_alias=True, round_trip=True)
        self._by_name = _encoder(by_alias=False, round_trip=True)
        self._kinds: dict[Any, _Kind] = {}

    def to_bytes(self, value: object, type: Any = None) -> bytes:
        """Canonical JSON of `value`, with every default written.

        With `type` the value must be of it, and must be the same once it is read again. Raises InvalidPayload naming
        the Python type that can't be written, what would come back otherwise, or the limit exceeded.
        """
        if type is None:
            data = self._written(self._untyped, value)
            return self._written(self._untyped, value) if complete(value) else data
        if value.__class__ is not type:
            self._check_class(value, type)
        known = self._kinds.get(type) or self._know(type)
        if known.survey.refusal:
            raise InvalidPayload(f"{_name(type)} does not survive being written: {known.survey.refusal}")
        data = self._written(self._by_alias, value)
        if known.proven and value.__class__ is type:
            defaults = known.survey.defaults
            if not defaults or defaults <= value.__dict__.keys():  # none of its own is missing
                return data
        back, changed = self._read_back(data, value, type, known)
        if changed is not None and known.survey.has_model:
            # A model that is read by its fields' names alone.
            back, again = self._read_back(self._written(self._by_name, value), value, type, known)
            if again is None:
                return self._written(self._by_name, back)
        if changed is not None:
            raise InvalidPayload(f"{_name(value.__class__)} does not survive being written as {_name(type)}: {changed}")
        known.proven = known.survey.settled
        return self._written(self._by_alias, back)

    def same(self, one: bytes, other: bytes, type: Any) -> bool:
        """Whether both are one value of `type`, however they were written, and by whichever version of it."""
        if one == other:
            return True
        try:
            return difference(self.from_bytes(one, type), self.from_bytes(other, type)) is None
        except (InputError, ContractError):
            return False

    def check(self, type: Any) -> None:
        """Raise ContractError for a type of which no value survives being written and read, or that can't be read."""
        known = self._know(type)
        if known.survey.refusal:
            raise ContractError(f"{_name(type)} does not survive being written: {known.survey.refusal}")

    def from_bytes(self, data: bytes, type: type[T]) -> T:
        """The value of `type` that the JSON holds.

        Raises InvalidPayload naming the path, what was expected there and what was found; DecodeError for what is not
        JSON; ContractError for a type that can't be read.
        """
        return cast("T", self._read(data, type, self._kinds.get(type) or self._know(type)))

    def _read_back(self, data: bytes, value: object, type: Any, known: _Kind) -> tuple[Any, str | None]:
        """The value that comes back, and where it differs."""
        try:
            back = self._read(data, type, known)
        except InvalidPayload as error:
            return None, str(error)
        if known.survey.by_equality and value == back:
            return back, None
        return back, difference(value, back)

    def _read(self, data: bytes, type: Any, known: _Kind) -> Any:
        if known.survey.decimal_in_model:
            _refuse_inexact(data, type)
        if known.decoder is None:
            return _validate_model(type, data)
        try:
            value = known.decoder.decode(data)
        except msgspec.ValidationError as error:
            raise InvalidPayload(_explain(str(error), data, type)) from None
        except NotImplementedError:
            raise ContractError(f"values of {_name(type)} can't be read from JSON: a class in it is unknown") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not JSON: {error!s:.200}") from None
        if known.survey.fill is not None:
            known.survey.fill(value)
        return value

    def _written(self, encoder: msgspec.json.Encoder, value: object) -> bytes:
        try:
            data = encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidPayload(f"{_name(value.__class__)} can't be written as JSON: {error!s:.300}") from None
        if b"null" in data and _has_nan(value):
            raise InvalidPayload(f"{_name(value.__class__)} contains NaN or an infinity, which JSON can't express")
        if len(data) > self._limits.payload_bytes:
            allowed = self._limits.payload_bytes
            raise InvalidPayload(f"{_name(value.__class__)} makes {len(data)} bytes of JSON, allowed are {allowed}")
        if _is_suspicious(data) or data.count(b"[") + data.count(b"{") > self._limits.depth:
            self._check_strictly(value, data)
        return data

    def _know(self, type: Any) -> _Kind:
        decoder = None
        if not is_model(type):
            try:
                decoder = msgspec.json.Decoder(type, dec_hook=_decode_other)
            except (TypeError, NameError) as error:
                raise ContractError(f"values of {_name(type)} can't be read from JSON: {error!s:.300}") from None
        known = self._kinds[type] = _Kind(decoder, survey(type))
        return known

    def _check_class(self, value: object, type: Any) -> None:
        if is_typeddict(type):
            type = dict  # to `isinstance` it is nothing else
        if not isinstance(type, _CLASS) or get_origin(type) is not None or type in (object, Any):
            return
        number = type in (float, complex) and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, type) and not number:
            raise InvalidPayload(f"expected {_name(type)}, found {_name(value.__class__)} {value!r:.80}")

    def _check_strictly(self, value: object, data: bytes) -> None:
        try:
            self._strict.decode(data)
        except DecodeError as error:
            raise InvalidPayload(f"{_name(value.__class__)} can't be written: {error}") from None


_CLASS = type


def _is_suspicious(data: bytes) -> bool:
    """Whether the strict reader may refuse what msgspec writes: integers outside 64 bits, NUL."""
    return has_long_number(data) or b"\\u0000" in data


def _encoder(*, by_alias: bool, round_trip: bool) -> msgspec.json.Encoder:
    def other(value: Any) -> Any:
        if not is_model(value.__class__):
            raise TypeError(
                f"{_name(value.__class__)} is no dataclass, no pydantic model and nothing else that is known"
            )
        text = value.model_dump_json(by_alias=by_alias, round_trip=round_trip)
        # Sorted, for the dicts in it; through json and not msgspec, which makes floats of integers beyond 64 bits.
        canonical = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return msgspec.Raw(canonical.encode())

    return msgspec.json.Encoder(enc_hook=other, decimal_format="string", uuid_format="canonical", order="deterministic")


def _decode_other(kind: Any, value: Any) -> Any:
    if is_model(kind):
        return _validate_model(kind, msgspec.json.encode(value))
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise NotImplementedError


def _validate_model(kind: Any, data: bytes) -> Any:
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise InvalidPayload(f"not a {_name(kind)}: {_explain_model(error)}") from None


def _refuse_inexact(data: bytes, kind: Any) -> None:
    """Pydantic reads every number as a double before it makes a Decimal of it."""
    if _MANY_DIGITS.search(data) is None:
        return
    numbers = [match[1] for match in _NUMBER.finditer(data) if match[1]]
    for text in (number.decode() for number in numbers):
        if Decimal(repr(float(text))) != Decimal(text):
            raise InvalidPayload(f"not a {_name(kind)}: the number {text:.60} has too many digits; write it as a text")


def _explain_model(error: ValueError) -> str:
    """The first of pydantic's errors, on one line."""
    listed = getattr(error, "errors", None)
    if listed is None:
        return f"{error!s:.300}"
    first = listed(include_url=False)[:3]
    return "; ".join(f"{_path(e['loc'])}: {e['msg']}, found {e['input']!r:.80}" for e in first)


def _path(steps: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _explain(message: str, data: bytes, kind: Any) -> str:
    """The message of msgspec with the path in front and what was found behind."""
    match = _WITH_PATH.fullmatch(message)
    text, path = (match[1], match[2]) if match else (message, "")
    return f"not a {_name(kind)}: ${path}: {text.replace('`', '')}{_found(data, path)}"


def _found(data: bytes, path: str) -> str:
    """What stands at the path; nothing where that can't be said: a key of a dict, or no JSON behind the wrong place."""
    try:
        value = json.loads(data)
        for name, index in _STEP.findall(path):
            value = value[name] if name else value[int(index)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return "" if "[...]" in path else f", found {value!r:.80}"


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def _has_nan(value: Any) -> bool:
    """Whether a float in `value` is NaN or infinite; asked only where the JSON contains a null."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif (fields := getattr(item.__class__, "__dataclass_fields__", None)) is not None:
            stack.extend(getattr(item, name, None) for name in fields)
        elif isinstance(item, msgspec.Struct):
            stack.extend(getattr(item, name) for name in item.__struct_fields__)
        elif is_model(item.__class__):
            stack.extend(item.model_dump().values())
    return False
