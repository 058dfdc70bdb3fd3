"""The demo's proxy: forwards faithfully, and breaks one connection for real."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import closing

import pytest
from tests.processes import find_port

from headrace.cli.cutting_proxy import CuttingProxy


@pytest.fixture
def echo() -> Generator[int]:
    """The port of a server that sends back what it is sent, until that ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with closing(connection):
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except ConnectionResetError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(proxy: CuttingProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=10)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data) and (part := connection.recv(65536)):
        answer += part
    return answer


def breaks(connection: socket.socket) -> bool:
    """Whether a connection ends within some bytes: by a reset, or without an answer."""
    try:
        return any(exchange(connection, b"b") == b"" for _ in range(1000))
    except ConnectionError:
        return True


def test_it_forwards_both_ways_and_hands_on_the_end(echo: int):
    with CuttingProxy(echo, cut_after=10**9) as proxy, connect(proxy) as connection:
        data = bytes(range(256)) * 2000
        assert exchange(connection, data) == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
        assert (proxy.sent, proxy.cuts, proxy.connections) == (len(data), 0, 1)


def test_the_connection_that_goes_over_is_reset_and_later_ones_live(echo: int):
    with CuttingProxy(echo, cut_after=100) as proxy:
        with connect(proxy) as first:
            assert exchange(first, b"a" * 100) == b"a" * 100
            assert breaks(first)
        assert (proxy.cuts, proxy.cut_at) == (1, 101)
        with connect(proxy) as second:
            assert exchange(second, b"c" * 1000) == b"c" * 1000
        assert (proxy.cuts, proxy.connections) == (1, 2)


def test_a_target_that_is_not_there_breaks_the_connection():
    with CuttingProxy(find_port(), cut_after=100) as proxy:
        try:
            connection = connect(proxy)
        except ConnectionResetError:
            pass  # broken before connect had returned: sooner than most
        else:
            with connection:
                assert breaks(connection)
        assert proxy.connections == 0


def test_its_end_breaks_what_is_still_open(echo: int):
    with CuttingProxy(echo, cut_after=10**9) as proxy:
        connection = connect(proxy)
        assert exchange(connection, b"a") == b"a"
    with closing(connection):
        assert breaks(connection)
