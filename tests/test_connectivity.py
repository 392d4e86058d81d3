import socket

import pytest

from cxrflow.preflight.connectivity import EchoServer, ping, ping_all


@pytest.fixture
def server():
    found = EchoServer("127.0.0.1", "token")
    yield found
    found.close()


def test_token_is_echoed(server):
    assert ping(server.address, "token") is None


def test_another_token_is_another_program(server):
    assert ping(server.address, "other") == "another program answers at this port"


def test_all_addresses_are_pinged_at_once(server):
    closed = EchoServer("127.0.0.1", "token")
    closed.close()
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        addresses = {0: server.address, 1: closed.address, 2: silent.getsockname()}
        found = ping_all(addresses, "token", seconds=0.3)
    assert set(found) == {1, 2} and "refused" in found[1] and "no answer within 0.3 s" in found[2]
