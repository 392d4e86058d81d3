import os
import signal
import subprocess
import sys
import time

from cxrflow.base.process_tree import ancestors, command_line, data_bytes, process_state

PRINT = "from cxrflow.base.process_tree import ancestors; print(*ancestors())"


def test_ancestors_end_with_the_processes_that_started_this_one():
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True)
    found = [int(process) for process in done.stdout.split()]
    assert found[1:] == list(ancestors()) and found[1] == os.getpid()


def test_ancestors_end_where_a_process_is_not_visible(tmp_path):
    assert list(ancestors(tmp_path)) == [os.getpid()]
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / str(os.getpid()) / "stat").write_text(f"{os.getpid()} (a (b) c) S 41 1 1")
    assert list(ancestors(tmp_path)) == [os.getpid(), 41]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_command_line_and_state():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--flag"])
    try:
        wait_until(lambda: "--flag" in command_line(process.pid))  # the kernel sets it after the process has begun
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(process.pid) == "T")
    finally:
        process.kill()
        process.wait()
    assert (command_line(process.pid), process_state(process.pid)) == ([], "")


def test_allocated_bytes_count_before_they_are_used():
    before = data_bytes()
    block = bytearray(64 * 2**20)
    assert 64 * 2**20 <= data_bytes() - before < 70 * 2**20 and len(block)
