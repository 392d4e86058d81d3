"""A lease lets only one process write to a folder at a time, also across machines and without file locks."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cxrflow.base import storage
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.process_identity import has_ended, this_machine

log = logging.getLogger(__name__)

NAME = "_lease.json"
RENEW_SECONDS = 20.0
STALE_SECONDS = 300.0
"""A lease that was not renewed for this long counts as abandoned: its owner has died."""


class HeldError(UserError):
    """Another job holds the lease."""


class Lease:
    """The exclusive right to change a folder, until it is released or lost to another run."""

    def __init__(self, url: str, token: str, stale_seconds: float = STALE_SECONDS):
        self._url, self._token, self._stale_seconds = url, token, stale_seconds
        self._lost: JobError | None = None
        self._lock = threading.Lock()  # some file systems show an empty file during a rewrite

    @property
    def token(self) -> str:
        """A random identifier, new for each lease."""
        return self._token

    def check(self) -> None:
        """Read the lease file; raise JobError if another run has taken over the folder."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        holder = _read(self._url)
        if holder is None or holder.get("token") != self._token:
            self._lost = JobError(
                f"{self._url}: another run took over this folder because this run did not renew its lease in time; "
                "this run stops writing"
            )
            raise self._lost

    def require(self) -> None:
        """Raise JobError if the renewal thread found the lease lost, or could not renew it before it became stale.

        This reads no file, so it is cheap enough to call at every step.
        """
        if self._lost:
            raise self._lost

    def _renew(self, stop: threading.Event, every: float) -> None:
        renewed = time.time()  # the monotonic clock stops while the machine sleeps
        while not stop.wait(every):
            try:
                with self._lock:
                    self._check()
                    storage.write_bytes(self._url, _content(self._token))
                renewed = time.time()
            except JobError as error:
                log.error("%s", error)
                return
            except Exception as error:  # each storage client raises its own types; the next renewal may succeed
                log.warning("cannot renew the lease %s, trying again in %.0f s (%s)", self._url, every, error)
                if time.time() - renewed > self._stale_seconds:
                    self._lost = JobError(
                        f"{self._url}: this run could not renew the lease for {self._stale_seconds / 60:.0f} minutes, "
                        "so another run may have taken over this folder; this run stops writing"
                    )
                    return


@contextmanager
def hold(
    folder: str, flag: str, renew_seconds: float = RENEW_SECONDS, stale_seconds: float = STALE_SECONDS
) -> Iterator[Lease]:
    """Hold the folder's lease for the length of a block. ``flag`` is the command-line flag that named the folder.

    The lease is the file ``_lease.json``. A background thread renews it while the block runs. A lease is taken over
    if its process died on this machine, or if nobody renewed it for five minutes. Raises HeldError if another run
    holds the lease. Call ``check`` before each change: without exclusive file creation, two runs that start at the
    same moment may both get a lease, and ``check`` then stops one of them.
    """
    url, token = storage.join(folder, NAME), uuid.uuid4().hex
    if not storage.create(url, _content(token)):
        holder = _read(url)
        if holder is not None and not _is_dead(holder, stale_seconds):
            raise HeldError(
                f"{flag}: expected a folder that no other job writes to, but process {holder.get('pid')} on "
                f"{holder.get('host')} is writing to it ({url}); wait until that job has finished. If it has died, its "
                f"lease expires {stale_seconds / 60:.0f} minutes after its last renewal"
            )
        storage.write_bytes(url, _content(token))
    lease, stop = Lease(url, token, stale_seconds), threading.Event()
    lease.check()
    renewal = threading.Thread(target=lease._renew, args=(stop, renew_seconds), daemon=True)
    renewal.start()
    try:
        yield lease
    finally:
        stop.set()
        renewal.join()
        try:
            holder = _read(url)
            if holder is not None and holder.get("token") == token:
                storage.remove(url)
        except Exception as error:  # the job is done, and a lease that stays expires by itself
            log.warning("cannot remove the lease %s (%s)", url, error)


def _content(token: str) -> bytes:
    return json.dumps({"token": token, "host": this_machine(), "pid": os.getpid(), "renewed": time.time()}).encode()


def _read(url: str) -> dict | None:
    """The content of the lease file; None if there is none."""
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        return None
    try:
        return json.loads(content)
    except ValueError:  # on a mount without hard links: not written completely yet, or its writer died meanwhile
        return {"renewed": storage.modified(url)}


def _is_dead(holder: dict, stale_seconds: float) -> bool:
    if time.time() - holder.get("renewed", 0) > stale_seconds:
        return True
    return holder.get("host") == this_machine() and has_ended(holder["pid"])
