"""Where Avro schemas come from: a folder of files, or a Schema Registry that is only read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastavro.schema import SchemaParseException, to_parsing_canonical_form

from segue.clock import SYSTEM_CLOCK, Clock
from segue.errors import BrokerUnavailable, ConfigError, DecodeError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.avro import NoSubject, Schema
from segue.topics.avro_bounds import UnsafeSchema
from segue.topics.codec import JsonCodec

#: Bytes of one schema document.
MAX_SCHEMA_BYTES = 1024 * 1024
#: Seconds after which the latest schema of a subject is asked for again. A schema of an id never changes.
LATEST_TTL = 300.0
#: Seconds for which an id that the registry does not know is not asked for again.
UNKNOWN_TTL = 30.0

_STRICT = JsonCodec(Limits(payload_bytes=MAX_SCHEMA_BYTES, depth=256))


class FileSchemas:
    """The `*.avsc` files of a folder; a file's name without its ending is the subject (`payments.charge.input`).

    `ids` gives a subject's schema the id that the rest of the estate knows it by; others get one made from their
    canonical form, the same in every process. Raises ConfigError for a folder or schema that can't be used.
    """

    def __init__(self, folder: Path, ids: Mapping[str, int] | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        files = sorted(folder.glob("*.avsc"))
        if not files:
            raise ConfigError(f"avro.schemas is {str(folder)!r}; there is no .avsc file in it")
        self._by_subject: dict[str, Schema] = {}
        self._by_id: dict[int, Schema] = {}
        for file in files:
            document = _document(file.read_bytes(), str(file))
            id = (ids or {}).get(file.stem)
            schema = Schema(schema_id(document) if id is None else id, document, limits)
            self._by_subject[file.stem] = schema
            self._by_id.setdefault(schema.id, schema)

    def by_id(self, id: int) -> Schema:
        if id not in self._by_id:
            raise DecodeError(f"Avro schema {id} is not among the {len(self._by_id)} schema files")
        return self._by_id[id]

    def latest(self, subject: str) -> Schema:
        if subject not in self._by_subject:
            raise NoSubject(f"there is no schema file {subject}.avsc in the folder of avro.schemas")
        return self._by_subject[subject]


def schema_id(document: Any) -> int:
    """An id of 31 bits made from the schema's parsing canonical form (Avro specification). Raises ConfigError."""
    try:
        canonical = to_parsing_canonical_form(document)
    except (SchemaParseException, KeyError, TypeError, RecursionError) as error:
        raise UnsafeSchema(f"Avro schema is malformed: {error!s:.200}") from None
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") & 0x7FFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What a registry says of one schema."""

    id: int
    kind: str
    text: str | None
    #: It refers to other schemas.
    refers: bool = False


class Registry(Protocol):
    """A Schema Registry that is read. Raises BrokerUnavailable in an outage, ConfigError for refused credentials."""

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        ...

    def by_id(self, id: int) -> Registered | None: ...

    def latest(self, subject: str) -> Registered | None: ...


class RegistrySchemas:
    """The schemas of a Schema Registry that speaks Confluent's protocol.

    An outage is BrokerUnavailable: what can't be decoded now is kept and tried again, never a dead letter.
    """

    def __init__(self, registry: Registry, *, limits: Limits = DEFAULT_LIMITS, clock: Clock = SYSTEM_CLOCK) -> None:
        self._registry = registry
        self._limits = limits
        self._clock = clock
        self._by_id: dict[int, Schema | UnsafeSchema] = {}
        self._unknown: dict[int, float] = {}
        self._latest: dict[str, tuple[float, Schema]] = {}

    def by_id(self, id: int) -> Schema:
        if id not in self._by_id:
            if self._clock.monotonic() < self._unknown.get(id, 0.0):
                raise DecodeError(f"Avro schema {id} is unknown to the registry at {self._registry.address}")
            answer = self._registry.by_id(id)
            if answer is None:
                if len(self._unknown) >= 10_000:
                    self._unknown.clear()  # ids come from outside
                self._unknown[id] = self._clock.monotonic() + UNKNOWN_TTL
                raise DecodeError(f"Avro schema {id} is unknown to the registry at {self._registry.address}")
            self._keep(answer)
        known = self._by_id[id]
        if isinstance(known, UnsafeSchema):
            raise known
        return known

    def latest(self, subject: str) -> Schema:
        until, known = self._latest.get(subject, (0.0, None))
        if known is None or self._clock.monotonic() >= until:
            try:
                known = self._ask_latest(subject)
            except BrokerUnavailable:
                if known is None:
                    raise
                # Better the schema of five minutes ago than no message.
            self._latest[subject] = (self._clock.monotonic() + LATEST_TTL, known)
        return known

    def _ask_latest(self, subject: str) -> Schema:
        answer = self._registry.latest(subject)
        if answer is None:
            raise NoSubject(
                f"the registry at {self._registry.address} has no subject {subject!r}; register its schema first"
            )
        if answer.id not in self._by_id:
            self._keep(answer)
        return self.by_id(answer.id)

    def _keep(self, answer: Registered) -> None:
        try:
            self._by_id[answer.id] = self._schema(answer)
        except UnsafeSchema as error:
            self._by_id[answer.id] = error  # it will not become safe

    def _schema(self, answer: Registered) -> Schema:
        if answer.kind != "AVRO" or answer.refers:
            raise UnsafeSchema(
                f"schema {answer.id} is {answer.kind} or refers to other schemas; only Avro in one document can be read"
            )
        if answer.text is None:
            raise UnsafeSchema(f"the registry at {self._registry.address} answered without a schema for {answer.id}")
        return Schema(answer.id, _document(answer.text.encode(), f"schema {answer.id}"), self._limits)


def _document(data: bytes, what: str) -> Any:
    try:
        return json.loads(_STRICT.decode(data))
    except DecodeError as error:
        raise UnsafeSchema(f"{what} is no schema: {error}") from None
