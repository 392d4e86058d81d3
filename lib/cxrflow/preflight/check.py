"""The entry point of the preflight: run the checks, log the table, give the verdict."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.keras_settings import local_backend
from cxrflow.base.manifest import Manifest, read_manifest
from cxrflow.preflight.judge import judge
from cxrflow.preflight.probe import ProbeRequest, TaskContext, probe
from cxrflow.preflight.verdict import FAILED, Row, in_order, ok, passed, table_lines

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def preflight(spark: SparkSession | None, config: TrainConfig) -> dict:
    """Check everything that training needs, on the machines where it will run, and log the table.

    Args:
        spark: the session; not used by the launcher local.
        config: with absolute ``table`` and ``run``.

    Returns:
        ``preflight`` ("passed"), ``launcher``, ``workers``, ``seconds``, and ``checks``, a dict for each Row.

    Raises:
        UserError: a check failed. With ``config.preflight_only`` its ``result`` is the same dict.
    """
    started = time.monotonic()
    manifest = read_manifest(config.table, config.generation)
    if config.launcher == "local":
        rows = _check_here(config, manifest)
    else:
        from cxrflow.preflight.barrier_stage import check_workers

        rows = check_workers(spark, config, manifest)
    rows = in_order(rows)
    seconds = time.monotonic() - started
    for line in table_lines(rows):
        log.info("%s", line)
    log.info("preflight %s in %.1f s", "passed" if passed(rows) else "FAILED", seconds)
    if not passed(rows):
        raise failure(config, rows, seconds)
    return report(config, rows, seconds)


def report(config: TrainConfig, rows: list[Row], seconds: float) -> dict:
    """The result of a preflight as plain data for JSON."""
    return {
        "preflight": "passed" if passed(rows) else "failed",
        "launcher": config.launcher,
        "workers": config.workers,
        "seconds": round(seconds, 2),
        "checks": [{**dataclasses.asdict(row), "seconds": round(row.seconds, 2)} for row in rows],
    }


def failure(config: TrainConfig, rows: list[Row], seconds: float = 0.0) -> UserError:
    """The error of a preflight with failed rows, one sentence for each."""
    failures = [
        f"{row.check}: {'; '.join(filter(None, [row.found, row.advice]))}" for row in rows if row.state == FAILED
    ]
    result = report(config, rows, seconds) if config.preflight_only else None
    return UserError(f"preflight: {' | '.join(failures)}", result)


def _check_here(config: TrainConfig, manifest: Manifest) -> list[Row]:
    """The rows of the single worker in this process. It tries a training step only if training does not follow."""
    backend = local_backend()
    request = ProbeRequest(
        config=to_dict(config),
        backend=backend,
        generation=manifest.generation,
        token=secrets.token_hex(8),
        driver=None,
        threads=os.cpu_count() or 1,
        smoke_step=config.preflight_only,
    )
    facts = probe(request, TaskContext(0, [socket.gethostname()], lambda text: [text]))
    rows = judge(config, manifest, host_facts.versions(config.launcher, backend), [facts])
    return [ok("slots", "one worker, in this process"), *rows]
