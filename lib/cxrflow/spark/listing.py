"""List the files below a local folder, and check the images folder. No Spark session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone

import pyarrow as pa

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.schema import SOURCE

LISTING = pa.schema(
    [
        *(field for field in SOURCE if field.name != "sha256"),
        pa.field("hidden", pa.bool_()),  # a part of the path below the images folder starts with _ or .
    ]
)
LISTING_BATCH = 10_000


def check_images(images: str) -> None:
    """Raise UserError if the folder is missing or empty, as far as that can be seen without Spark."""
    if not storage.is_local(images):
        return
    if not storage.is_folder(images):
        found = "a file" if storage.exists(images) else "nothing"
        raise UserError(
            f"--images: expected a folder of images, found {found} at {storage.absolute(images)!r}; "
            "name a folder that exists on this machine and on every executor"
        )
    if storage.is_empty_folder(images):
        raise UserError(
            f"--images: expected image files, but {storage.absolute(images)!r} is an empty folder; choose another"
        )


def check_apart(images: str, output: str, flag: str) -> None:
    """Raise UserError if one of the two folders is inside the other: the output would be read as images."""
    one, other = storage.absolute(images) + "/", storage.absolute(output) + "/"
    if one.startswith(other) or other.startswith(one):
        raise UserError(
            f"{flag}: expected a folder apart from the images in {images!r}, got {output!r}; choose another"
        )


def walk(root: str) -> Iterator[pa.RecordBatch]:
    """LISTING of the files below the local folder ``root``, including hidden ones.

    Entries that cannot be read (a broken link, a folder without permission) are listed as well, so that they end up in
    quarantine. Spark's own listing silently skips files of zero bytes.
    """
    entries: list[dict] = []
    for path in _files(root, set()):
        entries.append(_entry(root, path))
        if len(entries) == LISTING_BATCH:
            yield pa.RecordBatch.from_pylist(entries, schema=LISTING)
            entries = []
    yield pa.RecordBatch.from_pylist(entries, schema=LISTING)


def _entry(root: str, path: str) -> dict:
    parts = path.removeprefix(root.rstrip("/") + "/").split("/")
    hidden = path != root and any(part.startswith(("_", ".")) for part in parts)
    name = os.fsencode(path).decode(errors="backslashreplace")  # file names may hold any bytes, Arrow needs UTF-8
    try:
        status = os.stat(path)
    except OSError:
        return {"path": name, "size": 0, "modified": None, "hidden": hidden}
    try:
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    except (OverflowError, ValueError):  # a year outside of datetime's range
        modified = None
    return {"path": name, "size": status.st_size, "modified": modified, "hidden": hidden}


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself
        return False


def _files(folder: str, parents: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in parents:  # a link back to a parent folder
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in found:
        if _is_folder(entry):
            yield from _files(entry.path, parents | {real})
        else:
            yield entry.path
