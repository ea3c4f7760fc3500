"""The message that carries a command."""

from __future__ import annotations

from collections.abc import Mapping

from segue.clock import from_micros
from segue.outbox.message import Message
from segue.saga.effects import SendCommand
from segue.saga.state import SagaState
from segue.topics import Codecs, TopicNames

_NO_TRACE: Mapping[str, str] = {}
#: Headers that no column has a place for: where the coordinator knows that what is undone was done, and of any other.
_DONE, _OTHERWISE = {"ce_sagadone": "true"}, dict[str, str]()


def message_of(command: SendCommand, state: SagaState, names: TopicNames, codecs: Codecs) -> Message:
    """A command of this saga. Raises InvalidPayload where the format of its topic can't hold it."""
    trace = dict(state.trace) if state.trace else _NO_TRACE
    headers = _DONE if command.done else _OTHERWISE
    if command.heartbeat or "baggage" in trace:
        headers = headers | _more(command, trace)
    topic = names.commands_of(command.activity.partition(".")[0])
    content_type, value = codecs.encode(topic, command.activity, command.body)
    return Message(
        id=command.id,
        aggregatetype=topic,
        aggregateid=command.record_key,
        type=command.activity,
        payload=value,
        created_at=from_micros(command.sent_at),
        content_type=content_type,
        source=names.coordinator,
        causation_id=state.id,
        correlation_id=state.id,
        saga_id=state.id,
        saga_type=state.definition,
        saga_step=command.step,
        saga_action=command.action,
        saga_attempt=command.attempt,
        saga_key=command.key,
        deadline=None if command.deadline is None else from_micros(command.deadline),
        reply_to=names.replies,
        traceparent=trace.get("traceparent"),
        tracestate=trace.get("tracestate"),
        headers=headers,
    )


def _more(command: SendCommand, trace: Mapping[str, str]) -> dict[str, str]:
    """Headers that few commands have."""
    more = {"baggage": trace["baggage"]} if "baggage" in trace else {}
    if command.heartbeat:
        more["ce_sagaheartbeat"] = f"{command.heartbeat / 1_000_000:g}"
    return more
