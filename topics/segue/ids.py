"""Ids are derived, never drawn: a batch that is run again, or a database restored to yesterday, makes the same ids.

The derivations are part of the wire protocol; they must never change.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NewType
from uuid import UUID

SagaId = NewType("SagaId", str)
CommandId = NewType("CommandId", str)

#: Namespace of all ids that Segue derives (uuid5 of "segue" in the DNS namespace, fixed for ever).
NAMESPACE = UUID("6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d")

_NAMESPACE = NAMESPACE.bytes
#: The digit that says how a uuid is laid out (RFC 9562): its upper two bits are 10.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def derive(*parts: str) -> str:
    """A uuid5 of the parts; a separator that no id may contain keeps ("a", "bc") and ("ab", "c") apart."""
    # uuid.uuid5 written out: it is called several times a transition, and its object costs more than its hash.
    text = sha1(_NAMESPACE + "\x1f".join(parts).encode(), usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def command_id(coordinator: str, saga: str, occurrence: str, action: str, attempt: int) -> CommandId:
    """The id of a command. A re-send after silence has the same id, a retry (attempt + 1) another one."""
    return CommandId(derive(coordinator, saga, occurrence, action, str(attempt)))


def reply_id(command: str, outcome: str, sequence: int = 0) -> str:
    """The id of a reply: a reply that is published again has the same id. `sequence` counts `pending` replies."""
    return derive(command, outcome, str(sequence))


def saga_key(coordinator: str, saga: str, occurrence: str) -> str:
    """The participant's fence key: the same for all attempts, for invoke and compensate, and no other coordinator's."""
    return f"{coordinator}/{saga}/{occurrence}"


def first_saga_key(saga: str, occurrence: str) -> str:
    """The fence key of steps that began before it named the coordinator; they keep it for all that is still to come."""
    return f"{saga}/{occurrence}"


def saga_id_of_start(message_id: str) -> SagaId:
    """The id of a saga whose start message names none."""
    return SagaId(derive("start", message_id))
