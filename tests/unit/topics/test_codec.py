from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import DecodeError, InvalidPayload
from segue.limits import Limits
from segue.topics.codec import Codecs, JsonCodec, RawCodec

CODEC = JsonCodec()

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), _TEXT
)
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=20)


@given(_VALUES, st.booleans(), st.booleans())
def test_valid_json_passes_as_the_same_object(value: Any, ascii_only: bool, spaced: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=1 if spaced else None).encode()
    assert CODEC.decode(data) is data
    assert CODEC.encode(data) is data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"NaN", "NaN"),
        (b'{"a":[-Infinity]}', "Infinity"),
        (b"1e400", "too large"),
        (b"[-1E+999]", "too large"),
        (b"9223372036854775808", "64 bits"),
        (b'{"a":-9223372036854775809}', "64 bits"),
        (b"1" * 5000, "64 bits"),
        (b'{"a":1,"a":2}', "a key occurs twice in one object, found 'a'"),
        (b'{"a" :1,"a" :2}', "a key occurs twice in one object, found 'a'"),
        (b'{"a":1,"\\u0061":2}', "a key occurs twice in one object, found 'a'"),
        (b'{"x":{"b":"\\u0022:","k":1,"k":1}}', "a key occurs twice in one object, found 'k'"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b'"\\u0000"', "NUL"),
        (b'["a",{"k\\u0000":1}]', "NUL"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\xc0\xaf"', "UTF-8"),
        (b"[1,]", "not JSON"),
        (b"01", "not JSON"),
        (b"{} {}", "not JSON"),
        (b'"\x01"', "not JSON"),
        (b"{'a':1}", "not JSON"),
    ],
)
def test_what_other_readers_would_read_differently_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        CODEC.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b'"\\\\u0000"',
        b'"\\\\ud800"',
        b'"\\ud83d\\ude00"',
        b"-9223372036854775808",
        b"9223372036854775807",
        b"1e308",
        b"-0.0",
    ],
)
def test_what_only_looks_wrong_passes(data: bytes) -> None:
    assert CODEC.decode(data) is data


def test_nothing_is_null() -> None:
    assert CODEC.decode(b"") == b"null"
    assert Codecs().decode("application/json", None) == b"null"


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 250_000,
        b'{"a":' * 40_000,
        b"[" * 65 + b"]" * 65,
        b'[{"a":' * 33 + b"1" + b"}]" * 33,
        # quadratic for a scan that begins anew at every quote
        b"[" * 65 + b'"' + b'\\"' * 100_000,
    ],
)
def test_deep_nesting_is_refused_before_it_is_read(bomb: bytes) -> None:
    with pytest.raises(DecodeError, match="deeper than 64"):
        CODEC.decode(bomb)


def test_depth_counts_brackets_outside_strings_only() -> None:
    deepest = b"[" * 64 + b"]" * 64
    many = json.dumps([[["[[[[" * 50]], [[]] * 60]).encode()
    assert CODEC.decode(deepest) is deepest
    assert CODEC.decode(many) is many


def test_size_and_number_of_keys_are_limited() -> None:
    small = JsonCodec(Limits(payload_bytes=20, json_keys=2))
    with pytest.raises(DecodeError, match="21 bytes, allowed are 20"):
        small.decode(b'"' + b"x" * 19 + b'"')
    with pytest.raises(DecodeError, match="3 keys, allowed are 2"):
        small.decode(b'{"a":1,"b":2,"c":3}')
    assert small.decode(b'["a:","b:","c:"]')


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        decoded = CODEC.decode(data)
    except DecodeError:
        return
    json.loads(decoded)


_FRAGMENTS = st.lists(
    st.sampled_from(
        ['"a"', '"b"', ":", " :", ",", "{", "}", "[", "]", '"\\u0022:"', '"x:y"', "1", "1e999", "NaN", " ", '"\\']
    ),
    max_size=14,
)


@given(_FRAGMENTS)
def test_what_passes_has_no_duplicates_and_only_finite_numbers(fragments: list[str]) -> None:
    data = "".join(fragments).encode()
    try:
        CODEC.decode(data)
    except DecodeError:
        return
    if data:
        json.loads(data, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_never)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def _finite(text: str) -> float:
    assert math.isfinite(float(text))
    return float(text)


def _never(name: str) -> None:
    raise AssertionError(name)


@given(st.binary(min_size=1, max_size=100))
def test_raw_bytes_are_kept_as_base64_and_come_back(data: bytes) -> None:
    codec = RawCodec()
    kept = codec.decode(data)
    assert json.loads(kept) == base64.b64encode(data).decode()
    assert codec.encode(kept) == data


@pytest.mark.parametrize("data", [b"{}", b'"not base64!"', b"3"])
def test_raw_bytes_are_not_made_of_anything_but_base64(data: bytes) -> None:
    with pytest.raises(InvalidPayload, match="base64"):
        RawCodec().encode(data)
    assert RawCodec().encode(b"null") == b""


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "",
        'application/json;charset="utf-8"',
        "application/vnd.acme+json",
    ],
)
def test_json_goes_by_many_names(content_type: str) -> None:
    assert Codecs().decode(content_type, b"{}") == b"{}"


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("text/xml", "'text/xml' is not supported; supported are application/json, application/octet-stream"),
        ("application/json; charset=latin-1", "not UTF-8"),
        ("application/cloudevents+json", "not supported"),
    ],
)
def test_an_unknown_content_type_is_refused_with_what_is_supported(content_type: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Codecs().decode(content_type, b"{}")


def test_protobuf_passes_through() -> None:
    codecs = Codecs()
    assert codecs.of("application/protobuf").encode(codecs.decode("application/protobuf", b"\x08\x01")) == b"\x08\x01"
