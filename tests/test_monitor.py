"""Which workers are lost: a pure function of what the driver knows, and the monitor's answer to messages it cannot
read."""

import time

import pytest

from cxrflow.distributed.connection import LOST, open_connection
from cxrflow.distributed.messages import Failure, Finished, Order, Progress, Registration, decode, encode
from cxrflow.distributed.timeouts import Timeouts
from cxrflow.launch.monitor import Monitor, WorkerState, find_losses

NOW, HANG = 1000.0, 30.0


def worker(rank, phase="train", *, epoch=2, step=7, idle=1.0, silent=0.5, **state):
    progress = Progress(phase=phase, epoch=epoch, step=step)
    return WorkerState(
        rank, "host", 100 + rank, progress=progress, progress_since=NOW - idle, last_heard=NOW - silent, **state
    )


@pytest.mark.parametrize(
    ("workers", "lost"),
    [
        ([worker(0), worker(1)], []),
        ([worker(0), worker(1, disconnected=True)], [1]),
        ([worker(0), worker(1, finished=True, disconnected=True, silent=500)], []),
        ([worker(0), worker(1, finished=True, silent=19)], [1]),  # it has finished, but its process has not ended
        ([worker(0), worker(1, finished=True, failure=Failure(reason="no"), disconnected=True)], []),  # reported itself
        ([worker(0), worker(1, silent=19)], [1]),
        ([worker(0, idle=40), worker(1, "feed", idle=40)], [1]),  # 0 waits for 1, which reads
        ([worker(0, idle=40, step=8), worker(1, idle=39)], [1]),  # one step behind
        ([worker(0, "checkpoint", idle=40), worker(1, idle=40)], [0]),
        ([worker(0, idle=40), worker(1, idle=40, process_state="T")], [1]),
        ([worker(0, idle=40), worker(1, idle=40)], [0, 1]),  # either may be to blame
        ([worker(0, idle=40), worker(1, "feed", idle=20)], []),  # it has not read for long enough
        ([worker(0, "first train", idle=100), worker(1, "first train", idle=100)], []),  # compiling is slow, once
        ([worker(0, "start", idle=130), worker(1, "first train", idle=130)], [0]),
    ],
)
def test_losses(workers, lost):
    found = find_losses(workers, NOW, HANG, Timeouts())
    assert [loss.worker.rank for loss in found] == lost


def monitor(events=None):
    return Monitor("127.0.0.1", 1, HANG, ([] if events is None else events).append, Timeouts())


REGISTRATION = Registration(rank=0, pid=100, host="host", executor=None)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_registers_and_finishes():
    with monitor() as listening:
        with open_connection(listening.endpoint.address) as agent:
            agent.send_bytes(encode(REGISTRATION))
            until(listening.all_workers)
            listening.stop()
            assert decode(agent.recv_bytes()) == Order(action="stop")
            agent.send_bytes(encode(Finished(failure=Failure(reason="disk full"), last_lines=["x"])))
            until(listening.failed_workers)
        listening.wait_until_all_ended(10)
        assert [str(state) for state in listening.failed_workers()] == ["worker 0 (process 100 on host)"]
        assert listening.last_lines(0) == ["x"] and listening.losses() == []


def test_a_second_worker_of_the_same_rank_is_killed():
    with monitor() as listening, open_connection(listening.endpoint.address) as first:
        first.send_bytes(encode(REGISTRATION))
        until(listening.all_workers)
        with open_connection(listening.endpoint.address) as second:
            second.send_bytes(encode(REGISTRATION))
            assert decode(second.recv_bytes()) == Order(action="kill")


@pytest.mark.parametrize("first", [b'{"hello": {"rank": 0}}', encode(Finished())])
def test_an_agent_of_another_release_is_refused_with_the_reason(caplog, first):
    with monitor() as listening, open_connection(listening.endpoint.address) as agent:
        agent.send_bytes(first)
        with pytest.raises(LOST):
            agent.recv_bytes()
        assert listening.all_workers() == []
    assert "a worker's agent cannot register: expected" in caplog.text
