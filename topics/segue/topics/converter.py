"""Typed objects ↔ the canonical JSON that is kept and sent.

Dataclasses, msgspec structs, enums, datetimes, `Decimal` (as a string), UUIDs, bytes (base64), lists, dicts and None
are msgspec's; pydantic models are known by what they can do, wherever they are nested. The same value makes the same
bytes: fields in their order, keys of dicts and members of sets sorted.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar, cast, get_origin

import msgspec

from segue.errors import ContractError, DecodeError, InvalidPayload
from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.codec import JsonCodec, has_long_number

T = TypeVar("T")

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_WITH_PATH = re.compile(r"(.*) - at `(?:key in )?\$(.*)`", re.DOTALL)


class Converter:
    """Converts with one compiled decoder per type; safe to share between threads."""

    __slots__ = ("_decoders", "_encoder", "_limits", "_strict")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._strict = JsonCodec(limits)
        self._encoder = msgspec.json.Encoder(
            enc_hook=_encode_other, decimal_format="string", uuid_format="canonical", order="deterministic"
        )
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

    def to_bytes(self, value: object, type: Any = None) -> bytes:
        """Canonical JSON of `value`.

        With `type` the value must be of it; only that its class fits is checked for a plain class, all of it for a
        parametrised type. Raises InvalidPayload naming the Python type that can't be written, or the limit exceeded.
        """
        if type is not None and value.__class__ is not type:
            self._check_class(value, type)
        try:
            data = self._encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidPayload(f"{_name(value.__class__)} can't be written as JSON: {error!s:.300}") from None
        if b"null" in data and _has_nan(value):
            raise InvalidPayload(f"{_name(value.__class__)} contains NaN or an infinity, which JSON can't express")
        if len(data) > self._limits.payload_bytes:
            allowed = self._limits.payload_bytes
            raise InvalidPayload(f"{_name(value.__class__)} makes {len(data)} bytes of JSON, allowed are {allowed}")
        if _is_suspicious(data) or data.count(b"[") + data.count(b"{") > self._limits.depth:
            self._check_strictly(value, data)
        # Of the type itself there can't be a value if it is parametrised: the usual case needs no look at it.
        if type is not None and value.__class__ is not type and get_origin(type) is not None:
            self.from_bytes(data, type)
        return data

    def from_bytes(self, data: bytes, type: type[T]) -> T:
        """The value of `type` that the JSON holds.

        Raises InvalidPayload naming the path, what was expected there and what was found; DecodeError for what is not
        JSON; ContractError for a type that can't be read.
        """
        decoder = self._decoders.get(type)
        if decoder is None:
            if _is_model(type):
                return cast("T", _validate_model(type, data))
            decoder = self._compile(type)
        try:
            return cast("T", decoder.decode(data))
        except msgspec.ValidationError as error:
            raise InvalidPayload(_explain(str(error), data, type)) from None
        except NotImplementedError:
            raise ContractError(f"values of {_name(type)} can't be read from JSON: a class in it is unknown") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not JSON: {error!s:.200}") from None

    def _compile(self, type: Any) -> msgspec.json.Decoder[Any]:
        try:
            decoder = msgspec.json.Decoder(type, dec_hook=_decode_other)
        except (TypeError, NameError) as error:
            raise ContractError(f"values of {_name(type)} can't be read from JSON: {error!s:.300}") from None
        self._decoders[type] = decoder
        return decoder

    def _check_class(self, value: object, type: Any) -> None:
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


def _is_model(kind: Any) -> bool:
    """A pydantic model, without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json") and hasattr(kind, "model_dump_json")


def _encode_other(value: Any) -> Any:
    if not _is_model(value.__class__):
        raise TypeError(f"{_name(value.__class__)} is no dataclass, no pydantic model and nothing else that is known")
    text = value.model_dump_json()
    # Sorted, for the dicts in it; through json and not msgspec, which makes floats of integers beyond 64 bits.
    canonical = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return msgspec.Raw(canonical.encode())


def _decode_other(kind: Any, value: Any) -> Any:
    if _is_model(kind):
        return _validate_model(kind, msgspec.json.encode(value))
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise NotImplementedError


def _validate_model(kind: Any, data: bytes) -> Any:
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise InvalidPayload(f"not a {_name(kind)}: {_explain_model(error)}") from None


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
        elif _is_model(item.__class__):
            stack.extend(item.model_dump().values())
    return False
