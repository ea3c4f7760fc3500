"""How signals and those who wait for them find each other: first come, first served, and none is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segue.saga import events as e
from segue.saga.state import SagaState
from segue.saga.steps import Delivery


def put_back(state: SagaState, untold: int) -> None:
    """The signals among the last `untold` deliveries wait again, before those that came later."""
    for delivery in reversed(state.deliveries[len(state.deliveries) - untold :]):
        if delivery.signal is not None:
            state.signals.setdefault(delivery.step, []).insert(0, delivery.signal)


def carried(event: e.Continued) -> dict[str, list[e.SignalReceived]]:
    """The signals that wait as a new run begins; histories from before do not know where they came from."""
    found: dict[str, list[e.SignalReceived]] = {}
    for name, payloads in event.signals.items():
        sources = event.signal_sources.get(name) or [("", "", None)] * len(payloads)
        found[name] = [
            e.SignalReceived(signal=name, payload=payload, id=identity, sender=sender, origin=origin)
            for payload, (identity, sender, origin) in zip(payloads, sources, strict=True)
        ]
    return found


def _wait(state: SagaState, n: int, name: str) -> None:
    waiting = state.signals.get(name)
    if waiting:
        state.deliveries.append(_delivery(n, waiting.pop(0)))
    else:
        state.receives[n] = name


def _handed(state: SagaState, signal: e.SignalReceived) -> bool:
    """Hand it to whoever has waited longest for one of its name."""
    for n, name in state.receives.items():
        if name == signal.signal:
            del state.receives[n]
            state.deliveries.append(_delivery(n, signal))
            return True
    return False


def _give_back(state: SagaState, n: int) -> None:
    """Wait `n` is over before the code was told its signal: the next wait gets that, and so on; the last one is over.

    So none overtakes another, however many were on their way.
    """
    kept: list[Delivery] = []
    left: e.SignalReceived | None = None
    for delivery in state.deliveries:
        if delivery.signal is None:
            kept.append(delivery)
        elif left is None and delivery.n == n:
            left = delivery.signal
        elif left is not None and delivery.step == left.signal:
            kept.append(_delivery(delivery.n, left))
            left = delivery.signal
        else:
            kept.append(delivery)
    state.deliveries[:] = kept
    if left is not None and not _handed(state, left):
        state.signals.setdefault(left.signal, []).insert(0, left)


def _delivery(n: int, signal: e.SignalReceived) -> Delivery:
    return Delivery("signal", signal.signal, n, signal.payload, signal=signal)


def _receive_started(state: SagaState, event: e.ReceiveStarted, _: int) -> None:
    _wait(state, event.n, event.signal)
    if event.expected:
        state.expected[event.n] = event.expected


def _receive_cancelled(state: SagaState, event: e.ReceiveCancelled, _: int) -> None:
    if event.returned:
        _give_back(state, event.n)
    else:
        state.receives.pop(event.n, None)


def _received(state: SagaState, event: e.SignalReceived, _: int) -> None:
    if not _handed(state, event):
        state.signals.setdefault(event.signal, []).append(event)


def _rejected(state: SagaState, event: e.SignalRejected, _: int) -> None:
    state.deliveries[:] = [d for d in state.deliveries if d.kind != "signal" or d.n != event.n]
    _wait(state, event.n, event.signal)


def _returned(state: SagaState, event: e.SignalsReturned, _: int) -> None:
    put_back(state, event.pending)
    del state.deliveries[len(state.deliveries) - event.pending :]


#: What each event of a signal, and of those who wait for one, does to the state.
FOLD: Mapping[type[e.Event], Callable[[SagaState, Any, int], None]] = {
    e.ReceiveStarted: _receive_started,
    e.ReceiveCancelled: _receive_cancelled,
    e.SignalReceived: _received,
    e.SignalRejected: _rejected,
    e.SignalsReturned: _returned,
}
