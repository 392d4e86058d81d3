"""Every message survives the wire, and anything else is refused with the reason."""

import dataclasses
import json

import pytest

from cxrflow.distributed.messages import (
    TYPES,
    Attach,
    Event,
    Exited,
    Failure,
    Finished,
    Heartbeat,
    MessageError,
    Order,
    Progress,
    Ready,
    Refused,
    Registration,
    decode,
    encode,
)

PROGRESS = Progress(phase="feed", epoch=2, step=7, shard="samples/split=train/7.parquet")
MESSAGES = [
    PROGRESS,
    Attach(
        rank=1,
        pid=2,
        host="ada",
        executor="3",
        driver_host="head",
        driver_port=4,
        driver_key="00ff",
        timeouts={"a": 1.5},
    ),
    Ready(),
    Refused(reason="no route"),
    Registration(rank=1, pid=2, host="ada", executor=None),
    Heartbeat(progress=PROGRESS, idle_seconds=0.5, process_state="R"),
    Event(content={"event": "start", "images": 7}),
    Finished(),
    Finished(failure=Failure(reason="disk full\nline 2", expected=True), last_lines=["a"]),
    Exited(progress=Progress(), last_lines=["a", "é"], seconds_ago=1.25),
    Order(action="stop"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire_as_one_line(message):
    line = encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == message


def test_every_type_is_tried_and_frozen():
    assert {type(message).__name__ for message in MESSAGES} == set(TYPES)
    assert all(kind.__dataclass_params__.frozen for kind in (*TYPES.values(), Failure))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROGRESS.phase = "train"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "expected a line of JSON, got b''"),
        (b"GET / HTTP/1.1", "expected a line of JSON"),
        (b"[1]", "expected a message of type Progress, "),
        (b'{"type": "Hello"}', "expected a message of type Progress, "),
        (b'{"type": "Ready", "release": 2}', "Ready: expected the fields ; got unknown release; use the same release"),
        (b'{"type": "Progress", "phase": "feed", "batch": 1}', "Progress: .*got unknown batch"),
        (b'{"type": "Finished", "failure": {"why": "x"}}', "Failure: .*got unknown why"),
        (b'{"type": "Refused"}', "Refused: .*missing 1 required keyword-only argument: 'reason'"),
        (b'{"type": "Order", "action": "dance"}', "action: expected one of heartbeat, stop, .*; got 'dance'"),
    ],
)
def test_what_is_no_message_is_refused(line, message):
    with pytest.raises(MessageError, match=message):
        decode(line)


def test_lines_are_plain_json():
    assert json.loads(encode(Order(action="kill"))) == {"type": "Order", "action": "kill"}


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(), "in start"),
        (Progress(phase="train", epoch=2, step=7), "in train of epoch 2 at step 7"),
        (PROGRESS, "in feed of epoch 2 at step 7 with samples/split=train/7.parquet"),
    ],
)
def test_progress_as_text(progress, text):
    assert str(progress) == text
