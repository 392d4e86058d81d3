"""Paths and URLs, for Python (through fsspec) and for Spark. Python reads and writes all files through this module.

A URL is a plain path, a ``file:`` URL, or a URL of any file system that fsspec knows (``s3://``, ``hdfs://``,
``abfss://``, ``gs://``). On Databricks, Python reads ``dbfs:/x`` as ``/dbfs/x``. A Unity Catalog volume,
``/Volumes/...``, is a plain path for both Python and Spark.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import time
import uuid
import zlib
from typing import BinaryIO

import fsspec

from cxrflow.base.errors import UserError
from cxrflow.base.extras import missing_package
from cxrflow.base.process_identity import has_ended, this_machine

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):(?=/)")

_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp$")
TEMPORARY_SECONDS = 3600.0
"""A temporary file of another machine that was not written to for this long counts as abandoned."""

# Object stores have no folders. fsspec's makedirs would check for the bucket at every write, and create a misspelt one.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs"}


def absolute(url: str) -> str:
    """The form that every process understands: a URL with a scheme, or an absolute path for a local file."""
    match = _SCHEME.match(url)
    if match is None:
        return os.path.abspath(os.path.expanduser(url))
    scheme, path = match.group(1).lower(), url[match.end() :]
    if scheme == "dbfs":
        return "/dbfs" + path.rstrip("/")
    if scheme == "file":
        return os.path.abspath("/" + path.lstrip("/"))
    return url.rstrip("/")


def is_local(url: str) -> bool:
    """Whether Python can open the URL as an ordinary file, on a local disk or on a mount."""
    return not _SCHEME.match(absolute(url))


def for_spark(url: str) -> str:
    """The URL for Spark, independent of Spark's default file system."""
    url = absolute(url)
    if not is_local(url) or url.startswith("/Volumes/"):
        return url
    return "dbfs:" + url.removeprefix("/dbfs") if url.startswith("/dbfs/") else "file://" + url


def from_spark(path: str) -> str:
    """Convert a path that Spark reports to a plain path: ``file:/a b.png`` becomes ``/a b.png``."""
    return re.sub(r"^file:/+", "/", path)


def join(url: str, *parts: str) -> str:
    """The URL of ``parts`` below ``url``."""
    return posixpath.join(absolute(url), *parts)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The URL's fsspec file system, and its path in that file system.

    fsspec reads credentials and options from the environment or from its own configuration.
    Raises UserError if the package for the file system is missing.
    """
    url = absolute(url)
    try:
        # Other processes write there too, so a cached listing may be out of date.
        return fsspec.core.url_to_fs(url, **({} if is_local(url) else {"use_listings_cache": False}))
    except ImportError as error:
        if missing := missing_package(url, getattr(error.__cause__, "name", None)):
            raise missing from None
        raise UserError(f"{url}: expected the package for this file system, found none; {error}") from None
    except ValueError as error:  # a scheme that neither fsspec nor an installed package knows
        raise UserError(
            f"{url}: expected a file system that fsspec knows, got another ({error}); install its package, such as "
            "gcsfs for gs:// or adlfs for abfss://"
        ) from None


def exists(url: str) -> bool:
    """Whether there is a file or a folder."""
    fs, path = filesystem(url)
    return fs.exists(path)


def is_folder(url: str) -> bool:
    """Whether there is a folder."""
    fs, path = filesystem(url)
    return fs.isdir(path)


def remove_if_empty(url: str) -> None:
    """Remove the folder if it is empty."""
    if is_empty_folder(url):
        fs, path = filesystem(url)
        fs.rmdir(path)


def is_empty_folder(url: str) -> bool:
    """Whether there is a folder without any entry."""
    fs, path = filesystem(url)
    return fs.isdir(path) and not fs.ls(path, detail=False)


def open_file(url: str, mode: str = "rb") -> BinaryIO:
    """Open a file; when writing, create its folder first."""
    if "w" in mode:
        _make_parent(url)
    fs, path = filesystem(url)
    return fs.open(path, mode)


def _make_parent(url: str) -> None:
    if absolute(url).split(":")[0] not in _WITHOUT_FOLDERS:
        fs, path = filesystem(url)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)


def read_bytes(url: str) -> bytes:
    """The whole content of a file. Raises OSError if it cannot be read or is not a regular file."""
    if is_local(url):  # fsspec takes longer to open a small file than the read itself
        path = absolute(url)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"not a regular file: {path}")  # reading a pipe would block forever
        with open(path, "rb") as file:
            return file.read()
    fs, path = filesystem(url)
    return fs.cat_file(path, start=0)  # with a start, s3fs skips the request for the size


def read_start(url: str, size: int) -> bytes:
    """The first ``size`` bytes of a file. Raises OSError as ``read_bytes`` does."""
    if is_local(url):
        path = absolute(url)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"not a regular file: {path}")
        with open(path, "rb", buffering=0) as file:
            parts = []
            while size > 0 and (part := file.read(size)):  # one read returns at most 2 GB
                parts.append(part)
                size -= len(part)
            return b"".join(parts)
    fs, path = filesystem(url)
    return fs.cat_file(path, start=0, end=size)


def write_bytes(url: str, data: bytes, private: bool = False) -> None:
    """Write a whole file atomically: a reader gets either the old content or the new content.

    A local file that is ``private`` can be read by this user only.
    """
    if not is_local(url):
        with open_file(url, "wb") as file:  # an object store publishes an object when it is closed
            file.write(data)
        return
    path = absolute(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _temporary(path)
    try:
        mode = 0o600 if private else 0o666
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def _temporary(path: str) -> str:
    """A name for a file that becomes ``path``. It says which process of which machine writes it."""
    return f"{path}.{zlib.crc32(this_machine().encode()):08x}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def remove_temporary_files(folder: str) -> None:
    """Remove what processes of this machine left in a local folder when they were killed in ``write_bytes``.

    Files of other machines are removed after an hour.
    """
    if not is_local(folder) or not os.path.isdir(absolute(folder)):
        return
    here = f"{zlib.crc32(this_machine().encode()):08x}"
    with os.scandir(absolute(folder)) as found:
        temporary = [(entry.path, match) for entry in found if (match := _TEMPORARY.search(entry.name))]
    for path, (machine, pid) in ((path, match.groups()) for path, match in temporary):
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it, or another process removed it
            age = time.time() - os.stat(path).st_mtime
            if has_ended(int(pid)) if machine == here else age > TEMPORARY_SECONDS:
                os.remove(path)


def append(url: str, data: bytes) -> None:
    """Append to a local file, either all of ``data`` or nothing. Creates the file if it does not exist.

    Raises OSError, also if the file system cannot append (mounted object stores cannot).
    """
    path = absolute(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        except OSError:
            file.truncate(before)
            raise


def create(url: str, data: bytes) -> bool:
    """Write a file only if it does not exist yet; returns whether it was written.

    This is atomic on S3 (a conditional put) and on a local disk (a hard link). On a file system without exclusive
    creation, two callers at the same moment may both get True.
    """
    _make_parent(url)
    if is_local(url):
        try:
            return _create_local(absolute(url), data)
        except OSError:  # a mount without hard links; a full disk raises again below
            pass
    fs, path = filesystem(url)
    try:
        with fs.open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    # The file system has no exclusive mode, or the S3 server answers with an error code of its own.
    except (NotImplementedError, ValueError, OSError) as error:
        if fs.exists(path):
            return False
        if isinstance(error, OSError) and error.errno != errno.ENOSYS:
            raise
        write_bytes(url, data)
    return True


def _create_local(path: str, data: bytes) -> bool:
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def upload(local: str, url: str) -> None:
    """Copy a local file to ``url`` in chunks."""
    _make_parent(url)
    fs, path = filesystem(url)
    fs.put_file(local, path)


def download(url: str, local: str) -> None:
    """Copy the file at ``url`` to a local path in chunks."""
    fs, path = filesystem(url)
    fs.get_file(path, local)


def move(source: str, target: str) -> None:
    """Move a file within its file system, and replace the target if it exists; creates the target's folder.

    Readers see the old target or the new one, except on HDFS, which cannot replace a file: there is none for a moment.
    """
    fs, path = filesystem(source)
    _, target_path = filesystem(target)
    _make_parent(target)
    try:
        fs.mv(path, target_path)
    except OSError:
        if is_local(target) or not fs.exists(target_path):
            raise
        fs.rm(target_path)
        fs.mv(path, target_path)


def remove(url: str) -> None:
    """Remove a file, or a folder with all its content. Does nothing if there is neither."""
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def names(url: str) -> list[str]:
    """Names of the files directly in the folder, sorted."""
    fs, path = filesystem(url)
    entries = fs.ls(path, detail=True)
    return sorted(posixpath.basename(entry["name"]) for entry in entries if entry["type"] == "file")


def entries(url: str) -> list[str]:
    """Sorted names of the files and folders directly in the folder; empty if there is no folder."""
    fs, path = filesystem(url)
    if not fs.isdir(path):
        return []
    return sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(path, detail=False))


def files(url: str, ending: str) -> list[str]:
    """Sorted URLs of all files below the folder whose name has the ending; empty if there is no folder."""
    return sorted(sizes(url, ending))


def sizes(url: str, ending: str) -> dict[str, int]:
    """Size in bytes by URL of all files below the folder whose name has the ending; empty if there is no folder."""
    fs, path = filesystem(url)
    if not fs.exists(path):
        return {}
    # fsspec may spell the scheme and the host differently; keep the caller's spelling.
    return {
        absolute(url) + found.removeprefix(path): details["size"]
        for found, details in fs.find(path, detail=True).items()
        if found.endswith(ending)
    }


def modified(url: str) -> float:
    """Modification time of a file, in seconds since 1970."""
    fs, path = filesystem(url)
    return fs.modified(path).timestamp()
