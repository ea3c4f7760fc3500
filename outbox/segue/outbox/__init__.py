"""The outbox: messages that are sent if, and only if, the transaction they belong to commits; and the inbox.

outbox.add(session, "orders.events", OrderPlaced(order.id), key=order.id, type="order.placed")
async with outbox.Relay(engine, producer): ...
target_metadata = [Base.metadata, outbox.metadata]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

#: Loaded on demand: whoever only reads the tables needs no relay, and none of SQLAlchemy's sessions.
_MODULES = {
    "HORIZON": "inbox",
    "sweep": "inbox",
    "Message": "message",
    "Relay": "relay",
    "RelayOptions": "relay",
    "metadata": "schema",
    "SqlOutboxStore": "sql",
    "create_all": "sql",
    "OutboxStore": "store",
    "add": "writer",
    "add_message": "writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"segue.outbox.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
