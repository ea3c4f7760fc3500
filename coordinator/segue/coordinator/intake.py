"""From records to things that can happen to sagas; what can't be read becomes a reason for a dead letter."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from segue.errors import InputError
from segue.topics import Codecs, TopicNames
from segue.topics.broker import Record
from segue.topics.envelope import OutcomeNotUnderstood, Reply, Request, parse_reply, parse_request


class Item(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record and what it turned out to be: a reply or a request with its body, or an error.

    `command_id`: what a reply answers, known also where the rest of it can't be understood.
    """

    record: Record
    saga_id: str | None = None
    command_id: str | None = None
    reply: Reply | None = None
    request: Request | None = None
    #: Canonical JSON.
    body: bytes = b"null"
    error: InputError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Reads records of the replies topic and the requests topic. Pure; never raises for what a record contains."""

    names: TopicNames
    codecs: Codecs

    def item(self, record: Record) -> Item:
        """What `record` is. An item with an error may still know its saga: then only that saga is concerned."""
        saga_id: str | None = None
        command_id: str | None = None
        reply: Reply | None = None
        request: Request | None = None
        try:
            if record.topic == self.names.requests:
                request = parse_request(record)
                saga_id, content_type = request.saga_id, request.content_type
            else:
                reply = parse_reply(record)
                saga_id, content_type = reply.saga_id, reply.content_type
                command_id = reply.command_id
            body = self.codecs.decode(content_type, record.value, record.topic)
        except OutcomeNotUnderstood as error:
            return Item(record=record, saga_id=error.saga_id, command_id=error.command_id, error=error)
        except InputError as error:
            return Item(
                record=record, saga_id=saga_id, command_id=command_id, reply=reply, request=request, error=error
            )
        return Item(record=record, saga_id=saga_id, command_id=command_id, reply=reply, request=request, body=body)
