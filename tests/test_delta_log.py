"""The table as a Delta table, read and written with delta-rs."""

import dataclasses
import json
import shutil

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from cxrflow.base.config import IngestConfig, TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.base.schema import HEADER, SAMPLES
from cxrflow.catalog.delta_log import check_unchanged, write_version
from cxrflow.images.phantoms import PATIENT_RULE, make_phantoms
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.pipeline.train_job import check_train
from synthetic_table import make_table


@pytest.fixture
def config(tmp_path):
    make_phantoms(str(tmp_path / "images"), patients=30, images_per_patient=1, seed=1)
    return IngestConfig(
        images=str(tmp_path / "images"),
        table=str(tmp_path / "table"),
        height=16,
        width=16,
        shard_rows=4,
        split="0.6,0.2,0.2",
        patients=PATIENT_RULE,
        delta=True,
    )


def counts_of(table):
    rows = (
        QueryBuilder()
        .register("samples", DeltaTable(f"{table}/samples"))
        .execute("SELECT split, label, count(*) AS rows FROM samples GROUP BY split, label")
        .read_all()
    )
    found = {}
    for split, label, count in zip(
        *(rows.column(name).to_pylist() for name in ("split", "label", "rows")), strict=True
    ):
        found.setdefault(split, {})[label] = count
    return found


def test_delta_names_the_same_files_also_after_the_folder_grew(spark, config, tmp_path):
    result = ingest(spark, config)
    assert counts_of(config.table) == result["counts"]
    make_phantoms(str(tmp_path / "more"), patients=6, images_per_patient=1, seed=2)
    shutil.copytree(tmp_path / "more", tmp_path / "images" / "more")
    result = ingest(spark, IngestConfig(**{**vars(config), "delta": False}))  # a Delta table stays one
    assert counts_of(config.table) == result["counts"]
    table = DeltaTable(f"{config.table}/samples")
    assert {uri.split("/samples/")[1] for uri in table.file_uris()} == {
        shard.path.removeprefix("samples/") for shard in read_manifest(config.table).shards
    }
    before = DeltaTable(f"{config.table}/samples", version=1)
    assert len(before.file_uris()) != len(table.file_uris())


def test_one_that_was_changed_through_delta_is_refused(spark, config):
    ingest(spark, config)
    check_train(TrainConfig(table=config.table, run=config.table + "-run"))
    DeltaTable(f"{config.table}/samples").delete("split = 'val'")
    with pytest.raises(UserError, match="it was changed through Delta"):
        check_train(TrainConfig(table=config.table, run=config.table + "-run"))
    with pytest.raises(UserError, match="it was changed through Delta"):
        ingest(spark, config)
    result = ingest(spark, IngestConfig(**{**vars(config), "if_exists": "overwrite"}))
    assert counts_of(config.table) == result["counts"]


def test_a_log_that_an_ingest_left_behind_is_brought_up_to_date(spark, config, tmp_path, monkeypatch):
    ingest(spark, config)
    (tmp_path / "images" / "more").mkdir()
    shutil.copy(next((tmp_path / "images").rglob("*.jp*g")), tmp_path / "images" / "more" / "phantom9999_0.jpeg")
    with monkeypatch.context() as dying:
        dying.setattr(
            "cxrflow.pipeline.ingest_job.write_version", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(OSError, match="disk full"):
            ingest(spark, config)
    with pytest.raises(UserError, match="an ingest died at its end; run it again"):
        check_unchanged(config.table, read_manifest(config.table))
    ingest(spark, config)
    check_unchanged(config.table, read_manifest(config.table))
    assert write_version(config.table, read_manifest(config.table)) > 1


def test_a_version_adds_what_is_new_and_removes_what_is_gone(spark, config, tmp_path):
    """Delta allows one action a file in a version; readers that replay them in order would lose a file with two."""
    ingest(spark, config)
    make_phantoms(str(tmp_path / "more"), patients=6, images_per_patient=1, seed=2)
    shutil.copytree(tmp_path / "more", tmp_path / "images" / "more")
    ingest(spark, config)
    ingest(spark, config)
    log = sorted((tmp_path / "table" / "samples" / "_delta_log").glob("*.json"))
    assert len(log) == 3  # made, filled, grown; the last ingest had nothing to say
    actions = [json.loads(line) for line in log[2].read_text().splitlines()]
    added = [action["add"]["path"] for action in actions if "add" in action]
    removed = [action["remove"]["path"] for action in actions if "remove" in action]
    assert added and removed and len({*added, *removed}) == len(added) + len(removed)


@pytest.mark.unit
def test_a_log_of_an_older_version_gets_the_new_columns(tmp_path, monkeypatch):
    manifest = make_table(tmp_path)
    with monkeypatch.context() as older:
        schema = pa.schema(
            [field for field in SAMPLES if field not in HEADER] + [pa.field("split", pa.string(), False)]
        )
        older.setattr("cxrflow.catalog.delta_log._SCHEMA", schema)
        write_version(str(tmp_path), manifest)
    grown = dataclasses.replace(manifest, shards=manifest.shards[:-1], generation=2)
    write_version(str(tmp_path), grown)
    table = DeltaTable(f"{tmp_path}/samples")
    assert {field.name for field in table.schema().fields} == {*SAMPLES.names, "split"}
    query = QueryBuilder().register("samples", table).execute("SELECT label FROM samples WHERE modality IS NULL")
    assert query.read_all().num_rows == grown.rows()
    check_unchanged(str(tmp_path), grown)
