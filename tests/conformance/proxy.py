"""A TCP proxy on loopback that can lose what the server says: for lost replies and half-open connections."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Literal

#: `pass`: hand on everything. `swallow`: acknowledge and drop what the server says. `cut`: close at its next word.
Mode = Literal["pass", "swallow", "cut"]


class Proxy:
    """Listens on `port` while its block runs; `mode` may be changed at any time and holds for all connections."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.mode: Mode = "pass"
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._server]
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        #: Set when something the server said was lost.
        self.lost = threading.Event()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for sock in list(self._sockets):
            _close(sock)
        for thread in list(self._threads):
            thread.join()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        try:
            while data := source.recv(65536):
                if from_server and self.mode != "pass":
                    self.lost.set()
                    if self.mode == "cut":
                        break
                    continue
                sink.sendall(data)
        except OSError:
            pass
        if from_server and self.mode == "swallow":
            return
        _close(source)
        _close(sink)


def _close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()
