"""Whether training has seen what is judged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest
from cxrflow.spark.session import task_slots
from cxrflow.watch.event_queue import one_line_error

log = logging.getLogger(__name__)


def find_leakage(spark: SparkSession, run: RunDirectory, table: str, manifest: Manifest, split: str) -> dict:
    """What the run's training knew of a split: ``table``, which is

    - ``own`` where it is the one that the run was trained on,
    - ``other`` where it is not: then ``images`` counts the images whose file's content training or validation has, and ``patients``
      the patients of these images and of others with a patient's key of theirs,
    - ``remade`` where it lies in that one's place and was made since, so that patients may be in other splits,
    - ``unknown`` where the one that the run was trained on is no longer there, or cannot be read, to compare with.
    """
    config = run.read(run.config, "train")
    place, trained_id = (
        storage.absolute(config["train"]["table"]),
        config["data"].get("table_id"),
    )  # older runs do not say
    if trained_id == manifest.table_id or (trained_id is None and place == storage.absolute(table)):
        return {"table": "own"}
    if place == storage.absolute(table):
        return {"table": "remade"}
    try:
        trained = read_manifest(place)
        if trained_id not in (None, trained.table_id):
            return {"table": "unknown"}
        return {
            "table": "other",
            **_count_seen(spark, _shards(table, manifest, [split]), _shards(place, trained, ["train", "val"])),
        }
    except UserError:
        return {"table": "unknown"}
    except Exception as error:  # whatever Spark or a store has against it: what is judged does not need it
        log.warning(
            "the table %s, which the run was trained on, could not be compared with: %s", place, one_line_error(error)
        )
        return {"table": "unknown"}


def _shards(table: str, manifest: Manifest, splits: list[str]) -> list[str]:
    return [storage.join(storage.absolute(table), shard.path) for split in splits for shard in manifest.of_split(split)]


def _count_seen(spark: SparkSession, judged: list[str], known: list[str]) -> dict[str, int]:
    work = [(shards is judged, shard) for shards in (judged, known) for shard in shards]
    rows = (
        spark.createDataFrame(work, "judged boolean, shard string")
        .repartition(min(len(work), 4 * task_slots(spark)))
        .mapInArrow(_read_keys, "judged boolean, sha256 string, patient_id string, named boolean")
        .cache()
    )
    judged_rows, known_rows = rows.filter("judged"), rows.filter("NOT judged")
    same_content = judged_rows.join(known_rows, "sha256", "left_semi")
    same_patient = judged_rows.filter("named").join(known_rows.filter("named"), "patient_id", "left_semi")
    found = {
        "images": same_content.count(),
        "patients": same_content.select("patient_id").union(same_patient.select("patient_id")).distinct().count(),
    }
    rows.unpersist()
    return found


def _read_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            with storage.open_file(
                row["shard"]
            ) as file:  # some columns of it: without the pixels there is little to read
                rows = pq.read_table(file, columns=["path", "sha256", "patient_id"])
            named = pc.not_equal(rows["path"], rows["patient_id"])
            yield from pa.table(
                {
                    "judged": pa.array([row["judged"]] * len(rows)),
                    "sha256": rows["sha256"],
                    "patient_id": rows["patient_id"].cast(pa.string()),
                    "named": named,
                }
            ).to_batches()
