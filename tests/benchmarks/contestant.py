"""The protocol between a contestant and the driver. All environments import this: standard library and pyarrow only."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

PROCESSES = 2
"""Cores that a contestant may use, as processes, task slots or CPUs."""


def list_images(folder: str) -> list[str]:
    """Return every file below the folder, sorted."""
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


def count_rows(out: str) -> int:
    """Count the images in the Parquet files below ``out`` by their footers. Files without pixels do not count."""
    footers = [pq.read_metadata(path) for path in Path(out).rglob("*.parquet")]
    return sum(footer.num_rows for footer in footers if "pixels" in footer.schema.names)


def serve(ingest: Callable[[str, str], object]) -> None:
    """Print "ready", then call ``ingest(folder, out)`` for each line ``run FOLDER OUT`` on standard input.

    Each call is timed and answered with one line of JSON on standard output: images, seconds and rows written. Counting
    is not timed. Returns when standard input ends.
    """
    answers = take_standard_output()
    answer(answers, {"ready": True})
    for line in sys.stdin:
        _, folder, out = shlex.split(line)
        started = time.perf_counter()
        ingest(folder, out)
        seconds = time.perf_counter() - started
        answer(answers, {"images": len(list_images(folder)), "seconds": seconds, "rows": count_rows(out)})


def take_standard_output():
    """Reserve standard output for answers: what libraries print goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer(answers, content: dict) -> None:
    print(json.dumps(content), file=answers, flush=True)
