"""A small Schema Registry over HTTP, as much of it as Confluent's own client asks for."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


class SchemaRegistry:
    """Listens on the loopback interface while it is entered; `answer` replaces what it says, for faults."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        self._credentials = f"{user}:{password}" if user else ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def register(self, subject: str, schema: Any) -> int:
        """The schema's id; the same schema has one id, under whatever subject."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        known = next((id for id, other in self.schemas.items() if json.loads(other) == json.loads(text)), None)
        id = len(self.schemas) + 1 if known is None else known
        self.schemas[id] = text
        versions = self.subjects.setdefault(subject, [])
        if id not in versions:
            versions.append(id)
        return id

    def __enter__(self) -> SchemaRegistry:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, path: str, body: bytes | None, authorization: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.answer is not None:
            return self.answer
        expected = "Basic " + base64.b64encode(self._credentials.encode()).decode()
        if self._credentials and authorization != expected:
            return 401, _error(40101, "who are you")
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        match parts:
            case ["schemas", "ids", id]:
                text = self.schemas.get(int(id))
                return (404, _error(40403, "no such schema")) if text is None else (200, _json({"schema": text}))
            case ["subjects", subject, "versions", "latest"] if subject in self.subjects:
                return 200, self._version(subject, self.subjects[subject][-1])
            case ["subjects", subject, "versions"] if body is not None:
                return 200, self._version(subject, self.register(subject, json.loads(body)["schema"]))
            case ["subjects", subject] if body is not None and subject in self.subjects:
                return 200, self._version(subject, self.register(subject, json.loads(body)["schema"]))
            case _:
                return 404, _error(40401, "no such subject")

    def _version(self, subject: str, id: int) -> bytes:
        version = self.subjects[subject].index(id) + 1
        return _json({"subject": subject, "id": id, "version": version, "schema": self.schemas[id]})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve(None)

            def do_POST(self) -> None:
                self._serve(self.rfile.read(int(self.headers["Content-Length"])))

            def _serve(self, body: bytes | None) -> None:
                status, answer = registry.respond(self.path, body, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _error(code: int, message: str) -> bytes:
    return _json({"error_code": code, "message": message})
