from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from segue.clock import from_micros
from segue.contract import hours
from segue.errors import DecodeError
from segue.saga import Saga, SagaDefinition, saga
from segue.saga.failures import Nondeterminism
from segue.testing import SagaTest, replay
from tests.unit.testing.shop import (
    ORDER,
    Charged,
    Order,
    Shipped,
    charge,
    confirm,
    order_saga,
    refund,
    release,
    reserve,
    ship,
)


def played(definition: SagaDefinition[Order, Shipped], id: str = "saga-1") -> SagaTest[Order, Shipped]:
    t = SagaTest(definition, id=id)
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(reserve, returns=None)
    t.mock(ship, returns=Shipped("p-1"))
    t.mock(confirm, returns=None)
    return t


@saga("order", version=1, deadline=hours(2))
async def hastier(s: Saga, order: Order) -> Shipped:
    """Reserves before it charges: sagas that are under way can't go on with it."""
    await s.call(reserve, order, compensate=release)
    await s.call(charge, order, compensate=refund)
    return await s.call(ship, order)


def test_a_recorded_history_fits_the_code_that_made_it(tmp_path: Path) -> None:
    history = tmp_path / "order.jsonl"
    text = played(order_saga).run(ORDER).export(history)
    assert replay(text, order_saga, exact=True) == {"saga-1": "completed"}
    assert replay(history, order_saga) == replay(str(history), order_saga) == {"saga-1": "completed"}


def test_each_line_is_one_transition() -> None:
    lines = [json.loads(line) for line in played(order_saga).run(ORDER).export().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5]
    assert {line["saga"] for line in lines} == {"saga-1"}
    assert lines[0]["type"] == "Started"
    assert [event["e"] for event in lines[0]["payload"]] == ["started", "stepscheduled", "commandsent"]


def test_times_may_be_texts() -> None:
    lines = [json.loads(line) for line in played(order_saga).run(ORDER).export().splitlines()]
    moved = [line | {"at": from_micros(line["at"]).isoformat()} for line in lines]
    assert replay("\n".join(json.dumps(line, separators=(",", ":")) for line in moved), order_saga, exact=True) == {
        "saga-1": "completed"
    }


def test_a_history_in_which_the_activity_of_each_step_is_written_out_fits_the_same_code() -> None:
    history = played(order_saga).run(ORDER).export()
    assert '"activity"' not in history

    older = history.replace('"e":"stepscheduled","step":"', '"e":"stepscheduled","activity":"?","step":"')
    older = re.sub(r'"activity":"\?","step":"([^"]+)"', r'"activity":"\1","step":"\1"', older)

    assert older.count('"activity"') == 4
    assert replay(older, order_saga, exact=True) == {"saga-1": "completed"}


def test_the_first_difference_is_shown_for_code_that_does_not_fit() -> None:
    history = played(order_saga, "order-7").run(ORDER).export()
    with pytest.raises(Nondeterminism) as found:
        replay(history, hastier)
    assert str(found.value) == (
        "saga order-7, transition 1 (Started, StepScheduled, CommandSent): the history has StepScheduled "
        "payments.charge, the code asks for StepScheduled stock.reserve"
    )


def test_a_difference_late_in_the_history_is_located() -> None:
    @saga("order", version=1)
    async def curter(s: Saga, order: Order) -> Shipped:
        await s.call(charge, order, compensate=refund)
        await s.call(reserve, order, compensate=release)
        return Shipped("none")

    with pytest.raises(Nondeterminism, match=r"transition 3 .*: the history has StepScheduled shipping\.ship"):
        replay(played(order_saga).run(ORDER).export(), curter)


def test_several_sagas_in_one_file_are_all_checked_and_others_skipped() -> None:
    @saga("other")
    async def other(s: Saga, order: Order) -> Shipped:
        return await s.call(ship, order)

    history = "".join(
        played(definition, id).run(ORDER).export()
        for definition, id in ((order_saga, "a"), (other, "b"), (order_saga, "c"))
    )
    assert replay(history, order_saga) == {"a": "completed", "c": "completed"}


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ('{"saga":"a","seq":1}\n', "line 1 of the history: .*at"),
        ("{]\n", "line 1 of the history: "),
        ('{"saga":"a","seq":2,"at":1,"payload":[]}\n', "line 1 of the history: seq is 2, expected 1"),
        ('{"saga":"a","seq":1,"at":"noon","payload":[]}\n', "line 1 of the history: .*noon"),
        ("\n\n", "the history holds no saga of 'order' version 1"),
    ],
)
def test_what_is_no_history_is_refused(history: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        replay(history, order_saga)
