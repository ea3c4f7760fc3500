"""Keys of commands: the fence row's and the record's, fixed by an occurrence's first command."""

from __future__ import annotations

import pytest

from segue.contract import minutes
from segue.errors import ContractError
from segue.limits import MAX_COORDINATOR_LENGTH, MAX_ID_LENGTH, MAX_KEY_LENGTH
from segue.saga import Retry, Saga, saga
from segue.saga.replay import rebuild
from tests.unit.saga.kit import Order, Run, charge, refund, reserve, ship
from tests.unit.saga.sagas import order_saga


def keys(run: Run) -> list[tuple[str, str, str]]:
    return [(command.step, command.key, command.record_key) for command in run.sent]


def of_the_version_before(run: Run) -> None:
    """The history as it was written when keys did not name the coordinator."""
    run.rows = [(at, payload.replace(b',"keyed":true', b"")) for at, payload in run.rows]
    run.instance = rebuild("s-1", run.rows, run.definition, run.converter)


def test_a_command_has_the_key_of_its_coordinator_saga_and_occurrence() -> None:
    run = Run(order_saga)

    assert keys(run) == [("payments.charge", "test/s-1/payments.charge", "test/s-1/payments.charge")]


def test_an_occurrences_retries_and_its_compensation_have_the_key_of_its_first_command() -> None:
    run = Run(order_saga, evict=True)
    run.reply("payments.charge", "retry", error="busy")
    run.wake()
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="none")

    assert [(c.step, c.action, c.attempt, c.key) for c in run.sent if c.step == "payments.charge"] == [
        ("payments.charge", "invoke", 1, "test/s-1/payments.charge"),
        ("payments.charge", "invoke", 2, "test/s-1/payments.charge"),
        ("payments.charge", "compensate", 1, "test/s-1/payments.charge"),
    ]
    assert len({c.record_key for c in run.sent if c.step == "payments.charge"}) == 1


def test_a_step_that_was_done_before_keys_named_the_coordinator_is_undone_under_its_old_key() -> None:
    run = Run(order_saga)
    run.reply("payments.charge")
    of_the_version_before(run)

    run.reply("stock.reserve", "failure", error="none")

    assert keys(run)[-1] == ("payments.charge", "s-1/payments.charge", "s-1")


def test_a_step_that_was_begun_before_is_retried_under_its_old_key_and_the_next_one_gets_a_new_one() -> None:
    run = Run(order_saga, evict=True)
    of_the_version_before(run)

    run.reply("payments.charge", "retry", error="busy")
    run.wake()
    run.reply("payments.charge")

    assert keys(run)[1:] == [
        ("payments.charge", "s-1/payments.charge", "s-1"),
        ("stock.reserve", "test/s-1/stock.reserve", "test/s-1/stock.reserve"),
    ]


def test_commands_about_one_entity_share_the_key_of_their_record_and_not_that_of_the_fence() -> None:
    @saga("account")
    async def account(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, key=f"account-{order.account}")
        await s.call(reserve, order, key=f"account-{order.account}", retry=Retry(attempts=1), timeout=minutes(1))

    run = Run(account, evict=True)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="none")

    assert keys(run) == [
        ("payments.charge", "test/s-1/payments.charge", "account-ann"),
        ("stock.reserve", "test/s-1/stock.reserve", "account-ann"),
        ("payments.charge", "test/s-1/payments.charge", "account-ann"),
    ]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b"])
def test_a_key_that_no_record_can_have_is_refused_at_the_call(key: str) -> None:
    @saga("keyed")
    async def keyed(s: Saga, order: Order) -> None:
        await s.call(ship, order, key=key)

    run = Run(keyed)

    assert run.state.blocked is not None
    assert run.state.blocked.code == ContractError.__name__
    assert "it must have 1 to 255 characters" in run.state.blocked.message


def test_the_longest_names_make_a_key_that_fits() -> None:
    assert MAX_COORDINATOR_LENGTH + 1 + MAX_ID_LENGTH + 1 + MAX_ID_LENGTH <= MAX_KEY_LENGTH
