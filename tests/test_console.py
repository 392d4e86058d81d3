"""Our lines and Spark's progress bar in a real pseudo-terminal."""

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import time

import pytest

from cxrflow.base.console import ERASE_LINE, LineStream

LINES = 6
JOB = f"""
import logging, time
from cxrflow.base import console
console.erase_bar_before_lines()
import sys
logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
log = logging.getLogger("cxrflow")
log.setLevel(logging.INFO)
from cxrflow.spark.session import open_session
spark = open_session("progress bar")
import threading
def work():
    spark.sparkContext.parallelize(range(40), 40).foreach(lambda _: time.sleep(0.2))
thread = threading.Thread(target=work)
thread.start()
for number in range({LINES}):
    time.sleep(0.5)
    log.info("line %d\\nits second line", number)
thread.join()
log.info("the end")
"""


def rows_of(output: str) -> list[str]:
    """What a terminal shows of this output: carriage return, erase to the end of the line, newline."""
    rows, row, column = [], [], 0
    for piece in re.split(r"(\x1b\[K|\r|\n)", output):
        if piece == "\n":
            rows.append("".join(row).rstrip())
            row, column = [], 0
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[K":
            del row[column:]
        else:
            row[column : column + len(piece)] = piece
            column += len(piece)
    return [*rows, "".join(row).rstrip()]


def in_pty(command: list[str], **environment: str) -> str:
    """Everything that the command writes to its terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment})
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the last process with this terminal has ended
            break
        output += part
        if not part:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0, output.decode()
    return output.decode().replace("\r\n", "\n")


@pytest.mark.spark
@pytest.mark.parametrize("starter", ["python", "spark-submit"])
def test_lines_and_the_progress_bar_do_not_overwrite_each_other(starter, tmp_path):
    job = tmp_path / "job.py"
    job.write_text(JOB)
    commands = {
        "python": [sys.executable, str(job)],
        "spark-submit": [shutil.which("spark-submit") or "spark-submit", "--master", "local[2]", str(job)],
    }
    output = in_pty(commands[starter], PYSPARK_SUBMIT_ARGS="--master local[2] pyspark-shell")
    assert "[Stage 0:" in output  # the bar was shown
    rows = rows_of(output)
    ours = [row for row in rows if "line" in row or "end" in row]
    pairs = [row for number in range(LINES) for row in (f"line {number}", "its second line")]
    assert ours == [*pairs, "the end"]


@pytest.mark.spark
def test_there_is_no_bar_where_there_is_no_terminal(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(JOB)
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell"}
    done = subprocess.run([sys.executable, job], capture_output=True, text=True, env=environment, check=True)
    assert "[Stage" not in done.stderr and "\x1b" not in done.stderr and done.stderr.endswith("\nthe end\n")


def test_a_line_is_erased_before_it_is_written_and_written_at_once():
    target = io.StringIO()
    stream = LineStream(target)
    print("first", "line", file=stream)
    stream.write("second, not yet whole")
    assert target.getvalue() == f"{ERASE_LINE}first line\n"
    stream.write("\nthird\n")
    assert target.getvalue() == "".join(
        f"{ERASE_LINE}{line}\n" for line in ("first line", "second, not yet whole", "third")
    )


def test_an_incomplete_line_is_written_when_it_is_flushed_and_then_continued():
    target = io.StringIO()
    stream = LineStream(target)
    print("half", end="", file=stream, flush=True)
    print(" and whole", file=stream)
    assert target.getvalue() == f"{ERASE_LINE}half and whole\n"
