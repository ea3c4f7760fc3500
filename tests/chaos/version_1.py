"""The transfer saga before the deploy: all payees are paid at the same time."""

from __future__ import annotations

import asyncio

from examples.transfer.contracts import Posting, Side, Transfer, banks
from segue.saga import Saga, hours, saga, seconds

#: One saga in so many waits between the hold and the deposits, and for how long.
WAITING, WAIT = 4, seconds(4)


async def wait(s: Saga, transfer: Transfer) -> None:
    """Some sagas wait, so that whatever is killed is killed amid sagas."""
    if transfer.payer.amount % WAITING == 0:
        await s.sleep(WAIT)


@saga("transfer", version=1, deadline=hours(1))
async def transfer_saga_1(s: Saga, transfer: Transfer) -> None:
    def posting(side: Side) -> Posting:
        return Posting(transfer_id=transfer.id, account=side.account, amount=side.amount, outages=side.outages)

    payer = banks[transfer.payer.bank]
    await s.call(payer.hold, posting(transfer.payer), compensate=payer.release)
    await wait(s, transfer)
    await asyncio.gather(
        *(
            s.call(banks[payee.bank].deposit, posting(payee), compensate=banks[payee.bank].take_back)
            for payee in transfer.payees
        )
    )
    s.pivot()
    await s.call(payer.settle, posting(transfer.payer))
