"""The transfer saga before and after a deploy: the second version pays one payee after the other."""

from __future__ import annotations

from examples.transfer.contracts import Posting, Side, Transfer, banks
from segue.saga import Saga, hours, saga
from tests.chaos.version_1 import transfer_saga_1, wait

#: What a coordinator is given to load before the deploy, and after it.
OLD = "tests.chaos.version_1"
NEW = "tests.chaos.versions"

__all__ = ["NEW", "OLD", "transfer_saga_1", "transfer_saga_2"]


@saga("transfer", version=2, deadline=hours(1))
async def transfer_saga_2(s: Saga, transfer: Transfer) -> None:
    def posting(side: Side) -> Posting:
        return Posting(transfer_id=transfer.id, account=side.account, amount=side.amount, outages=side.outages)

    payer = banks[transfer.payer.bank]
    await s.call(payer.hold, posting(transfer.payer), compensate=payer.release)
    await wait(s, transfer)
    for payee in transfer.payees:
        bank = banks[payee.bank]
        await s.call(bank.deposit, posting(payee), compensate=bank.take_back)
    s.pivot()
    await s.call(payer.settle, posting(transfer.payer))
