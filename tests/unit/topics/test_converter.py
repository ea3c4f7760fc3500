from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

from segue.contract import Activity, Undo
from segue.errors import ContractError, DecodeError, InvalidPayload
from segue.limits import Limits
from segue.topics.codec import JsonCodec
from segue.topics.converter import Converter

CONVERTER = Converter()


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class Order:
    id: str
    total: Decimal
    lines: list[Line] = field(default_factory=list)
    note: str | None = None
    ratio: float | None = None


class Point(msgspec.Struct, frozen=True):
    x: int


class Model(BaseModel):
    id: int
    price: Decimal
    tags: dict[str, int] = {}
    share: float = 0.5


@dataclass
class Holder:
    model: Model
    models: list[Model]


@dataclass
class Everything:
    when: datetime
    day: date
    takes: timedelta
    id: UUID
    data: bytes
    colour: Colour
    table: dict[str, list[int]]
    nothing: None = None


ORDER = Order("o-1", Decimal("10.50"), [Line("a", 2)])
MODEL = Model(id=1, price=Decimal("2.50"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (ORDER, Order),
        (Point(3), Point),
        (MODEL, Model),
        (Holder(MODEL, [MODEL, MODEL]), Holder),
        ([MODEL], list[Model]),
        ({"k": ORDER}, dict[str, Order]),
        (Undo(ORDER, Line("x")), Undo[Order, Line]),
        (Undo(MODEL, None), Undo[Model, Model]),
        (Undo(MODEL, MODEL), Undo[Model, Model]),
        (None, type(None)),
        (None, None),
        (5, int),
        ({"k": [1, "x"]}, Any),
        ("text", str),
        (Colour.RED, Colour),
        (3, float),
        (
            Everything(
                when=datetime(2026, 11, 21, 10, 30, tzinfo=UTC),
                day=date(2026, 11, 21),
                takes=timedelta(minutes=5),
                id=UUID(int=7),
                data=b"\x00\xff",
                colour=Colour.RED,
                table={"b": [1], "a": []},
            ),
            Everything,
        ),
    ],
)
def test_what_is_written_is_read_back_and_passes_the_strict_reader(value: Any, kind: Any) -> None:
    data = CONVERTER.to_bytes(value, kind)
    assert CONVERTER.from_bytes(data, kind) == value
    assert JsonCodec().decode(data) is data


def test_the_input_of_a_compensation_is_read_by_the_type_its_activity_declares() -> None:
    undo = Activity("payments.charge", Order, Model).undo("payments.refund")
    data = CONVERTER.to_bytes(Undo(ORDER, MODEL), undo.input)
    assert CONVERTER.from_bytes(data, undo.input) == Undo(ORDER, MODEL)
    silent = Activity("stock.reserve", Order).undo("stock.release")
    assert CONVERTER.from_bytes(CONVERTER.to_bytes(Undo(ORDER), silent.input), silent.input) == Undo(ORDER)


def test_money_is_text() -> None:
    assert CONVERTER.to_bytes(ORDER) == (
        b'{"id":"o-1","total":"10.50","lines":[{"sku":"a","quantity":2}],"note":null,"ratio":null}'
    )


def test_equal_values_make_equal_bytes_whatever_their_order() -> None:
    one = {"b": 1, "a": {"y": 1, "x": {3, 1, 2}}}
    two = {"a": {"x": {2, 3, 1}, "y": 1}, "b": 1}
    assert CONVERTER.to_bytes(one) == CONVERTER.to_bytes(two) == b'{"a":{"x":[1,2,3],"y":1},"b":1}'
    first = Model(id=1, price=Decimal(1), tags={"b": 1, "a": 2})
    second = Model(id=1, price=Decimal(1), tags={"a": 2, "b": 1})
    assert CONVERTER.to_bytes(first) == CONVERTER.to_bytes(second)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (
            b'{"id":"x","total":"1","lines":[{"sku":5}]}',
            Order,
            r"not a Order: \$\.lines\[0\]\.sku: Expected str.*found 5",
        ),
        (b'{"id":"x","total":"abc"}', Order, r"\$\.total: Invalid decimal string, found 'abc'"),
        (b'{"id":"x"}', Order, "missing required field total"),
        (b"[]", Order, r"\$: Expected object, got array"),
        (b'{"k":{"id":1}}', dict[str, Order], r"\$\[\.\.\.\]\.id: Expected str, got int"),
        (b'{"id":"x","price":"1"}', Model, r"not a Model: \$\.id: .*integer.*found 'x'"),
        (b'[{"id":"x","price":"1"}]', list[Model], r"not a Model: \$\.id"),
        (b'{"input":{"id":"x","price":1},"output":null}', Undo[Model, Order], r"not a Model: \$\.id"),
        (b'"green"', Colour, "Invalid enum value"),
        (b"1.5", int, "Expected int"),
    ],
)
def test_a_payload_of_another_shape_is_refused_with_path_expectation_and_find(
    data: bytes, kind: Any, message: str
) -> None:
    with pytest.raises(InvalidPayload, match=message):
        CONVERTER.from_bytes(data, kind)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"id":"x"'])
def test_what_is_no_json_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="not JSON"):
        CONVERTER.from_bytes(data, Order)


def test_a_wrong_shape_that_is_no_json_further_on_is_refused_without_a_find() -> None:
    for data in (b"[" * 100_000, b'{"id":3,"total'):
        with pytest.raises(InvalidPayload, match=r"Expected [a-z`]+, got [a-z`]+$"):
            CONVERTER.from_bytes(data, Order)


class Unknown:
    pass


@dataclass
class HoldsUnknown:
    thing: Any


_cycle: list[Any] = []
_cycle.append(_cycle)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Unknown(), "Unknown"),
        (HoldsUnknown(Unknown()), "Unknown"),
        (float("nan"), "NaN"),
        (HoldsUnknown(float("inf")), "infinity"),
        ({"a": [float("-inf")]}, "infinity"),
        (Model(id=1, price=Decimal(1), share=float("nan")), "NaN"),
        (2**63, "64 bits"),
        ([-(2**63) - 1], "64 bits"),
        (Model(id=2**70, price=Decimal(1)), "64 bits"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogates"),
        ({(1, 2): 3}, "dict"),
        (_cycle, "recursion"),
        (lambda: 1, "function"),
    ],
)
def test_what_can_not_be_written_is_refused_with_its_python_type(value: Any, message: str) -> None:
    with pytest.raises(InvalidPayload, match=message):
        CONVERTER.to_bytes(value)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"id": "x"}, Order, "expected Order, found dict"),
        (None, Order, "expected Order, found NoneType"),
        ("1", int, "expected int, found str '1'"),
        (True, float, "expected float, found bool"),
        (Undo(MODEL, 3), Undo[Model, Order], r"\$\.output: Expected object"),
        ([ORDER, 3], list[Order], r"\$\[1\]"),
    ],
)
def test_a_value_of_another_type_than_declared_is_not_sent(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(InvalidPayload, match=message):
        CONVERTER.to_bytes(value, kind)


def test_an_oversized_or_too_deep_value_is_not_sent() -> None:
    small = Converter(Limits(payload_bytes=10, depth=3))
    with pytest.raises(InvalidPayload, match="12 bytes of JSON, allowed are 10"):
        small.to_bytes("x" * 10)
    with pytest.raises(InvalidPayload, match="deeper than 3"):
        small.to_bytes([[[[]]]])


@pytest.mark.parametrize("kind", [Unknown, Order | Line, list[Unknown]])
def test_a_type_that_can_not_be_read_is_the_programs_fault(kind: Any) -> None:
    with pytest.raises(ContractError, match="can't be read from JSON"):
        CONVERTER.from_bytes(b"[{}]" if kind == list[Unknown] else b"{}", kind)


def test_fields_that_are_not_declared_are_ignored() -> None:
    assert CONVERTER.from_bytes(b'{"sku":"a","quantity":3,"new":true}', Line) == Line("a", 3)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=15,
    )
)
def test_any_plain_value_is_written_canonically_or_refused(value: Any) -> None:
    try:
        data = CONVERTER.to_bytes(value)
    except InvalidPayload:
        return
    assert CONVERTER.from_bytes(data, Any) == value
    assert CONVERTER.to_bytes(CONVERTER.from_bytes(data, Any)) == data


class Aliased(BaseModel):
    order_id: str = Field(alias="orderId")
    note: str = ""


class ReadByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    order_id: str = Field(alias="orderId")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return 2 * self.x


class WithSecret(BaseModel):
    name: str
    card: SecretStr


class WithExcluded(BaseModel):
    name: str
    card: str = Field(default="", exclude=True)


class OneWay(BaseModel):
    name: str = Field(default="", validation_alias="in", serialization_alias="out")


class Priced(BaseModel):
    price: Decimal


class Vip(Model):
    level: int = 0


@dataclass(frozen=True)
class Currency:
    id: str
    currency: str = "EUR"
    priority: int | None = None


@dataclass
class Basket:
    first: Currency
    rest: list[Currency] = field(default_factory=list)
    floats: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rated(Currency):
    rate: int = 3


@dataclass(frozen=True)
class Wrapped:
    secret: WithSecret


@dataclass
class Loose:
    table: dict[str, Any]


@dataclass(eq=False)
class Entity:
    id: str
    name: str = ""


@dataclass
class Careless:
    id: str
    hidden: int = field(default=0, compare=False)


class Address(TypedDict):
    street: str
    number: NotRequired[int]


class Sparse(msgspec.Struct, omit_defaults=True):
    id: str
    currency: str = "EUR"


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (Aliased(orderId="o-1"), Aliased, b'{"note":"","orderId":"o-1"}'),
        (ReadByName.model_validate({"order_id": "o-1"}), ReadByName, b'{"order_id":"o-1"}'),
        (Computed(x=1), Computed, b'{"x":1}'),
        (Currency("o-1"), Currency, b'{"id":"o-1","currency":"EUR","priority":null}'),
        (Entity("e-1"), Entity, b'{"id":"e-1","name":""}'),
        (Careless("c-1", 5), Careless, b'{"id":"c-1","hidden":5}'),
        (Address(street="x"), Address, b'{"street":"x"}'),
        ([Address(street="x", number=1)], list[Address], b'[{"number":1,"street":"x"}]'),
        (Loose({"x": (1, 2)}), Loose, b'{"table":{"x":[1,2]}}'),
    ],
)
def test_what_a_type_calls_its_fields_is_what_is_written_and_read(value: Any, kind: Any, written: bytes) -> None:
    assert CONVERTER.to_bytes(value, kind) == written
    assert CONVERTER.to_bytes(CONVERTER.from_bytes(written, kind), kind) == written


@pytest.mark.parametrize(
    ("value", "kind", "why"),
    [
        (WithSecret(name="a", card=SecretStr("4242")), WithSecret, "stars"),
        (Wrapped(WithSecret(name="a", card=SecretStr("4242"))), Wrapped, "stars"),
        (WithExcluded(name="a"), WithExcluded, "WithExcluded.card is left out"),
        (OneWay(**{"in": "x"}), OneWay, "$.name"),
        (Vip(id=1, price=Decimal(1), level=3), Model, "$.level: Vip has it, Model has not"),
        (Basket(Rated("a")), Basket, "$.first.rate: Rated has it, Currency has not"),
        (Loose({"x": Decimal("1.5")}), Loose, "Decimal comes back as str"),
        (Loose({"x": Currency("a")}), Loose, "Currency comes back as dict"),
        (Loose({"x": {1: "one"}}), Loose, "Only dicts with str keys"),
        (Line("a", "two"), Line, "Expected int"),  # type: ignore[arg-type]
        ({"street": "x", "town": "y"}, Address, "the key 'town' is lost"),
        ("street", Address, "expected dict"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_with_a_sentence(value: Any, kind: Any, why: str) -> None:
    with pytest.raises(InvalidPayload, match=re.escape(why)) as refused:
        Converter().to_bytes(value, kind)
    assert "4242" not in str(refused.value)


@pytest.mark.parametrize("kind", [WithSecret, list[WithSecret], Undo[WithExcluded, None], Wrapped])
def test_a_type_of_which_no_value_survives_is_refused_without_one(kind: Any) -> None:
    with pytest.raises(ContractError, match="does not survive being written"):
        CONVERTER.check(kind)
    CONVERTER.check(Undo[Order, Model])


def test_defaults_are_written_however_the_value_was_made() -> None:
    complete = CONVERTER.to_bytes(Basket(Currency("a"), [Currency("b")]), Basket)
    assert b'"rest":[{"id":"b","currency":"EUR","priority":null}]' in complete
    read = msgspec.json.decode(b'{"first":{"id":"a"},"rest":[{"id":"b"}]}', type=Basket)
    assert CONVERTER.to_bytes(read, Basket) == complete
    assert CONVERTER.to_bytes(CONVERTER.from_bytes(b'{"first":{"id":"a"},"rest":[{"id":"b"}]}', Basket)) == complete
    assert CONVERTER.to_bytes(replace(CONVERTER.from_bytes(b'{"id":"a"}', Currency), id="b")) == CONVERTER.to_bytes(
        Currency("b")
    )


def test_one_value_makes_the_same_bytes_whether_its_numbers_are_whole_or_not() -> None:
    assert CONVERTER.to_bytes(Basket(Currency("a"), floats=(1, 2)), Basket) == CONVERTER.to_bytes(
        Basket(Currency("a"), floats=(1.0, 2.0)), Basket
    )


def test_a_struct_that_leaves_its_defaults_out_is_refused_once_they_would_count() -> None:
    with pytest.raises(ContractError, match="Sparse leaves its defaults out"):
        CONVERTER.check(Sparse)


def test_a_decimal_of_a_model_never_goes_through_a_double() -> None:
    assert CONVERTER.from_bytes(b'{"price":"0.12345678901234567890123"}', Priced).price == Decimal(
        "0.12345678901234567890123"
    )
    assert CONVERTER.from_bytes(b'{"price":0.1}', Priced).price == Decimal("0.1")
    for kind, text in (
        (Priced, b'{"price":0.12345678901234567890123}'),
        (list[Priced], b'[{"price":1.00000000000000000001}]'),
    ):
        with pytest.raises(InvalidPayload, match="has too many digits; write it as a text"):
            CONVERTER.from_bytes(text, kind)
    assert CONVERTER.from_bytes(b'{"id":"a","total":0.12345678901234567890123}', Order).total == Decimal(
        "0.12345678901234567890123"
    )


def test_two_ways_to_write_one_value_are_the_same() -> None:
    assert CONVERTER.same(b'{"id":"a"}', b'{"currency":"EUR","id":"a","priority":null}', Currency)
    assert CONVERTER.same(b'{"id":"a","total":"1.0"}', b'{"id":"a","total":1.00}', Order)
    assert not CONVERTER.same(b'{"id":"a"}', b'{"id":"b"}', Currency)
    assert not CONVERTER.same(b'{"id":"a"}', b'{"ID":"a"}', Currency)
