"""Whether training has seen what is judged."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from cxrflow import storage
from cxrflow.errors import UserError
from cxrflow.manifest import Manifest, RunDirectory, has_manifest, read_manifest
from cxrflow.spark.session import task_slots


def find_seen(spark: SparkSession, run: RunDirectory, table: str, manifest: Manifest, split: str) -> dict:
    """What the run's training knew of a split: ``table``, which is

    - ``own`` where it is the one that the run was trained on,
    - ``other`` where it is not: then ``images`` counts the images whose file's content training or validation has, and ``patients``
      the patients of these images and of others with a patient's key of theirs,
    - ``remade`` where it lies in that one's place and was made since, so that patients may be in other splits,
    - ``unknown`` where the one that the run was trained on is no longer there to compare with.
    """
    config = run.read(run.config, "train")
    place, trained_id = storage.absolute(config["train"]["table"]), config["data"].get("table_id")
    if trained_id and trained_id == manifest.table_id:
        return {"table": "own"}
    if place == storage.absolute(table):
        return {"table": "remade"}
    try:
        trained = read_manifest(place) if has_manifest(place) else None
    except (OSError, UserError):
        trained = None
    if trained is None or trained.table_id != trained_id:
        return {"table": "unknown"}
    shards = [(True, storage.join(storage.absolute(table), shard.path)) for shard in manifest.of_split(split)]
    shards += [(False, storage.join(place, shard.path)) for known in ("train", "val") for shard in trained.of_split(known)]
    rows = spark.createDataFrame(shards, "judged boolean, shard string").repartition(min(len(shards), 4 * task_slots(spark))).mapInArrow(
        _read_keys, "judged boolean, sha256 string, patient_id string, named boolean").cache()
    judged, known = rows.filter("judged"), rows.filter("NOT judged")
    same_content = judged.join(known.select("sha256").distinct(), "sha256", "left_semi")
    same_patient = judged.filter("named").join(known.filter("named").select("patient_id").distinct(), "patient_id", "left_semi")
    found = {"table": "other", "images": same_content.count(),
             "patients": same_content.select("patient_id").union(same_patient.select("patient_id")).distinct().count()}
    rows.unpersist()
    return found


def _read_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            with storage.open_file(row["shard"]) as file:  # some columns of it: without the pixels there is little to read
                rows = pq.read_table(file, columns=["path", "sha256", "patient_id"])
            named = pc.not_equal(rows["path"], rows["patient_id"])
            yield from pa.table({"judged": pa.array([row["judged"]] * len(rows)), "sha256": rows["sha256"],
                                 "patient_id": rows["patient_id"].cast(pa.string()), "named": named}).to_batches()
