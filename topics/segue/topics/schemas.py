"""Where Avro schemas come from: a folder of files, or a Schema Registry that is only read."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastavro.schema import SchemaParseException, to_parsing_canonical_form

from segue.clock import SYSTEM_CLOCK, Clock
from segue.errors import BrokerUnavailable, ConfigError, DecodeError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.avro import Schema
from segue.topics.avro_bounds import UnsafeSchema
from segue.topics.codec import JsonCodec

#: Bytes of one schema document.
MAX_SCHEMA_BYTES = 1024 * 1024
#: Seconds after which the latest schema of a subject is asked for again. A schema of an id never changes.
LATEST_TTL = 300.0
#: Seconds for which an id that the registry does not know is not asked for again.
UNKNOWN_TTL = 30.0
#: Seconds that the registry may take to answer.
REGISTRY_TIMEOUT = 5.0

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
            raise ConfigError(f"there is no schema file {subject}.avsc in the folder of avro.schemas")
        return self._by_subject[subject]


def schema_id(document: Any) -> int:
    """An id of 31 bits made from the schema's parsing canonical form (Avro specification). Raises ConfigError."""
    try:
        canonical = to_parsing_canonical_form(document)
    except (SchemaParseException, KeyError, TypeError, RecursionError) as error:
        raise UnsafeSchema(f"Avro schema is malformed: {error!s:.200}") from None
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big") & 0x7FFFFFFF


Fetch = Callable[[str], tuple[int, bytes]]


class RegistrySchemas:
    """A Confluent-compatible Schema Registry, read with GET alone.

    An outage is BrokerUnavailable: what can't be decoded now is kept and tried again, never a dead letter.
    """

    def __init__(
        self, url: str, *, limits: Limits = DEFAULT_LIMITS, clock: Clock = SYSTEM_CLOCK, fetch: Fetch | None = None
    ) -> None:
        self._address, authorization = _split(url)
        self._fetch = fetch or _http(authorization)
        self._limits = limits
        self._clock = clock
        self._by_id: dict[int, Schema | UnsafeSchema] = {}
        self._unknown: dict[int, float] = {}
        self._latest: dict[str, tuple[float, Schema]] = {}

    def by_id(self, id: int) -> Schema:
        if id not in self._by_id:
            if self._clock.monotonic() < self._unknown.get(id, 0.0):
                raise DecodeError(f"Avro schema {id} is unknown to the registry at {self._address}")
            answer = self._get(f"/schemas/ids/{id}")
            if answer is None:
                if len(self._unknown) >= 10_000:
                    self._unknown.clear()  # ids come from outside
                self._unknown[id] = self._clock.monotonic() + UNKNOWN_TTL
                raise DecodeError(f"Avro schema {id} is unknown to the registry at {self._address}")
            self._keep(id, answer)
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
        answer = self._get(f"/subjects/{urllib.parse.quote(subject, safe='')}/versions/latest")
        if answer is None or not isinstance(answer.get("id"), int):
            raise ConfigError(f"the registry at {self._address} has no subject {subject!r}; register its schema first")
        if answer["id"] not in self._by_id:
            self._keep(answer["id"], answer)
        return self.by_id(answer["id"])

    def _keep(self, id: int, answer: Mapping[str, Any]) -> None:
        try:
            self._by_id[id] = self._schema(id, answer)
        except UnsafeSchema as error:
            self._by_id[id] = error  # it will not become safe

    def _schema(self, id: int, answer: Mapping[str, Any]) -> Schema:
        kind = answer.get("schemaType", "AVRO")
        if kind != "AVRO" or answer.get("references"):
            raise UnsafeSchema(
                f"schema {id} is {kind} or refers to other schemas; only Avro in one document can be read"
            )
        text = answer.get("schema")
        if not isinstance(text, str):
            raise UnsafeSchema(f"the registry at {self._address} answered without a schema for {id}")
        return Schema(id, _document(text.encode(), f"schema {id}"), self._limits)

    def _get(self, path: str) -> dict[str, Any] | None:
        """The answer, None for 404. Raises ConfigError for refused credentials, else BrokerUnavailable."""
        try:
            status, body = self._fetch(self._address + path)
        except (OSError, http.client.HTTPException) as error:
            raise BrokerUnavailable(f"the schema registry at {self._address} does not answer: {error}") from None
        if status == 404:
            return None
        if status in (401, 403):
            raise ConfigError(f"the schema registry at {self._address} refuses the credentials (HTTP {status})")
        if status != 200:
            raise BrokerUnavailable(f"the schema registry at {self._address} answered HTTP {status}")
        try:
            found = json.loads(_STRICT.decode(body))
        except DecodeError:
            found = None
        if not isinstance(found, dict):
            raise BrokerUnavailable(f"what answers at {self._address} is no schema registry")
        return found


def _document(data: bytes, what: str) -> Any:
    try:
        return json.loads(_STRICT.decode(data))
    except DecodeError as error:
        raise UnsafeSchema(f"{what} is no schema: {error}") from None


def _split(url: str) -> tuple[str, str | None]:
    """The address without user and password, and the header made from those."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"avro.registry is {url!r:.80}; give an address that begins with http:// or https://")
    authorization = None
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}", authorization


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A registry that sends us elsewhere is not the one that was configured."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _http(authorization: str | None) -> Fetch:
    opener = urllib.request.build_opener(_NoRedirect)

    def fetch(url: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/vnd.schemaregistry.v1+json"}
        if authorization:
            headers["Authorization"] = authorization
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http and https alone, see _split
        try:
            with opener.open(request, timeout=REGISTRY_TIMEOUT) as answer:
                return answer.status, answer.read(MAX_SCHEMA_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, b""

    return fetch
