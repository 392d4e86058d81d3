"""Paths and URLs, for Python (through fsspec) and for Spark. Every file that Python reads or writes passes here.

A place is written as a plain path, a ``file:`` URL, or a URL of any file system that fsspec knows (``s3://``,
``hdfs://``, ``abfss://``, ``gs://``). On Databricks ``dbfs:/x`` is reached by Python as ``/dbfs/x``, and a Unity
Catalog volume, ``/Volumes/...``, is a plain path to both.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import uuid

import fsspec

from cxrflow.base.errors import UserError

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):(?=/)")

# They have no folders: fsspec would look for the bucket at every write, and make one where its name is misspelt.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs"}


def absolute(url: str) -> str:
    """The place as every process can name it: a URL with a scheme, or an absolute path for a local file."""
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else None
    if scheme == "dbfs":
        return "/dbfs" + url[match.end() :].rstrip("/")
    if scheme == "file":
        return os.path.abspath("/" + url[match.end() :].lstrip("/"))
    return url.rstrip("/") if scheme else os.path.abspath(os.path.expanduser(url))


def is_local(url: str) -> bool:
    """Whether Python opens the place as an ordinary file, on this machine or on a mount."""
    return not _SCHEME.match(absolute(url))


def for_spark(url: str) -> str:
    """The place as Spark names it, whatever Spark's default file system is."""
    url = absolute(url)
    if not is_local(url) or url.startswith("/Volumes/"):
        return url
    return "dbfs:" + url.removeprefix("/dbfs") if url.startswith("/dbfs/") else "file://" + url


def from_spark(path: str) -> str:
    """A path that Spark reports, as a person would write it: ``file:/a b.png`` becomes ``/a b.png``."""
    return re.sub(r"^file:/+", "/", path)


def for_petastorm(url: str) -> str:
    """The place as a URL, which is what Petastorm wants even of a local file."""
    return "file://" + url if is_local(url) else url


def join(url: str, *parts: str) -> str:
    """The place ``parts`` below ``url``."""
    return posixpath.join(absolute(url), *parts)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system that holds the place, and the place's path in it.

    Whatever it needs besides, such as credentials, it takes from the environment or from fsspec's own configuration.
    Raises UserError where the package for the file system is missing.
    """
    url = absolute(url)
    try:
        # Other processes write there too, so nothing that was listed a moment ago is taken for an answer.
        return fsspec.core.url_to_fs(url, **({} if is_local(url) else {"use_listings_cache": False}))
    except ImportError as error:
        raise UserError(f"{url}: expected a package that reads this file system ({error})") from None


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return fs.exists(path)


def is_folder(url: str) -> bool:
    fs, path = filesystem(url)
    return fs.isdir(path)


def remove_if_empty(url: str) -> None:
    """Remove a folder with nothing in it."""
    if is_empty_folder(url):
        fs, path = filesystem(url)
        fs.rmdir(path)


def is_empty_folder(url: str) -> bool:
    fs, path = filesystem(url)
    return fs.isdir(path) and not fs.ls(path, detail=False)


def open_file(url: str, mode: str = "rb"):
    """An open file object; for writing, the folder is made first."""
    if "w" in mode:
        _make_parent(url)
    fs, path = filesystem(url)
    return fs.open(path, mode)


def _make_parent(url: str) -> None:
    if absolute(url).split(":")[0] not in _WITHOUT_FOLDERS:
        fs, path = filesystem(url)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)


def read_bytes(url: str) -> bytes:
    if is_local(url):  # fsspec's detour would cost more than reading a small file does
        path = absolute(url)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(f"not a regular file: {path}")  # a pipe would block for ever
        with open(path, "rb") as file:
            return file.read()
    fs, path = filesystem(url)
    return fs.cat_file(path, start=0)  # told where to begin, s3fs does not ask for the size first: one request


def write_bytes(url: str, data: bytes) -> None:
    """Write a whole file so that a reader sees either the old one or the new one."""
    if not is_local(url):
        with open_file(url, "wb") as file:  # an object store shows an object when it is closed
            file.write(data)
        return
    path = absolute(url)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def append(url: str, data: bytes) -> None:
    """Add to the end of a file of this machine or of a mount, all of it or nothing; the file is made if there is none.

    Raises OSError, also where the mount cannot append, as those of object stores.
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
    """Write a new file; False, and nothing written, where there is one already.

    S3 does both at once (a conditional put). On a file system that cannot, two callers at the same moment may both be
    told True.
    """
    _make_parent(url)
    fs, path = filesystem(url)
    try:
        with fs.open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except (
        NotImplementedError,
        ValueError,
        OSError,
    ) as error:  # no exclusive mode, or an S3 server with words of its own
        if fs.exists(path):
            return False
        if isinstance(error, OSError) and error.errno != errno.ENOSYS:
            raise
        write_bytes(url, data)
    return True


def upload(local: str, url: str) -> None:
    """Copy a file of this machine, a piece at a time."""
    _make_parent(url)
    fs, path = filesystem(url)
    fs.put_file(local, path)


def download(url: str, local: str) -> None:
    """Copy a file to this machine, a piece at a time."""
    fs, path = filesystem(url)
    fs.get_file(path, local)


def move(source: str, target: str) -> None:
    fs, path = filesystem(source)
    _, target_path = filesystem(target)
    _make_parent(target)
    fs.mv(path, target_path)


def remove(url: str) -> None:
    """Remove a file, or a folder with all that is in it; nothing happens where there is none."""
    fs, path = filesystem(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def files(url: str, ending: str) -> list[str]:
    """All files below the folder whose name has the ending, as places; none where there is no folder."""
    return sorted(sizes(url, ending))


def sizes(url: str, ending: str) -> dict[str, int]:
    """Bytes of all files below the folder whose name has the ending, by place; none where there is no folder."""
    fs, path = filesystem(url)
    if not fs.exists(path):
        return {}
    # fsspec has spellings of its own for schemes and hosts; a place is written as it was asked for.
    return {
        absolute(url) + found.removeprefix(path): details["size"]
        for found, details in fs.find(path, detail=True).items()
        if found.endswith(ending)
    }


def modified(url: str) -> float:
    """When a file was written, in seconds since 1970."""
    fs, path = filesystem(url)
    return fs.modified(path).timestamp()
