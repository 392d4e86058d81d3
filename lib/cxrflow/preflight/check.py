"""The preflight of a training: facts, table, verdict."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import time

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, read_manifest
from cxrflow.preflight.judge import judge
from cxrflow.preflight.probe import Place, ProbeRequest, probe
from cxrflow.preflight.verdict import FAILED, Row, in_order, ok, passed, table_lines

log = logging.getLogger(__name__)


def preflight(spark, config: TrainConfig) -> dict:
    """Check everything that training needs, where it will run, and log the table.

    ``config.table`` and ``config.run`` are absolute. Returns ``preflight`` ("passed"), ``seconds`` and ``checks``, a
    dict for each Row. Raises UserError where a check failed, with what was found, and with the same dict as ``result``
    where nothing but the preflight was asked for.
    """
    started = time.monotonic()
    manifest = read_manifest(config.table)
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
    return {
        "preflight": "passed" if passed(rows) else "failed",
        "launcher": config.launcher,
        "workers": config.workers,
        "seconds": round(seconds, 2),
        "checks": [{**dataclasses.asdict(row), "seconds": round(row.seconds, 2)} for row in rows],
    }


def failure(config: TrainConfig, rows: list[Row], seconds: float = 0.0) -> UserError:
    """One sentence for each check that failed."""
    said = [f"{row.check}: {'; '.join(filter(None, [row.found, row.advice]))}" for row in rows if row.state == FAILED]
    return UserError(f"preflight: {' | '.join(said)}", report(config, rows, seconds) if config.preflight_only else None)


def _check_here(config: TrainConfig, manifest: Manifest) -> list[Row]:
    """The rows of the one worker that is this process. Its step is tried where training does not follow at once."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    question = ProbeRequest(
        config=to_dict(config),
        backend=backend,
        generation=manifest.generation,
        word=secrets.token_hex(8),
        driver=None,
        threads=os.cpu_count() or 1,
        trial=config.preflight_only,
    )
    facts = probe(question, Place(0, [socket.gethostname()], lambda text: [text]))
    rows = judge(config, manifest, host_facts.versions(config.launcher, backend), [facts])
    return [ok("slots", "one worker, in this process"), *rows]
