"""Packages that read untrusted files, and their oldest versions without a known fault that runs code or breaks memory.

``setup.py`` has the same lower bounds, but a cluster's runtime may bring older packages: Databricks 15.4 LTS ML does.
Preflight and the jobs that run on executors warn about those. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class SecureVersion:
    """The oldest secure version of a package, and why older ones are not."""

    minimum: str
    advisory: str
    fault: str
    """Of versions below the minimum: what a hostile file can do."""


SECURE_VERSIONS = {
    "keras": SecureVersion("3.14.1", "CVE-2026-1462, GHSA-hqp4-2352-xf5r", "a model file runs code or writes files"),
    "pyarrow": SecureVersion("14.0.1", "CVE-2023-47248", "a Parquet file runs code"),
    "torch": SecureVersion("2.10", "CVE-2026-24747", "a checkpoint corrupts memory"),
    "pillow": SecureVersion("13.0.0", "CVE-2026-112403, GHSA-5x8w-8jj5-q52h", "a JPEG file corrupts memory"),
    "pydicom": SecureVersion("3.0.2", "CVE-2026-32711", "a DICOMDIR file names files outside of its folder"),
    "python-gdcm": SecureVersion("3.2.6", "CVE-2026-3650", "a DICOM file fills the memory, seen in 3.2.2"),
}
"""By the package's name on PyPI. https://www.cve.org and https://github.com/advisories describe the advisories."""


def find_insecure(versions: Mapping[str, str]) -> list[str]:
    """A sentence for each package in ``versions`` (name to version) that is older than its oldest secure version.

    Packages that are not in ``SECURE_VERSIONS``, and texts that are not versions, are left out.
    """
    return [
        f"{name} {found} is older than {secure.minimum} ({secure.advisory}: {secure.fault})"
        for name, secure in SECURE_VERSIONS.items()
        if (found := versions.get(name)) and _release(found) and _release(found) < _release(secure.minimum)
    ]


def installed_versions() -> dict[str, str]:
    """Name and version of each package in ``SECURE_VERSIONS`` that is installed here. Takes a few milliseconds."""
    found = {}
    for name in SECURE_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _release(text: str) -> tuple[int, ...]:
    """2.10.0rc1+cpu as (2, 10): trailing zeros, pre-releases and local builds do not count. Empty for other texts."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", match[0]).split("."))) if match else ()
