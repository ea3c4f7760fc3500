"""A TCP proxy on loopback that can lose what the server says: for lost replies and half-open connections."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Literal

#: `pass`: hand on everything. `swallow`: acknowledge and drop what the server says, on connections made meanwhile as
#: well. `cut`: close at the server's next word. `commit`: close instead of handing on what follows a COMMIT.
Mode = Literal["pass", "swallow", "cut", "commit"]


class Proxy:
    """Listens on `port` while its block runs; `mode` may be changed at any time and holds for all connections.

    A connection on which something was swallowed is never whole again: it is closed at the next word after that.
    """

    def __init__(self, target: tuple[str, int], *, port: int = 0) -> None:
        self.mode: Mode = "pass"
        self._target = target
        self._server = socket.create_server(("127.0.0.1", port))
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
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _close(client)  # the server is down, and its port says so
                continue
            self._sockets += [client, server]
            told = threading.Event()
            self._start(self._hear, client, server, told)
            self._start(self._tell, server, client, told)

    def _hear(self, client: socket.socket, server: socket.socket, told: threading.Event) -> None:
        """What the client says is handed on; `told` is set once it has said COMMIT and replies are to be lost."""
        try:
            while data := client.recv(65536):
                if self.mode == "commit" and b"COMMIT" in data:
                    told.set()
                server.sendall(data)
        except OSError:
            pass
        _close(client)
        _close(server)

    def _tell(self, server: socket.socket, client: socket.socket, told: threading.Event) -> None:
        swallowed = False
        try:
            while data := server.recv(65536):
                mode = self.mode
                if mode == "cut" or told.is_set() or (swallowed and mode != "swallow"):
                    self.lost.set()
                    break
                if mode == "swallow":
                    self.lost.set()
                    swallowed = True
                    continue
                client.sendall(data)
        except OSError:
            pass
        if swallowed and self.mode == "swallow":
            return  # the end of the connection is lost as well
        _close(server)
        _close(client)


def _close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()
