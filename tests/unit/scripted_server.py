"""A server on a real socket that does to each request what its script says next: it reads, answers, breaks off."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

Step = Callable[["Exchange"], None]

BATCH = {"id": "batch_x", "runCount": None, "isCached": False}


@dataclass
class Exchange:
    """One request: its connection, its head, and what was read of its body."""

    connection: socket.socket
    head: str
    rest: bytes
    body: bytes = b""

    def read_all(self) -> None:
        """Reads the body to its end."""
        while self._read_piece():
            pass

    def read_some(self, size: int) -> None:
        """Reads at least so many bytes of the body."""
        while len(self.body) < size and self._read_piece():
            pass

    def answer(self, status: int, body: Any) -> None:
        data = msgspec.json.encode(body)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
        self.connection.sendall(head.encode() + data)

    def reset(self) -> None:
        """Breaks the connection as a killed process or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items that were read whole."""
        return [msgspec.json.decode(line) for line in self.body.split(b"\n")[:-1]]

    def _read_piece(self) -> bool:
        if "content-length: " in self.head.lower():
            size = int(self.head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            self._fill(size)
            self.body, self.rest = self.rest[:size], b""
            return False
        while b"\r\n" not in self.rest:
            self._fill(len(self.rest) + 1)
        size_text, _, self.rest = self.rest.partition(b"\r\n")
        size = int(size_text, 16)
        self._fill(size + 2)
        self.body += self.rest[:size]
        self.rest = self.rest[size + 2 :]
        return size > 0

    def _fill(self, size: int) -> None:
        while len(self.rest) < size:
            data = self.connection.recv(65_536)
            if not data:
                raise EOFError
            self.rest += data


@dataclass
class ScriptedServer:
    """``seen`` holds the exchanges in order."""

    url: str
    script: list[Step]
    seen: list[Exchange] = field(default_factory=list[Exchange])

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                connection.settimeout(10)
                with connection, contextlib.suppress(EOFError, ConnectionError):
                    self._exchange(connection)

    def _exchange(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65_536)
            if not piece:
                return
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        exchange = Exchange(connection, head.decode() + "\r\n", rest)
        self.seen.append(exchange)
        self.script.pop(0)(exchange)


@contextmanager
def scripted_server(*script: Step) -> Generator[ScriptedServer]:
    """Serves on a free port until the block ends; each request takes the next step of the script."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ScriptedServer(f"http://127.0.0.1:{listener.getsockname()[1]}", list(script))
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)


def create(exchange: Exchange) -> None:
    exchange.read_all()
    exchange.answer(202, BATCH)


def store(exchange: Exchange) -> None:
    exchange.read_all()
    count = len(exchange.items)
    exchange.answer(200, {"id": "batch_x", "itemsAccepted": count, "itemsDeduplicated": 0, "sealed": False})


def seal(exchange: Exchange) -> None:
    exchange.read_all()
    count = msgspec.json.decode(exchange.body)["runCount"]
    exchange.answer(
        200, {"id": "batch_x", "itemsAccepted": 0, "itemsDeduplicated": 0, "sealed": True, "runCount": count}
    )


def fail_early(exchange: Exchange) -> None:
    """500, before the body was read."""
    exchange.read_some(100_000)
    exchange.answer(500, {"error": "oops"})


def refuse_early(exchange: Exchange) -> None:
    exchange.read_some(100_000)
    exchange.answer(422, {"error": "never"})
    exchange.read_all()  # else the system would reset the connection, and the answer with it


def fail_late(exchange: Exchange) -> None:
    exchange.read_all()
    exchange.answer(500, {"error": "oops"})


def leave_unsealed(exchange: Exchange) -> None:
    exchange.read_all()
    exchange.answer(200, {"id": "batch_x", "itemsAccepted": 1, "itemsDeduplicated": 0, "sealed": False})


def break_off(exchange: Exchange) -> None:
    exchange.read_some(100_000)
    exchange.reset()


def break_off_at_the_end(exchange: Exchange) -> None:
    exchange.read_all()
    exchange.reset()
