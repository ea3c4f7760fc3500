"""The socket beneath a driver's connection, to be cut from another thread."""

from __future__ import annotations

import os
import socket


class Line:
    """A descriptor of our own for the socket `fileno`: it stays that of this connection whatever becomes of the other.

    Close it before the driver closes its own; as long as this one is open, the server is told nothing.
    """

    __slots__ = ("_socket",)

    def __init__(self, fileno: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fileno))

    def cut(self) -> None:
        """Make a call that waits for the server return at once, with an error."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster

    def close(self) -> None:
        self._socket.close()
