"""The outbox: messages that are sent if, and only if, the transaction they belong to commits; and the inbox.

outbox.add(session, "orders.events", OrderPlaced(order.id), key=order.id, type="order.placed")
async with outbox.Relay(engine, producer): ...
target_metadata = [Base.metadata, outbox.metadata]
"""

from segue.outbox.inbox import HORIZON, sweep
from segue.outbox.message import Message
from segue.outbox.relay import Relay, RelayOptions
from segue.outbox.schema import metadata
from segue.outbox.sql import SqlOutboxStore, create_all
from segue.outbox.store import OutboxStore
from segue.outbox.writer import add, add_message

__all__ = [
    "HORIZON",
    "Message",
    "OutboxStore",
    "Relay",
    "RelayOptions",
    "SqlOutboxStore",
    "add",
    "add_message",
    "create_all",
    "metadata",
    "sweep",
]
