"""Kills a job at one of the changes that it makes to its files. Every Python process of the job loads this module.

Python imports a module of this name at its start if ``PYTHONPATH`` has this folder, and only tests/test_faults.py sets
that. So cxrflow needs no hook, and a library that writes a file by itself is noticed as well.

The folder CXRFLOW_FAULTS holds three files. ``log`` gets a line for each change below CXRFLOW_FAULTS_BELOW, a folder or
an s3:// URL. ``point`` says at which change to kill: a number and a line, for the first, second ... change with that
line. ``driver`` has the id of the job's main process.
"""

import fcntl
import importlib.abc
import importlib.util
import os
import re
import signal
import sys

FOLDER, BELOW = os.environ.get("CXRFLOW_FAULTS", ""), os.environ.get("CXRFLOW_FAULTS_BELOW", "")
S3_CHANGES = {"PutObject", "CopyObject", "DeleteObject", "DeleteObjects", "UploadPart", "CompleteMultipartUpload"}
killing = []
RANDOM = re.compile(r"[0-9a-f]{8}-\d+-[0-9a-f]{8}|[0-9a-f]{32}|[0-9a-f]{16}|\d{10}\.\d+\.[\w.]+|\d{5,}")


def before(kind, *paths, tear=None):
    """Log the change that follows, with * for random names. If it is the one: do a part of it, and kill the job."""
    short = [RANDOM.sub("*", path[len(BELOW) :].lstrip("/").partition("/")[2]) for path in paths]
    line = f"{kind} {' '.join(short)}"
    log = os.open(os.path.join(FOLDER, "log"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(log, fcntl.LOCK_EX)
        earlier = os.pread(log, 2**24, 0).decode().splitlines()
        os.write(log, f"{line}\n".encode())
        number, _, point = read("point").partition(" ")
        if line == point and earlier.count(line) + 1 == int(number):
            killing.append(True)
            if tear:
                tear()
            os.write(log, b"killed\n")
            os.kill(int(read("driver")), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os.close(log)


def read(name):
    with open(os.path.join(FOLDER, name)) as file:
        return file.read()


def on_audit(event, arguments):
    if killing:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and (full := path_below(path)):
            before("append" if flags & os.O_APPEND else "write", full, tear=lambda: write_part(full, flags))
    elif event in ("os.remove", "os.rmdir"):
        if full := path_below(*arguments):
            before(event.removeprefix("os."), full)
    elif event in ("os.rename", "os.link") and (full := path_below(arguments[0], arguments[2])):
        before(event.removeprefix("os."), full, path_below(arguments[1], arguments[3]))


def path_below(path, folder=-1):
    """The absolute path if it is below BELOW, otherwise an empty text. ``folder``: the descriptor it is relative to."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return ""
    full = os.fsdecode(path)
    if folder != -1:
        full = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), full)
    return full if full.startswith(BELOW) else ""


def write_part(path, flags):
    """What a kill in the middle of the write leaves."""
    file = os.open(path, flags & ~os.O_EXCL, 0o644)
    os.write(file, b'{"torn": ')


class PatchS3(importlib.abc.MetaPathFinder):
    """Patches the S3 client when something imports it."""

    def find_spec(self, name, path, target=None):
        if name != "aiobotocore.client":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            call = module.AioBaseClient._make_api_call

            async def counted(self, operation, parameters):
                if operation in S3_CHANGES:
                    keys = [each["Key"] for each in parameters.get("Delete", {}).get("Objects", [parameters])]
                    url = f"s3://{parameters['Bucket']}/{keys[0]}"
                    if url.startswith(BELOW):
                        before(operation, url)
                return await call(self, operation, parameters)

            module.AioBaseClient._make_api_call = counted

        spec.loader.exec_module = exec_module
        return spec


if FOLDER and BELOW.startswith("s3://"):
    sys.meta_path.insert(0, PatchS3())
elif FOLDER:
    sys.addaudithook(on_audit)
