"""One writer of a folder at a time, also over machines and file systems that know no locks."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cxrflow.base import storage
from cxrflow.base.errors import JobError, UserError

log = logging.getLogger(__name__)

NAME = "_lease.json"
RENEW_SECONDS = 20.0
STALE_SECONDS = 300.0
"""A lease that was not renewed for so long belongs to a run that died."""


class Lease:
    """The right to change a folder, for as long as it is held."""

    def __init__(self, url: str, token: str, stale_seconds: float = STALE_SECONDS):
        self._url, self._token, self._stale_seconds = url, token, stale_seconds
        self._lost: JobError | None = None
        self._lock = threading.Lock()  # some file systems show a file empty while it is written anew

    @property
    def token(self) -> str:
        """Random, and another one each time that the folder is held."""
        return self._token

    def check(self) -> None:
        """Raise JobError where another run has taken over meanwhile, because this one seemed dead."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        holder = _read(self._url)
        if holder is None or holder.get("token") != self._token:
            self._lost = JobError(
                f"{self._url}: another run took this folder over, since this one seemed dead; this one writes no more"
            )
            raise self._lost

    def require(self) -> None:
        """The same, by what the renewals saw, also where they could not renew it for so long that another run may have taken
        over: it reads nothing."""
        if self._lost:
            raise self._lost

    def _renew(self, stop: threading.Event, every: float) -> None:
        renewed = time.time()  # not the monotonic clock, which on a machine that sleeps stands still
        while not stop.wait(every):
            try:
                with self._lock:
                    self._check()
                    storage.write_bytes(self._url, _content(self._token))
                renewed = time.time()
            except JobError as error:
                log.error("%s", error)
                return
            except Exception as error:  # a store's client has kinds of its own; the next renewal may succeed
                log.warning("%s: could not be renewed, trying again in %.0f s (%s)", self._url, every, error)
                if time.time() - renewed > self._stale_seconds:
                    self._lost = JobError(
                        f"{self._url}: could not be renewed for {self._stale_seconds / 60:.0f} minutes, so another run "
                        "may have taken this folder over; this one writes no more"
                    )
                    return


@contextmanager
def hold(
    folder: str, flag: str, renew_seconds: float = RENEW_SECONDS, stale_seconds: float = STALE_SECONDS
) -> Iterator[Lease]:
    """Hold the folder's lease for the length of a block; ``flag`` is what the user named it with.

    It is the file ``_lease.json``, which exists as long as somebody writes and is renewed all the while. One whose
    process on this machine has died, or that nobody renewed for five minutes, is taken over. Raises UserError where
    another run holds it. Call ``check`` before anything is changed: where a file system cannot create a file only
    if it is absent, two runs that start within the same moment both get here, and the check stops one of them.
    """
    url, token = storage.join(folder, NAME), uuid.uuid4().hex
    if not storage.create(url, _content(token)):
        holder = _read(url)
        if holder is not None and not _is_dead(holder, stale_seconds):
            raise UserError(
                f"{flag}: expected a folder that nobody else writes, but process {holder.get('pid')} on "
                f"{holder.get('host')} does so now ({url}); wait until it has finished. If it died, its lease "
                f"ends {stale_seconds / 60:.0f} minutes after its last sign of life"
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
        except Exception as error:  # the work is done; a lease that stays ends by itself
            log.warning("%s: could not be removed (%s)", url, error)


def _content(token: str) -> bytes:
    return json.dumps({"token": token, "host": _here(), "pid": os.getpid(), "renewed": time.time()}).encode()


def _read(url: str) -> dict | None:
    """Who holds the lease; None where nobody does."""
    try:
        content = storage.read_bytes(url)
    except FileNotFoundError:
        return None
    # Empty for the moment between a file's creation and its first bytes, or for ever where the writer died then.
    return json.loads(content) if content else {"renewed": storage.modified(url)}


def _here() -> str:
    """This machine, and where it is told apart, the container: process ids mean nothing in another."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_dead(holder: dict, stale_seconds: float) -> bool:
    if time.time() - holder.get("renewed", 0) > stale_seconds:
        return True
    if holder.get("host") != _here():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
