import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from cxrflow.launch.progress import Address, ProgressListener, connect

EPOCH = {"event": "epoch", "epoch": 1, "epochs": 3, "loss": 0.5, "val_loss": 0.25, "val_auc": 0.75, "val_accuracy": 0.5,
         "images_per_second": 10.0, "seconds": 2.0, "seconds_left": 4.0}


def test_events_arrive_as_they_are_sent():
    events = []
    with ProgressListener("127.0.0.1", events.append) as listener:
        tell = connect(listener.address)
        tell(EPOCH)
        tell({"event": "step", "loss": float("inf"), "words": "zwölf\n"})
    assert events == [EPOCH, {"event": "step", "loss": float("inf"), "words": "zwölf\n"}]


def test_a_stranger_without_the_key_is_not_heard():
    events = []
    with ProgressListener("127.0.0.1", events.append) as listener, socket.create_connection(
            (listener.address.host, listener.address.port)):  # and one who says nothing
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client((listener.address.host, listener.address.port), authkey=b"wrong").send_bytes(b'{"event": "spam"}')
        connect(listener.address)({"event": "start"})
    assert events == [{"event": "start"}]


def test_a_launch_in_which_no_worker_came_ends(capsys):
    with ProgressListener("127.0.0.1"):
        pass
    assert capsys.readouterr().err == ""


def test_an_unreachable_driver_does_not_stop_training(capsys):
    with ProgressListener("127.0.0.1") as listener:
        gone = listener.address
    connect(Address(gone.host, gone.port, gone.key))(EPOCH)
    said = capsys.readouterr().err
    assert "cannot reach the driver" in said and said.splitlines()[-1].startswith("epoch 1/3: loss 0.5000")
