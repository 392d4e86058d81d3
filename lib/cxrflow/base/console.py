"""Lines for a person in a terminal that also shows Spark's progress bar.

Spark writes its bar to standard error without a newline and returns to the start of the line. A line written after that
would overwrite only the bar's first characters. So in a terminal every line starts by erasing what is there.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, TextIO

ERASE_LINE = "\r\x1b[K"


def in_terminal() -> bool:
    """Whether both our lines and Spark's progress bar appear in a terminal."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return sys.stderr.isatty()
    # Under spark-submit our output is a pipe to the JVM, which copies it to its own standard output.
    try:
        return all(
            os.readlink(f"/proc/{os.getppid()}/fd/{number}").startswith(("/dev/pts/", "/dev/tty", "/dev/console"))
            for number in (1, 2)
        )
    except OSError:  # no /proc
        return False


def erase_bar_before_lines() -> None:
    """Replace ``sys.stderr`` by a stream that erases Spark's progress bar before each line, if this is a terminal."""
    if in_terminal() and not isinstance(sys.stderr, LineStream):
        sys.stderr = LineStream(sys.stderr)


class LineStream:
    """A text stream that writes whole lines, each after erasing the terminal's current line."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._lock = threading.RLock()
        self._pending = ""
        self._in_line = False

    def write(self, text: str) -> int:
        """Write the complete lines of the text, and keep an incomplete one until its newline or ``flush``."""
        with self._lock:
            lines, newline, self._pending = (self._pending + text).rpartition("\n")
            if newline:
                start = "" if self._in_line else ERASE_LINE
                # One write, so that Spark's bar cannot come between the parts of a line.
                self._stream.write(start + lines.replace("\n", f"\n{ERASE_LINE}") + "\n")
                self._stream.flush()
                self._in_line = False
        return len(text)

    def flush(self) -> None:
        """Write an incomplete line as well."""
        with self._lock:
            if self._pending:
                self._stream.write(("" if self._in_line else ERASE_LINE) + self._pending)
                self._pending, self._in_line = "", True
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
