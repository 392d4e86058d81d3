import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from cxrflow.distributed.connection import LOST, Listener, check_reachable, open_connection


def test_who_has_the_key_is_served():
    heard = []
    with Listener(
        "127.0.0.1", lambda connection: (heard.append(connection.recv_bytes()), connection.send_bytes(b"ok"))
    ) as door:
        with open_connection(door.address) as connection:
            connection.send_bytes(b"hello")
            assert connection.recv_bytes() == b"ok"
    assert heard == [b"hello"]


def test_a_stranger_without_the_key_is_not_heard_and_keeps_nobody_waiting():
    heard = []
    with (
        Listener("127.0.0.1", lambda connection: heard.append(connection.recv_bytes())) as door,
        socket.create_connection((door.address.host, door.address.port)),
    ):  # and one who says nothing
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client((door.address.host, door.address.port), authkey=b"wrong").send_bytes(b"spam")
        check_reachable(door.address)
    assert b"spam" not in heard


def test_a_door_that_is_shut():
    with Listener("127.0.0.1") as door:
        pass
    with pytest.raises(LOST):
        check_reachable(door.address)
