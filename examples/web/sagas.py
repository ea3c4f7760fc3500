"""An order that is paid, and approved by a person if it is dear."""

from __future__ import annotations

from examples.web.contracts import Order, charge, decision, refund
from segue.saga import Saga, SagaFailed, hours, saga


@saga("web-order", deadline=hours(48))
async def web_order(s: Saga, order: Order) -> str:
    """Refunds what was paid if nobody approves within a day."""
    await s.call(charge, order, compensate=refund)
    if order.cents > 10_000:
        try:
            said = await s.receive(decision, timeout=hours(24))
        except TimeoutError:
            raise SagaFailed("no_decision") from None
        if not said.approved:
            raise SagaFailed("declined", f"by {said.by}")
    return order.id
