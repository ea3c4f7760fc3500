"""Drives the pure engine in tests: what was sent, replies by step name, time that jumps to the next alarm.

After every transition the history is folded anew and compared with the live state, and (with `evict`) the instance is
thrown away and rebuilt, so that every test is also a test of replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from segue.contract import Activity, Signal
from segue.limits import DEFAULT_LIMITS, Limits
from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.effects import Ignored, Moved, SendCommand
from segue.saga.fold import fold
from segue.saga.inputs import Cancel, Input, Reply, RetryStep, SignalArrived, Wake
from segue.saga.replay import rebuild
from segue.saga.state import SagaState
from segue.saga.transition import advance, go_on, start
from segue.saga.turn import wake_at
from segue.testing.kept import KeptSigns
from segue.topics.converter import Converter

START = 1_700_000_000_000_000


@dataclass(frozen=True)
class Order:
    id: str = "o-1"
    account: str = "ann"
    total: Decimal = Decimal("9.50")


@dataclass(frozen=True)
class Charged:
    charge_id: str


@dataclass(frozen=True)
class Shipped:
    parcel: str


charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")
reserve = Activity("stock.reserve", Order)
release = reserve.undo("stock.release")
ship = Activity("shipping.ship", Order, Shipped)
recall = ship.undo("shipping.recall")
confirm = Activity("mail.confirm", Shipped)
score = Activity("risk.score", Order, int, readonly=True)
payout = Activity("bank.payout", Order)
decision = Signal("decision", bool)

OUTPUTS: dict[str, Any] = {
    "payments.charge": {"charge_id": "ch-1"},
    "shipping.ship": {"parcel": "p-1"},
    "risk.score": 10,
}


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class Run:
    """One saga under test."""

    def __init__(
        self,
        definition: SagaDefinition[Any, Any],
        input: Any = None,
        *,
        evict: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.definition = definition
        #: What a new run runs.
        self.successor: SagaDefinition[Any, Any] | None = definition
        self.limits = limits
        self.evict = evict
        self.now = START
        self.converter = Converter()
        self.rows: list[tuple[int, bytes]] = []
        self.sent: list[SendCommand] = []
        self.ignored: list[Ignored] = []
        self.wake_at: Any = None
        self.kept = KeptSigns()
        data = self.converter.to_bytes(Order() if input is None else input, definition.input_type)
        self.instance, moved = start("s-1", definition, self.converter, coordinator="test", input=data, now=self.now)
        self._stored(moved)

    # --- what happens

    def happen(self, happened: Input) -> Moved | Ignored:
        happened = self.kept.with_signs(self.state, happened)
        result = advance(self.instance, happened, self.now, limits=self.limits)
        self.kept.keep(result.effects)
        if isinstance(result, Ignored):
            self.ignored.append(result)
            self.wake_at = wake_at(self.state)
        else:
            self._stored(result)
        while self.state.run_is_over:
            self._stored(go_on(self.instance, self.successor, self.converter, self.now, limits=self.limits))
        return result

    def reply(
        self, step: str, outcome: str = "success", *, undo: bool = False, attempt: int | None = None, **more: Any
    ) -> Any:
        """Answer the newest (or a given) attempt of a command of this step."""
        action = "compensate" if undo else "invoke"
        commands = [c for c in self.sent if c.step == step and c.action == action and attempt in (None, c.attempt)]
        assert commands, f"no {action} of {step} was sent, only {[(c.step, c.action) for c in self.sent]}"
        command = commands[-1]
        if outcome == "success" and "output" not in more and not undo:
            more["output"] = OUTPUTS.get(command.activity)
        if "output" in more:
            more["body"] = raw(more.pop("output"))
        if "message" in more:
            more["body"] = raw({"message": more.pop("message")})
        return self.happen(Reply(command_id=command.id, outcome=outcome, **more))  # type: ignore[arg-type]

    def undone(self, step: str) -> Any:
        return self.reply(step, undo=True)

    def signal(self, signal: Signal[Any], value: Any, **more: Any) -> Any:
        return self.happen(SignalArrived(name=signal.name, payload=raw(value), **more))

    @property
    def attention(self) -> str:
        return self.state.attention  # type: ignore[no-any-return]

    @property
    def result(self) -> Any:
        return msgspec.json.decode(self.state.result)

    def retry_blocked(self) -> Any:
        """A person: the code is mended, go on."""
        self.instance = rebuild("s-1", self.rows, self.definition, self.converter)
        return self.happen(RetryStep())

    def cancel(self, compensate: str = "all") -> Any:
        return self.happen(Cancel(compensate=compensate, reason="asked"))

    def wake(self, after: timedelta | None = None) -> Any:
        """Let time pass: to the next alarm, or by `after`."""
        if after is None:
            assert self.wake_at is not None, "nothing would ever wake this saga"
            self.now = max(self.now, self.wake_at)
        else:
            self.now += int(after.total_seconds() * 1_000_000)
        return self.happen(Wake(gate=self.now))

    def wake_until(self, condition: Any, limit: int = 200) -> None:
        for _ in range(limit):
            if condition():
                return
            self.wake()
        raise AssertionError("it never happened")

    # --- what can be seen

    @property
    def state(self) -> Any:
        """The SagaState; untyped, so that tests may ask for the code of an error that must be there."""
        return self.instance.state

    @property
    def status(self) -> str:
        return self.instance.state.status

    @property
    def commands(self) -> list[str]:
        """Everything sent, in order: `payments.charge`, and `undo payments.charge`."""
        return [("undo " if c.action == "compensate" else "") + c.step for c in self.sent]

    @property
    def undos(self) -> list[str]:
        return [c.step for c in self.sent if c.action == "compensate"]

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for _, payload in self.rows for event in e.decode_events(payload) if isinstance(event, kind)]

    # --- the store

    def _stored(self, moved: Moved) -> None:
        assert moved.events, "a transition without events"
        self.rows.append((self.state.updated_at, e.encode_events(moved.events)))
        self.sent.extend(effect for effect in moved.effects if isinstance(effect, SendCommand))
        self.wake_at = moved.wake_at
        assert essence(fold("s-1", self.rows)) == essence(self.state)
        if self.evict:
            if self.instance.program is not None:
                self.instance.program.close()
            blocked = self.state.blocked is not None
            self.instance = rebuild("s-1", self.rows, None if blocked else self.definition, self.converter)


def essence(state: SagaState) -> dict[str, Any]:
    """The state as comparable plain data; outdated alarms and the raw buffers' identities do not count."""
    state.alarm()
    plain: dict[str, Any] = _comparable(state)
    plain.pop("alarms")
    return plain


def _comparable(value: Any) -> Any:
    if isinstance(value, msgspec.Raw | bytes | memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {str(key): _comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {name: _comparable(getattr(value, name)) for name in value.__struct_fields__}
    return value
