"""The saga: hold the money, deposit it at the payees' banks at the same time, and only then let go of it."""

from __future__ import annotations

import asyncio

from examples.transfer.contracts import Posting, Side, Transfer, banks
from segue.saga import Saga, hours, saga


@saga("transfer", version=1, deadline=hours(1))
async def transfer_saga(s: Saga, transfer: Transfer) -> None:
    """A payee who can't be paid: the other deposits are taken back and the hold is released."""

    def posting(side: Side) -> Posting:
        return Posting(transfer_id=transfer.id, account=side.account, amount=side.amount, outages=side.outages)

    payer = banks[transfer.payer.bank]
    await s.call(payer.hold, posting(transfer.payer), compensate=payer.release)
    await asyncio.gather(
        *(
            s.call(banks[payee.bank].deposit, posting(payee), compensate=banks[payee.bank].take_back)
            for payee in transfer.payees
        )
    )
    s.pivot()  # everybody has the money: from here on the transfer is only ever finished
    await s.call(payer.settle, posting(transfer.payer))
