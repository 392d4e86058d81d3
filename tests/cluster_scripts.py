"""Runs the scripts of ``cluster/`` for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"
# Any free ports, because the developer may run a cluster as well.
ANY_PORTS = ["--port", "0", "--webui-port", "0"]


def script(name: str, *arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run ``cluster/NAME.sh`` and return the finished process."""
    return subprocess.run(
        [CLUSTER / f"{name}.sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, **(environment or {})},
    )
