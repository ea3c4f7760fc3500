from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.contract import hours, minutes
from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]
ORDER = Order()


def test_an_outcome_that_nobody_understands_waits_for_a_person_who_says_what_it_means(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.update({"payments.charge", "payments.refund"})
    e.start(order_saga, ORDER, "o-1")
    e.run()
    [command] = e.commands
    said = (("ce_causationid", command.id.encode()), ("ce_sagaoutcome", b"accepted"))
    e.send(command.reply_to, "o-1", b'{"charge_id":"c"}', said)
    e.run()
    assert (e.saga("o-1").attention, e.saga("o-1").error_code) == ("blocked", "invalid_envelope")
    e.pass_time(hours(5))
    e.silent.clear()
    [letter] = letters(e)
    e.ask("replay", letter=letter.id, headers={"ce_sagaoutcome": "success"})
    e.run()
    assert e.saga("o-1").status == "completed"
    assert letters(e)[0].state == "replayed"


def test_an_undo_that_is_answered_so_that_nobody_understands_it_waits_for_a_person_too(estate: Make) -> None:
    e = estate(order_saga)
    e.answers["stock.reserve"] = lambda command: ("failure", {"message": "sold out"})
    e.silent.add("payments.refund")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    refund = next(command for command in e.commands if command.activity == "payments.refund")
    e.send(refund.reply_to, "o-1", b"?", (("ce_causationid", refund.id.encode()),))
    e.run()
    [letter] = letters(e)
    assert (letter.state, letter.saga_id, e.saga("o-1").attention) == ("received", "o-1", "blocked")
    e.ask("replay", letter=letter.id, value="bnVsbA==")
    e.run()
    assert e.saga("o-1").status == "compensated"


def letters(e: Estate) -> list[Any]:
    with e.store.batch() as batch:
        return [letter for _, letter in sorted(batch.dead_letters(range(1, 50)).items())]


def test_an_undo_says_whether_its_step_is_known_to_have_succeeded(estate: Make) -> None:
    e = estate(order_saga)
    e.answers["shipping.ship"] = lambda command: ("failure", {"message": "no van"})
    e.answers["stock.reserve"] = lambda command: (
        "retry",
        {"message": "lost"},
        {"error": "IOError", "effect": "unknown"},
    )
    e.start(order_saga, ORDER, "o-1")
    e.run()
    for _ in range(60):
        e.pass_time(minutes(1))
    undone = {command.step: command.done for command in e.commands if command.action == "compensate"}
    assert undone == {"payments.charge": True, "stock.reserve": False}
    assert not any(command.done for command in e.commands if command.action == "invoke")
