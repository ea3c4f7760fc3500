"""Derived ids are uuid5 of the joined parts: part of the wire protocol, whatever computes them."""

from __future__ import annotations

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from segue.ids import NAMESPACE, command_id, derive


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=6))
def test_a_derived_id_is_the_uuid5_of_its_parts(parts: list[str]) -> None:
    assert derive(*parts) == str(uuid5(NAMESPACE, "\x1f".join(parts)))


def test_a_command_id_never_changes() -> None:
    identity = command_id("shop", "order-17", "payments.charge", "invoke", 1)
    assert UUID(identity).version == 5
    assert identity == str(uuid5(NAMESPACE, "shop\x1forder-17\x1fpayments.charge\x1finvoke\x1f1"))
