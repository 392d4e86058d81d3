"""An agent beside a small worker process, without Spark and frameworks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from cxrflow.distributed.connection import Listener
from cxrflow.distributed.messages import Failure, Progress
from cxrflow.distributed.timeouts import Timeouts
from cxrflow.launch.monitor import Monitor

FAST = Timeouts(
    agent_heartbeat_seconds=0.05, driver_heartbeat_seconds=0.05, driver_silence_seconds=0.5, agent_silence_seconds=1.5
)
WORKER = """
import dataclasses, sys, time
from cxrflow.distributed.agent import Agent, MonitorEndpoint
from cxrflow.distributed.connection import Address
from cxrflow.distributed.timeouts import Timeouts

port, key, timeouts = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), eval(sys.argv[3])
with Agent(MonitorEndpoint(Address("127.0.0.1", port, key), Timeouts(**timeouts)), 0) as agent:
    agent.report_event({"event": "start"})
    agent.report_progress("train", epoch=2, step=7)
    print("first line", file=sys.stderr, flush=True)
"""
WAIT = """
    while not agent.stop_requested():
        time.sleep(0.02)
"""


def start(address, code: str) -> subprocess.Popen:
    arguments = [str(address.port), address.key.hex(), repr(vars(FAST))]
    return subprocess.Popen([sys.executable, "-c", WORKER + code, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


@pytest.fixture
def monitored():
    """A function that starts a worker with this code: its monitor, its process and the events that arrive."""
    started = []
    events = []
    with Monitor("127.0.0.1", 1, 30.0, events.append, FAST) as monitor:

        def run(code=WAIT):
            started.append(start(monitor.endpoint.address, code))
            wait_for(monitor.all_workers)
            return monitor, started[0], events

        yield run
        for process in started:
            process.kill()
            process.communicate()


def in_step(monitor):
    return monitor.all_workers()[0].progress == Progress(phase="train", epoch=2, step=7)


def test_progress_events_and_a_stop_request(monitored):
    monitor, process, events = monitored()
    wait_for(lambda: in_step(monitor))
    assert events == [{"event": "start"}] and monitor.losses() == []
    monitor.stop()
    assert process.wait(20) == 0
    monitor.wait_until_all_ended(20)
    assert monitor.losses() == [] and monitor.failed_workers() == []


def test_a_killed_worker_is_lost_with_its_position_and_last_lines(monitored):
    monitor, process, _ = monitored()
    wait_for(lambda: in_step(monitor))
    process.kill()
    (loss,) = wait_for(monitor.losses)
    assert "was lost in train of epoch 2 at step 7: its process ended without a message" in str(loss)
    assert monitor.last_lines(0) == ["first line"]


def test_the_monitor_kills_its_workers(monitored):
    monitor, process, _ = monitored()
    monitor.kill()
    assert process.wait(20) == -signal.SIGKILL


def test_an_error_is_reported_with_the_last_lines(monitored):
    monitor, process, _ = monitored("    raise OSError('disk full')")
    (failed,) = wait_for(monitor.failed_workers)
    assert (failed.failure.reason, failed.failure.expected, failed.failure.collective) == (
        "OSError: disk full",
        False,
        False,
    )
    assert process.wait(20) == 1 and "Traceback" in process.stderr.read()


def test_a_user_error_is_reported_as_a_message_for_the_user(monitored):
    monitor, _, _ = monitored(
        "    from cxrflow.base.errors import UserError\n    raise UserError('--table: no such folder')"
    )
    (failed,) = wait_for(monitor.failed_workers)
    assert failed.failure == Failure(reason="--table: no such folder", expected=True, bad_input=True)


def test_an_error_in_a_collective_operation_shows_no_stack_trace(monitored):
    monitor, process, _ = monitored("    raise RuntimeError('[gloo] Connection closed by peer')")
    (failed,) = wait_for(monitor.failed_workers)
    assert failed.failure.collective
    output = process.communicate(timeout=20)[1]
    assert process.returncode == 1 and "Traceback" not in output
    assert "stopped: a collective operation with the other workers failed: RuntimeError: [gloo]" in output


def test_a_worker_whose_driver_is_silent_is_killed():
    def serve(connection):
        connection.recv_bytes()
        time.sleep(20)

    with Listener("127.0.0.1", serve) as listener:
        process = start(listener.address, WAIT)
        started = time.monotonic()
        assert process.wait(15) == -signal.SIGKILL
        assert time.monotonic() - started > FAST.driver_silence_seconds
        process.communicate()


def test_a_worker_that_cannot_reach_the_driver_says_so():
    with Listener("127.0.0.1") as listener:
        pass
    output = start(listener.address, WAIT).communicate(timeout=20)[1]
    assert f"cannot reach the driver at 127.0.0.1:{listener.address.port} (ConnectionRefusedError: " in output
