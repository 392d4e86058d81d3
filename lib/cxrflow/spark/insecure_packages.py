"""Warns where executors decode files with packages that have known security faults."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

from pyspark.sql import SparkSession

from cxrflow.base.secure_versions import find_insecure, installed_versions
from cxrflow.spark.session import registered_slots

log = logging.getLogger(__name__)


def warn_about_insecure_packages(spark: SparkSession) -> None:
    """Log one warning on the driver if any executor has an insecure package (``base.secure_versions``).

    It runs one small task per task slot before the real ones, so a job warns once and not in every task's log.
    """
    slots = registered_slots(spark)
    hosts: dict[str, set[str]] = {}
    for fault, host in spark.sparkContext.parallelize(range(slots), slots).mapPartitions(_find_faults).collect():
        hosts.setdefault(fault, set()).add(host)
    if hosts:
        faults = "; ".join(f"{fault} on {', '.join(sorted(names))}" for fault, names in sorted(hosts.items()))
        log.warning("executors have packages with known security faults: %s; install newer ones", faults)


def _find_faults(_: Iterator[int]) -> Iterator[tuple[str, str]]:
    for fault in find_insecure(installed_versions()):
        yield fault, socket.gethostname()
