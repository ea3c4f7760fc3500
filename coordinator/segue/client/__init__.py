"""Clients: start sagas, signal and cancel them, wait for their results, read what they have put on their rows.

client = Client.connect(bootstrap="kafka:9092", coordinator="shop", database="postgresql+psycopg://…")
handle = client.start(order_saga, order, id="order-17")
shipped = handle.result(timeout=minutes(2))
"""

from segue.client.aio import AsyncClient, AsyncHandle
from segue.client.rows import SagaDescription, Status
from segue.client.sync import Client, Handle

__all__ = ["AsyncClient", "AsyncHandle", "Client", "Handle", "SagaDescription", "Status"]
