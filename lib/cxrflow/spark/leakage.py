"""Leakage: whether the run's training has used the evaluated images or patients."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.generations import read_from_any_generation
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest
from cxrflow.spark.session import cached, task_slots
from cxrflow.watch.event_queue import one_line_error

log = logging.getLogger(__name__)


def find_leakage(spark: SparkSession, run: RunDirectory, table: str, manifest: Manifest, split: str) -> dict:
    """Compare a split with the table that the run was trained on; returns a dict with the key ``table``:

    - ``own``: it is the table that the run was trained on.
    - ``other``: it is another table. ``images`` counts the images whose content is in the run's train or val split;
      ``patients`` counts the patients of these images, and those whose id is in the run's train or val split.
    - ``remade``: it replaced the run's table at the same URL, so patients may be in other splits now.
    - ``unknown``: the run's table no longer exists, or cannot be read.
    """
    config = run.read(run.config, "train")
    trained_url = storage.absolute(config["train"]["table"])
    trained_id = config["data"]["table_id"]
    if trained_id == manifest.table_id:
        return {"table": "own"}
    if trained_url == storage.absolute(table):
        return {"table": "remade"}
    try:
        trained = read_manifest(trained_url)
        if trained_id != trained.table_id:
            return {"table": "unknown"}
        evaluated_shards = _shards(table, manifest, [split])
        trained_shards = _shards(trained_url, trained, ["train", "val"])
        return {"table": "other", **_count_leaks(spark, evaluated_shards, trained_shards)}
    except UserError:
        return {"table": "unknown"}
    except Exception as error:  # evaluation does not need the comparison, whatever Spark or the store raises
        log.warning(
            "cannot compare with %s, the table that the run was trained on: %s", trained_url, one_line_error(error)
        )
        return {"table": "unknown"}


def _shards(table: str, manifest: Manifest, splits: list[str]) -> list[str]:
    return [storage.join(storage.absolute(table), shard.path) for split in splits for shard in manifest.of_split(split)]


def _count_leaks(spark: SparkSession, evaluated: list[str], trained: list[str]) -> dict[str, int]:
    shards = [(shards is evaluated, shard) for shards in (evaluated, trained) for shard in shards]
    keys = (
        spark.createDataFrame(shards, "evaluated boolean, shard string")
        .repartition(min(len(shards), 4 * task_slots(spark)))
        .mapInArrow(_read_keys, "evaluated boolean, sha256 string, patient_id string, has_patient boolean")
    )
    with cached(keys):
        evaluated_rows, trained_rows = keys.filter("evaluated"), keys.filter("NOT evaluated")
        same_content = evaluated_rows.join(trained_rows, "sha256", "left_semi")
        same_patient = evaluated_rows.filter("has_patient").join(
            trained_rows.filter("has_patient"), "patient_id", "left_semi"
        )
        patients = same_content.select("patient_id").union(same_patient.select("patient_id")).distinct()
        return {"images": same_content.count(), "patients": patients.count()}


def _read_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for task in batch.to_pylist():
            # These columns are a small part of the file, so read_shard, which fetches all of it, would be slower.
            with read_from_any_generation(storage.open_file, task["shard"]) as file:
                rows = pq.read_table(file, columns=["path", "sha256", "patient_id"])
            yield from pa.table(
                {
                    "evaluated": pa.array([task["evaluated"]] * len(rows)),
                    "sha256": rows["sha256"],
                    "patient_id": rows["patient_id"].cast(pa.string()),
                    # A file without a patient has its path as patient_id, which says nothing across tables.
                    "has_patient": pc.not_equal(rows["path"], rows["patient_id"]),
                }
            ).to_batches()
