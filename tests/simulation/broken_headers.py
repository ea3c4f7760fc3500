"""What reads headers, broken."""

from __future__ import annotations

from typing import Any

import msgspec

import segue.coordinator.intake as intake
import segue.outbox.inbox as inbox
import segue.saga.transition as transition
import segue.topics.envelope as envelope
from segue.errors import EnvelopeError
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("an answer dies of a time that nobody can read", focus="odd_headers")
def headers_time(patch: Patch) -> None:
    old = envelope._moment

    def moment(headers: Any, name: str) -> Any:
        found = old(headers, name)
        if found is None and name in headers:
            raise EnvelopeError(name)
        return found

    patch(envelope, "_moment", moment)


@mutant("an answer dies of an outcome in other letters", focus="odd_headers")
def headers_letters(patch: Patch) -> None:
    old = envelope.parse_reply

    def parse(record: Any) -> Any:
        if dict(record.headers).get("ce_sagaoutcome", b"success").decode() not in envelope.OUTCOMES:
            raise EnvelopeError("what is that?")
        return old(record)

    patch(intake, "parse_reply", parse)


@mutant("an answer whose outcome nobody understands is not kept for its saga", focus="odd_headers")
def headers_outcome(patch: Patch) -> None:
    old = envelope.OutcomeNotUnderstood.__init__
    patch(
        envelope.OutcomeNotUnderstood,
        "__init__",
        lambda self, message, command, saga: old(self, message, command, None),
    )


@mutant("a service that has lost what it did takes an undo of it for done", focus="forgetful")
def forgotten_undo(patch: Patch) -> None:
    old = inbox._decide_compensate
    patch(inbox, "_decide_compensate", lambda fence, command: old(fence, msgspec.structs.replace(command, done=False)))


@mutant("an undo does not say that its step is known to have been done", focus="forgetful")
def forgotten_header(patch: Patch) -> None:
    old = Turn.command
    patch(Turn, "command", lambda self, step, action: msgspec.structs.replace(old(self, step, action), done=False))
