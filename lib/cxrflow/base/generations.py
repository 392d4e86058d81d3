"""The older generations of a table, which readers that began with them still need.

Every ingest that changes a table makes a new generation. It moves the shards that only older generations name to
``TABLE/_older``, so that ``TABLE/samples`` holds the newest rows alone, also for Spark. ``TABLE/_older/NUMBER.json`` is
the manifest of such a generation; its paths stay as they were, and ``read_from_any_generation`` finds the moved files.
``TABLE/_readers`` holds a file for each job that reads the table, and ingest keeps the generations that they name.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from cxrflow.base import storage
from cxrflow.base.lease import RENEW_SECONDS, STALE_SECONDS
from cxrflow.base.process_identity import has_ended, this_machine

log = logging.getLogger(__name__)

T = TypeVar("T")

OLDER = "_older"
READERS = "_readers"


def older_manifest(table: str, generation: int) -> str:
    """The URL of the manifest of an older generation."""
    return storage.join(table, OLDER, f"{generation:06d}.json")


def older_generations(table: str) -> list[int]:
    """The older generations that are still there, the newest first. The current one may be among them."""
    names = [name.removesuffix(".json") for name in storage.entries(storage.join(table, OLDER))]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def older_url(table: str, path: str) -> str:
    """Where a shard is once no newer generation names it. ``path`` as in the manifest: ``samples/...``."""
    return storage.join(table, OLDER, path)


def read_from_any_generation(read: Callable[[str], T], url: str) -> T:
    """``read(url)`` of a shard, or of the same shard in ``_older`` if an ingest has moved it there meanwhile.

    Raises FileNotFoundError if it is at neither path.
    """
    try:
        return read(url)
    except FileNotFoundError as error:
        table, found, name = url.rpartition("/samples/")
        if not found:
            raise
        try:
            return read(older_url(table, f"samples/{name}"))
        except FileNotFoundError:
            raise error from None


@contextmanager
def reading(table: str, generation: int) -> Iterator[None]:
    """Keep a generation of the table for the length of a block: no ingest and no vacuum removes its files.

    The file in ``_readers`` is renewed in the background, like a lease. A table that this process cannot write to is
    read without it, and a log line says so.
    """
    url = storage.join(table, READERS, f"{uuid.uuid4().hex}.json")
    try:
        storage.write_bytes(url, _content(generation))
    except Exception as error:  # each storage client raises its own types
        log.info(
            "%s cannot be written to (%s), so an ingest at the same time may remove the files that this job reads",
            table,
            error,
        )
        yield
        return
    stop = threading.Event()
    renewal = threading.Thread(target=_renew, args=(url, generation, stop), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stop.set()
        renewal.join()
        with suppress(Exception):  # a file that stays expires by itself
            storage.remove(url)


def generations_in_use(table: str) -> set[int]:
    """The generations that running jobs read. Removes the files of jobs that have ended."""
    storage.remove_temporary_files(storage.join(table, READERS))
    found = set()
    for name in storage.entries(storage.join(table, READERS)):
        url = storage.join(table, READERS, name)
        try:
            reader = json.loads(storage.read_bytes(url))
        except FileNotFoundError:  # the job has just ended
            continue
        except ValueError:  # not written completely yet
            reader = {"renewed": storage.modified(url)}
        ended_here = reader.get("host") == this_machine() and has_ended(reader["pid"])
        if ended_here or time.time() - reader["renewed"] > STALE_SECONDS:
            storage.remove(url)
        elif "generation" in reader:
            found.add(reader["generation"])
    return found


def _renew(url: str, generation: int, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            storage.write_bytes(url, _content(generation))
        except Exception as error:  # each storage client raises its own types; the next renewal may succeed
            log.warning("cannot renew %s, trying again in %.0f s (%s)", url, RENEW_SECONDS, error)


def _content(generation: int) -> bytes:
    return json.dumps(
        {"generation": generation, "host": this_machine(), "pid": os.getpid(), "renewed": time.time()}
    ).encode()
