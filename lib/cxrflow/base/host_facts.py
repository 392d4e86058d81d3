"""What a machine has: versions of Java, Python and packages, and memory. Standard library only."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import cxrflow

# Names on PyPI, any of which brings the module. Versions are read from the packages' metadata: TensorFlow takes seconds
# to load.
COMMON = {
    "pyspark": ["pyspark"],
    "keras": ["keras"],
    "numpy": ["numpy"],
    "pyarrow": ["pyarrow"],
    "petastorm": ["petastorm"],
}
BACKENDS = {
    "tensorflow": {"tensorflow": ["tensorflow-cpu", "tensorflow", "tensorflow-intel"]},
    "torch": {"torch": ["torch"]},
}
LAUNCHERS = dict.fromkeys(("horovod", "horovodrunner"), {"horovod": ["horovod"]})
MISSING = "missing"


def versions(launcher: str, backend: str) -> dict[str, str]:
    """Version, or ``missing``, of Python, cxrflow and each package that the launcher's workers need."""
    wanted = {**COMMON, **BACKENDS.get(backend, {}), **LAUNCHERS.get(launcher, {})}
    found = {"python": platform.python_version(), "cxrflow": f"{cxrflow.__version__} (code {_code()})"}
    return found | {name: _version(names) for name, names in wanted.items()}


def _version(names: list[str]) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    if names == ["pyspark"]:  # a Spark that was unpacked rather than installed brings it without metadata
        import pyspark

        return pyspark.__version__
    return MISSING


def _code() -> str:
    """Eight digits that differ where cxrflow's source does: an old wheel may well call itself by the same version."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(files(cxrflow), "")):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:8]


def _sources(folder, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():  # also inside of a wheel, from which Python can import
        if entry.is_dir():
            yield from _sources(entry, f"{path}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{path}/{entry.name}", entry.read_bytes()


def executor_java(proc: Path = Path("/proc")) -> str | None:
    """The version of the Java that started this Python process, directly or not; None where that does not show."""
    process = os.getpid()
    try:
        while process > 1:
            binary = (proc / str(process) / "exe").resolve()
            if binary.name == "java":
                release = (binary.parent.parent / "release").read_text()
                return re.search(r'^JAVA_VERSION="(.+)"', release, re.MULTILINE)[1]
            process = int((proc / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, TypeError, ValueError):
        pass
    return None


def memory(root: Path = Path("/")) -> dict:
    """Bytes: ``total`` of the machine or of the container around this process, and ``available`` to new processes."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    found = {"total": sizes["MemTotal"], "available": sizes["MemAvailable"]}
    for limit, left in _group_limits(root):
        found = {"total": min(found["total"], limit), "available": min(found["available"], left)}
    return found


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, what is left of it) in bytes of each control group that this process is in, of either version."""
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
        # A group's limit holds for those inside of it. In a container the path may be the host's, of which only the
        # mounted part is there.
        for place in (root / mounted / path.lstrip("/") / "_").parents:
            if place.is_relative_to(root / mounted):
                yield from _group_limit(place, *names)


def _group_limit(place: Path, limit_name: str, usage_name: str, cache_name: str) -> Iterator[tuple[int, int]]:
    try:
        limit, usage = (place / limit_name).read_text().strip(), int((place / usage_name).read_text())
        cached = re.search(rf"^{cache_name} (\d+)", (place / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return
    if limit != "max":  # file pages that nobody used lately count as used, but give way
        yield int(limit), int(limit) - usage + (int(cached[1]) if cached else 0)
