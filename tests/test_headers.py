"""DICOM headers in the table: which files are scanned, what the columns hold, and what labels files add."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig
from cxrflow.base.image_columns import IMAGE_COLUMNS
from cxrflow.base.manifest import read_manifest, write_manifest
from cxrflow.base.schema import HEADER, SAMPLES
from cxrflow.base.shard_files import read_shard
from cxrflow.catalog.database import insert, new_catalog, query_rows
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.headers import HeaderCounts, describe_files, write_scan_tasks
from cxrflow.catalog.labels import LabelFiles, add_labels
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.spark.header_task import HeaderTask
from dicom_folder import SECRETS, write_archive, write_dicom
from label_files import MIMIC

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MEMORY = 64 << 20


def listed(path, **facts):
    return {"path": path, "size": 1, "modified": NOW, "hidden": False, "label": "A", "given_patient": None, **facts}


def scanned_paths(urls):
    return sorted(path for url in urls for path in pq.read_table(url)["path"].to_pylist())


def test_new_and_changed_files_that_may_be_dicom_are_scanned(tmp_path):
    names = ["new.dcm", "same.dcm", "IM0001", "a.JPG", "b.tiff", "c.png", "changed", "relabelled", "moved"]
    old = [
        {"path": name, "size": 1, "modified": NOW, "label": "A", "patient_id": "p"} for name in names[1:2] + names[6:]
    ]
    old[1]["size"], old[2]["label"] = 2, "B"
    bad = [{"path": "bad.dcm", "size": 1, "modified": NOW, "reason": "corrupt"}]
    bad += [{"path": "again.dcm", "size": 1, "modified": NOW, "reason": "unsupported"}]
    files = [listed(name) for name in [*names, "bad.dcm", "again.dcm"]] + [listed(".x/hidden.dcm", hidden=True)]
    files[8]["given_patient"] = "q"
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        for table, rows in (("files", files), ("samples", old), ("quarantine", bad)):
            insert(catalog, table, pa.Table.from_pylist(rows))
        urls = write_scan_tasks(catalog, str(tmp_path), 2)
    assert len(urls) == 2
    assert scanned_paths(urls) == ["IM0001", "again.dcm", "changed", "moved", "new.dcm", "relabelled"]


def test_a_damaged_header_or_an_unreadable_file_gives_no_columns(tmp_path):
    write_dicom(tmp_path / "good.dcm", 1)
    data = (tmp_path / "good.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[:150])
    (tmp_path / "text").write_text("no image")
    paths = [str(tmp_path / name) for name in ("cut.dcm", "good.dcm", "gone.dcm", "text")]
    batch = pa.RecordBatch.from_pylist([{"path": path, "size": 1, "modified": NOW} for path in paths])
    (result,) = HeaderTask(str(tmp_path / "staging"), 512 << 20)(iter([batch]))
    rows = pq.read_table(result["headers"][0].as_py()).to_pylist()
    assert [(row["is_dicom"], row["modality"]) for row in rows] == [
        (True, None),
        (True, "DX"),
        (False, None),
        (False, None),
    ]
    assert [row["path"] for row in rows] == paths


def test_a_labels_file_adds_what_headers_lack(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "path,label,patient_sex,patient_age,view_position\n"
        "0.dcm,A,M,61,ap\n1.dcm,A,F,44,PA\n2.png,A,female,930Y,lateral\n"
    )
    config = IngestConfig(images="/x", table="/t", labels=str(tmp_path / "labels.csv"))
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "files", pa.Table.from_pylist([listed(f"/x/{name}") for name in ("0.dcm", "1.dcm", "2.png")]))
        headers = [
            {"path": "/x/0.dcm", "is_dicom": True, "modality": "CR", "patient_age": 60.0, "patient_sex": "F"},
            {"path": "/x/1.dcm", "is_dicom": True, "modality": "CR", "patient_age": 20.0, "patient_sex": "F"},
        ]
        insert(catalog, "headers", pa.Table.from_pylist(headers))
        add_labels(catalog, config, LabelFiles(config.labels, {}), None)
        counts = describe_files(catalog)
        rows = query_rows(
            catalog, "SELECT path, modality, patient_sex, patient_age, view_position FROM described ORDER BY path"
        )
    assert [tuple(row.values()) for row in rows] == [
        ("/x/0.dcm", "CR", "F", 60.0, "AP"),
        ("/x/1.dcm", "CR", "F", 20.0, "PA"),
        ("/x/2.png", None, "F", None, "LATERAL"),
    ]
    # Ages that differ by a year are those before and after a birthday.
    assert counts == HeaderCounts(dicom=2, disagreements={"patient_sex": 1, "patient_age": 1})


def test_images_of_one_study_keep_their_own_views(tmp_path):
    (tmp_path / "mimic-chexpert.csv").write_text(MIMIC + "10,500,1.0" + 13 * "," + "\n")
    (tmp_path / "mimic-metadata.csv").write_text(
        "dicom_id,subject_id,study_id,ViewPosition\na,10,500,PA\nb,10,500,LL\n"
    )
    config = IngestConfig(images="/x", table="/t", labels=str(tmp_path / "mimic-chexpert.csv"), findings="all")
    beside = {"mimic-metadata.csv": str(tmp_path / "mimic-metadata.csv")}
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "files", pa.Table.from_pylist([listed(f"/x/{name}.jpg") for name in "ab"]))
        add_labels(catalog, config, LabelFiles(config.labels, beside), FindingsReader("all", []))
        describe_files(catalog)
        views = query_rows(catalog, "SELECT path, view_position FROM described ORDER BY path")
    assert [tuple(row.values()) for row in views] == [("/x/a.jpg", "PA"), ("/x/b.jpg", "LL")]


def test_columns_of_older_shards_are_null(tmp_path):
    old = [field for field in SAMPLES if field not in HEADER]
    pq.write_table(pa.table({field.name: pa.nulls(2, field.type) for field in old}), tmp_path / "old.parquet")
    url = str(tmp_path / "old.parquet")
    assert read_shard(url).schema.names == SAMPLES.names
    some = read_shard(url, ["modality", "label"])
    assert some.column_names == ["modality", "label"] and some["modality"].null_count == 2
    assert read_shard(url, ["label"]).column_names == ["label"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headers")
    write_archive(folder / "images")
    return IngestConfig(
        images=str(folder / "images"),
        table=str(folder / "table"),
        height=8,
        width=8,
        shard_rows=5,
        split="0.5,0.25,0.25",
    )


@pytest.fixture(scope="module")
def ingested(spark, config):
    """The archive as a table: the result of ingest."""
    return ingest(spark, config)


def samples_of(config):
    return pd.read_parquet(f"{config.table}/samples").set_index("path").sort_index()


def test_the_table_has_the_columns_of_the_headers(ingested, config):
    samples = samples_of(config)
    assert len(samples) == ingested["samples"] == 24 and ingested["quarantined"] == 0
    row = samples.loc[f"{config.images}/B/IM-0001-0003.dcm"]
    expected = {
        "sop_uid": "1.2.3.11",
        "patient_sex": "F",
        "patient_age": 21.0,
        "view_position": "AP",
        "modality": "DX",
        "manufacturer": "Maker",
        "acquisition_date": "2020-01-01",
        "photometric_interpretation": "MONOCHROME2",
        "laterality": None,
    }
    assert {name: row[name] for name in expected} == expected
    manifest = read_manifest(config.table)
    assert {name: manifest.columns[name] for name in ("patient_age", "burned_in_annotation", "study_uid")} == {
        "patient_age": "float",
        "burned_in_annotation": "bool",
        "study_uid": "string",
    }
    assert manifest.audit["taken"] == {
        "modality": {"DX": 24},
        "view_position": {"AP": 12, "PA": 12},
        "patient_sex": {"F": 12, "M": 12},
        "manufacturer": {"Maker": 16, "Other Maker": 8},
    }
    assert manifest.audit["burned_in"] == 0


def test_petastorm_reads_the_columns(ingested, config):
    petastorm = pytest.importorskip("petastorm")
    urls = [f"file://{url}" for url in storage.files(f"{config.table}/samples", ".parquet")]
    with petastorm.make_batch_reader(urls, reader_pool_type="dummy") as reader:
        batches = list(reader)
    assert {value for batch in batches for value in batch.modality} == {"DX"}
    assert sum(len(batch.patient_age) for batch in batches) == 24
    assert {value for batch in batches for value in batch.burned_in_annotation} == {None}


def test_no_identity_is_in_the_table(ingested, config):
    for url in storage.files(config.table, ""):
        table = pq.read_table(url, partitioning=None).drop_columns(["pixels"]) if "/samples/" in url else None
        content = repr(table.to_pylist()).encode() if table is not None else storage.read_bytes(url)
        assert not any(secret.encode() in content for secret in SECRETS), url


def test_a_table_of_an_older_version_is_extended(spark, ingested, config, tmp_path, monkeypatch):
    """The rows that the table had get no values; all readers see one set of columns."""
    images, table = tmp_path / "images", tmp_path / "table"
    write_archive(images, 4)
    older = dataclasses.replace(config, images=str(images), table=str(table))
    ingest(spark, older)
    manifest = read_manifest(str(table))
    for shard in manifest.shards:
        content = pq.read_table(table / shard.path, partitioning=None).drop_columns([field.name for field in HEADER])
        pq.write_table(content, table / shard.path)
    columns = {name: kind for name, kind in manifest.columns.items() if name not in IMAGE_COLUMNS}
    write_manifest(str(table), dataclasses.replace(manifest, columns=columns))
    write_dicom(images / "A" / "later.dcm", 999, ViewPosition="LL", PatientID="other")
    result = ingest(spark, older)
    assert (result["added"], result["replaced"], result["samples"]) == (1, 0, 9)
    rows = pa.concat_tables(
        [read_shard(f"{table}/{shard.path}", ["path", "view_position"]) for shard in read_manifest(str(table)).shards]
    ).to_pylist()
    assert {row["path"].rsplit("/", 1)[1]: row["view_position"] for row in rows if row["view_position"]} == {
        "later.dcm": "LL"
    }
    spark_rows = spark.read.option("mergeSchema", True).parquet(f"{table}/samples")
    assert spark_rows.where("view_position = 'LL'").count() == 1
