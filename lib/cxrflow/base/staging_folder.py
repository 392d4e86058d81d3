"""A staging folder inside the folder that a job will change: its files count only once the job has moved them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cxrflow.base import lease, storage
from cxrflow.base.errors import JobError

NAME = "_staging"


@contextmanager
def hold(folder: str, flag: str) -> Iterator[tuple[str, lease.Lease]]:
    """Hold the folder's lease (``lease.hold``) and provide a new staging folder, which is removed at the end.

    What killed jobs left is removed first: the lease says that no running job uses it. If the job fails before the
    folder has any content, the folder is removed too. Yields (URL of the staging folder, lease).
    """
    try:
        with lease.hold(folder, flag) as held:
            root = storage.join(folder, NAME)
            storage.remove(root)
            storage.remove_temporary_files(folder)
            staging = storage.join(root, uuid.uuid4().hex)
            try:
                yield staging, held
            finally:
                storage.remove(staging)
                with suppress(JobError):  # another run has taken the folder over, and uses its staging folder
                    held.check()
                    storage.remove(root)  # late files of a killed job's tasks, which end after their driver
    finally:
        storage.remove_if_empty(folder)


def has_only_leftovers(folder: str) -> bool:
    """Whether there is no such folder, or nothing in it but what a killed job left: staged files, leases."""
    if storage.exists(folder) and not storage.is_folder(folder):
        return False
    return all(name == NAME or name.startswith(lease.NAME) for name in storage.entries(folder))
