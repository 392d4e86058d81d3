"""Connections that a key authenticates."""

import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from cxrflow.distributed.connection import LOST, Listener, check_reachable, open_connection


def test_a_client_with_the_key_is_served():
    received = []

    def serve(connection):
        received.append(connection.recv_bytes())
        connection.send_bytes(b"ok")

    with Listener("127.0.0.1", serve) as listener, open_connection(listener.address) as connection:
        connection.send_bytes(b"hello")
        assert connection.recv_bytes() == b"ok"
    assert received == [b"hello"]


def test_a_client_without_the_key_is_not_served_and_a_silent_one_blocks_nobody():
    received = []
    with (
        Listener("127.0.0.1", lambda connection: received.append(connection.recv_bytes())) as listener,
        socket.create_connection((listener.address.host, listener.address.port)),  # silent
    ):
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client((listener.address.host, listener.address.port), authkey=b"wrong").send_bytes(b"spam")
        check_reachable(listener.address)
    assert b"spam" not in received


def test_a_listener_that_has_closed_is_not_reachable():
    with Listener("127.0.0.1") as listener:
        pass
    with pytest.raises(LOST):
        check_reachable(listener.address)
