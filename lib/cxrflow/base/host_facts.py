"""Facts about a machine: its memory and its versions of Java, Python and packages. Standard library only."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cxrflow
from cxrflow.base.process_tree import PROC, ancestors

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# Names on PyPI, any of which provides the module. Versions come from the packages' metadata, because importing
# TensorFlow takes seconds.
COMMON = {
    "pyspark": ["pyspark"],
    "keras": ["keras"],
    "numpy": ["numpy"],
    "pyarrow": ["pyarrow"],
}
OPTIONAL = {"petastorm": ["petastorm"]}
"""A worker without it reads its shards with pyarrow."""
BACKENDS = {
    "tensorflow": {"tensorflow": ["tensorflow-cpu", "tensorflow", "tensorflow-intel"]},
    "torch": {"torch": ["torch"]},
}
LAUNCHERS = {name: {"horovod": ["horovod"]} for name in ("horovod", "horovodrunner")}
MISSING = "missing"


def versions(launcher: str, backend: str) -> dict[str, str]:
    """Version, or ``missing``, of Python, cxrflow and each package that the launcher's workers need.

    Packages that they use only where they are installed are left out where they are missing.
    """
    needed = {**COMMON, **BACKENDS.get(backend, {}), **LAUNCHERS.get(launcher, {})}
    found = {"python": platform.python_version(), "cxrflow": f"{cxrflow.__version__} (code {_code()})"}
    optional = {name: _version(names) for name, names in OPTIONAL.items()}
    return (
        found
        | {name: _version(names) for name, names in needed.items()}
        | {name: installed for name, installed in optional.items() if installed != MISSING}
    )


def _version(names: list[str]) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    if names == ["pyspark"]:  # an unpacked Spark distribution contains pyspark without package metadata
        import pyspark

        return pyspark.__version__
    return MISSING


def _code() -> str:
    """Eight hexadecimal digits that identify cxrflow's source: an old wheel may carry the same version number."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(files(cxrflow), "")):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:8]


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():  # this also works inside a wheel, from which Python can import
        if entry.is_dir():
            yield from _sources(entry, f"{path}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{path}/{entry.name}", entry.read_bytes()


def executor_java(proc: Path = PROC) -> str | None:
    """The version of the Java that started this Python process, directly or not; None if it cannot be found out."""
    try:
        for process in ancestors(proc):
            binary = (proc / str(process) / "exe").resolve()
            if binary.name == "java":
                release = (binary.parent.parent / "release").read_text()
                match = re.search(r'^JAVA_VERSION="(.+)"', release, re.MULTILINE)
                return match and match[1]
    except OSError:  # it belongs to another user, or has no file "release"
        pass
    return None


def memory(root: Path = Path("/")) -> dict[str, int]:
    """Bytes: ``total`` memory of the machine or container, and ``available`` memory for new processes."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    found = {"total": sizes["MemTotal"], "available": sizes["MemAvailable"]}
    for limit, left in _group_limits(root):
        found = {"total": min(found["total"], limit), "available": min(found["available"], left)}
    return found


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, unused part of it) in bytes of each control group of this process, cgroup version 1 or 2."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers == "":
            mounted, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mounted = "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A group's limit also applies to the groups inside it. In a container the path may be the host's, of which only
        # the mounted part exists.
        for folder in (root / mounted / path.lstrip("/") / "_").parents:
            if folder.is_relative_to(root / mounted):
                yield from _group_limit(folder, *names)


def _group_limit(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> Iterator[tuple[int, int]]:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
        cached = re.search(rf"^{cache_name} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return
    if limit != "max":  # inactive file pages count as used, but the kernel frees them on demand
        yield int(limit), int(limit) - usage + (int(cached[1]) if cached else 0)
