"""Contestant "cxrflow": the library's ingest on local[2], in one Spark session."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from contestant import PROCESSES, serve
from recipe import HEIGHT, ROWS_A_FILE, WIDTH


def open_local_session():
    """The session for all rounds, with one task slot per core and the driver memory of spark-defaults.conf."""
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        f"--master local[{PROCESSES}] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.ui.showConsoleProgress=false pyspark-shell"
    )
    return open_session("cxrflow benchmark")


def ingest_config(folder: str, out: str, decoder: str | None = None):
    """The configuration of the ingest; without ``decoder``, the library's default."""
    from cxrflow.base.config import IngestConfig

    chosen = {"decoder": decoder} if decoder else {}
    unknown = set(chosen) - {field.name for field in dataclasses.fields(IngestConfig)}
    if unknown:
        sys.exit(f"error: --decoder: expected a version of cxrflow with this flag, got {decoder!r}")
    return IngestConfig(images=folder, table=out, height=HEIGHT, width=WIDTH, shard_rows=ROWS_A_FILE, **chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", help="the library's default, if not given")
    decoder = parser.parse_args().decoder

    from cxrflow.pipeline.ingest_job import ingest

    spark = open_local_session()
    serve(lambda folder, out: ingest(spark, ingest_config(folder, out, decoder)))
    spark.stop()


if __name__ == "__main__":
    main()
