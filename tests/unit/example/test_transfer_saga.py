"""The transfer saga, tested as its author would."""

from __future__ import annotations

from examples.transfer.contracts import Side, Transfer, banks
from examples.transfer.sagas import transfer_saga
from segue.activities import Rejected
from segue.testing import SagaTest

PAYER = Side(bank="bank_a", account="bank_a-01", amount=30)
PAYEES = (Side(bank="bank_b", account="bank_b-01", amount=10), Side(bank="bank_c", account="bank_c-01", amount=20))
TRANSFER = Transfer(id="t-1", payer=PAYER, payees=PAYEES)
A, B, C = banks["bank_a"], banks["bank_b"], banks["bank_c"]


def test_the_money_is_held_deposited_and_let_go() -> None:
    t = SagaTest(transfer_saga)
    for activity in (A.hold, B.deposit, C.deposit, A.settle):
        t.mock(activity, returns=None)
    assert t.run(TRANSFER).status == "completed"
    assert t.called == [A.hold, B.deposit, C.deposit, A.settle]
    assert [posting.amount for posting in t.inputs(C.deposit)] == [20]
    assert [posting.amount for posting in t.inputs(A.settle)] == [30]
    assert t.compensated == []


def test_one_payee_who_cant_be_paid_takes_the_other_deposit_back_and_releases_the_hold() -> None:
    t = SagaTest(transfer_saga)
    t.mock(A.hold, returns=None)
    t.mock(B.deposit, returns=None)
    t.mock(C.deposit, raises=Rejected("account_closed"))
    assert t.run(TRANSFER).status == "compensated"
    assert t.compensated == [B.take_back, A.release]


def test_a_payer_without_money_moves_nothing() -> None:
    t = SagaTest(transfer_saga)
    t.mock(A.hold, raises=Rejected("insufficient_funds"))
    assert t.run(TRANSFER).status == "failed"
    assert t.compensated == []
