import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from cxrflow.launch.progress import Address, ProgressListener, connect


def test_lines_arrive_as_they_are_sent(capsys):
    with ProgressListener("127.0.0.1") as listener:
        send = connect(listener.address)
        send("epoch 1/3: loss 0.5")
        send("two\x1b[31mparts")
    assert capsys.readouterr().err == "epoch 1/3: loss 0.5\ntwo[31mparts\n"


def test_a_stranger_without_the_key_is_not_heard(capsys):
    with ProgressListener("127.0.0.1") as listener, socket.create_connection(
            (listener.address.host, listener.address.port)):  # and one who says nothing
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client((listener.address.host, listener.address.port), authkey=b"wrong").send_bytes(b"spam")
        send = connect(listener.address)
        send("rank 0")
    assert capsys.readouterr().err == "rank 0\n"


def test_a_launch_in_which_no_worker_came_ends(capsys):
    with ProgressListener("127.0.0.1"):
        pass
    assert capsys.readouterr().err == ""


def test_an_unreachable_driver_does_not_stop_training(capsys):
    with ProgressListener("127.0.0.1") as listener:
        gone = listener.address
    connect(Address(gone.host, gone.port, gone.key))("epoch 1/3")
    said = capsys.readouterr().err
    assert "cannot reach the driver" in said and said.endswith("epoch 1/3\n")
