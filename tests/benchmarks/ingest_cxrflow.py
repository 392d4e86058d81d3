"""Contestant "cxrflow": the library's ingest on local[2], in one Spark session."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from contestant import PROCESSES, serve
from recipe import HEIGHT, ROWS_A_FILE, WIDTH


def open_local_session():
    """The session of every round, with a task slot a core and the driver memory of cluster/spark-defaults.conf."""
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        f"--master local[{PROCESSES}] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.ui.showConsoleProgress=false pyspark-shell"
    )
    return open_session("cxrflow benchmark")


def ingest_config(folder: str, out: str, decoder: str | None = None):
    """What the library is asked for; ``decoder`` None leaves it the library's own choice."""
    from cxrflow.base.config import IngestConfig

    chosen = {"decoder": decoder} if decoder else {}
    unknown = set(chosen) - {field.name for field in dataclasses.fields(IngestConfig)}
    if unknown:
        sys.exit(f"error: --decoder: expected a library whose ingest lets a decoder be chosen, got {decoder!r}")
    return IngestConfig(images=folder, table=out, height=HEIGHT, width=WIDTH, shard_rows=ROWS_A_FILE, **chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", help="the library's own choice, if not given")
    decoder = parser.parse_args().decoder

    from cxrflow.pipeline.ingest_job import ingest

    spark = open_local_session()
    serve(lambda folder, out: ingest(spark, ingest_config(folder, out, decoder)))
    spark.stop()


if __name__ == "__main__":
    main()
