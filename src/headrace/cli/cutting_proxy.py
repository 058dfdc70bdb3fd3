"""A TCP proxy on loopback that breaks a connection once, in mid-stream: how the demo cuts a client off for real."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Link:
    """The two ends of a forwarded connection, and how many of its directions have ended."""

    client: socket.socket
    server: socket.socket
    finished: int = 0

    def reset(self) -> None:
        _reset(self.client)
        _reset(self.server)


class CuttingProxy:
    """Forwards connections to a port of this machine, and resets the one that brings the client's sum over ``cut_after``.

    Only once; every later connection lives. ``sent`` counts the bytes of the clients, ``cuts`` the connections cut
    (``cut_at`` is what was sent by then), ``connections`` all of them.
    """

    def __init__(self, target_port: int, *, cut_after: int) -> None:
        self.sent = 0
        self.cuts = 0
        self.cut_at = 0
        self.connections = 0
        self._target_port = target_port
        self._cut_after = cut_after
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: set[_Link] = set()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone does not
        self._listener.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                _reset(client)
                continue
            link = _Link(client, server)
            with self._lock:
                self.connections += 1
                self._links.add(link)
            for forward in (self._forward_up, self._forward_down):
                threading.Thread(target=forward, args=(link,), daemon=True).start()

    def _forward_up(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.client.recv(_CHUNK):
                link.server.sendall(data)
                if self._is_due(len(data)):
                    link.reset()
            link.server.shutdown(socket.SHUT_WR)
        self._finish(link)

    def _forward_down(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.server.recv(_CHUNK):
                link.client.sendall(data)
            link.client.shutdown(socket.SHUT_WR)
        self._finish(link)

    def _finish(self, link: _Link) -> None:
        """One direction has ended; with the other one the connection has."""
        with self._lock:
            link.finished += 1
            if link.finished == 2:
                self._links.discard(link)
                link.client.close()
                link.server.close()

    def _is_due(self, size: int) -> bool:
        with self._lock:
            self.sent += size
            due = not self.cuts and self.sent > self._cut_after
            if due:
                self.cuts, self.cut_at = self.cuts + 1, self.sent
            return due


def _reset(end: socket.socket) -> None:
    """No goodbye: a reset, and what was not sent yet is thrown away."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes whoever reads from it in another thread
    end.close()
