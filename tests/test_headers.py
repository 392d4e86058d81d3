"""DICOM headers in the table: which files are scanned, what the columns hold, and what labels files add."""

from __future__ import annotations

import dataclasses
import os
import signal
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.base.image_columns import IMAGE_COLUMNS
from cxrflow.base.manifest import read_manifest, write_manifest
from cxrflow.base.path_rules import patient_of
from cxrflow.base.patient_key import FILE, PatientKey
from cxrflow.base.schema import HEADER, SAMPLES
from cxrflow.base.shard_files import read_shard
from cxrflow.catalog.database import insert, new_catalog, query_rows
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.headers import (
    HeaderCounts,
    describe_files,
    patients_from_headers,
    set_patients,
    write_scan_tasks,
)
from cxrflow.catalog.labels import LabelFiles, add_labels
from cxrflow.images.dcm.file_parser import parse_header
from cxrflow.pipeline.ingest_job import check_ingest, ingest
from cxrflow.spark.header_task import HeaderTask
from cxrflow.spark.image_folder import SparkFolder
from dicom_folder import SECRETS, write_archive, write_dicom
from label_files import MIMIC
from no_spark import session

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
    (result,) = HeaderTask(str(tmp_path / "staging"), 512 << 20, PatientKey(b"k" * 16, True))(iter([batch]))
    rows = pq.read_table(result["headers"][0].as_py()).to_pylist()
    assert [(row["is_dicom"], row["modality"]) for row in rows] == [
        (True, None),
        (True, "DX"),
        (False, None),
        (False, None),
    ]
    assert [row["path"] for row in rows] == paths
    assert [row["patient_id"] for row in rows] == [None] * 4  # the good one has no Patient ID


def test_a_file_that_kills_the_parser_affects_no_other(tmp_path, monkeypatch):
    for number in range(3):
        write_dicom(tmp_path / f"{number}.dcm", number, SOPInstanceUID="1.2.3.777" if number == 1 else "1.2.3.5")

    def parse_or_die(data, *arguments):
        if b"1.2.3.777" in data:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse_header(data, *arguments)

    monkeypatch.setattr("cxrflow.images.dcm.header_scan.parse_header", parse_or_die)
    rows = [{"path": str(tmp_path / f"{number}.dcm"), "size": 1, "modified": NOW} for number in range(3)]
    (result,) = HeaderTask(str(tmp_path / "staging"), 512 << 20, None)(iter([pa.RecordBatch.from_pylist(rows)]))
    found = pq.read_table(result["headers"][0].as_py()).to_pylist()
    assert [(row["is_dicom"], row["modality"]) for row in found] == [(True, "DX"), (None, None), (True, "DX")]


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
    taken = {"modality": {"CR": 2}, "view_position": {"AP": 1, "LATERAL": 1, "PA": 1}, "body_part": {"none": 2}}
    assert counts == HeaderCounts(dicom=2, taken=taken, disagreements={"patient_sex": 1, "patient_age": 1})


def set_up(catalog, rule):
    files = [
        listed(f"/x/IM-0001-{number}", patient_id=patient_of(f"/x/IM-0001-{number}", rule), given_patient=given)
        for number, given in enumerate([None, "labels", None, None, None])
    ]
    for file, given in zip(files, [None, "labels"], strict=False):
        file["patient_id"] = given or file["patient_id"]
    insert(catalog, "files", pa.Table.from_pylist(files))
    headers = [
        {"path": files[0]["path"], "is_dicom": True, "patient_id": "hash"},
        {"path": files[1]["path"], "is_dicom": True, "patient_id": "hash"},
        {"path": files[2]["path"], "is_dicom": True, "patient_id": None},
        {"path": files[3]["path"], "is_dicom": False, "patient_id": None},
    ]
    insert(catalog, "headers", pa.Table.from_pylist(headers))
    known = {"path": files[4]["path"], "size": 1, "modified": NOW, "patient_id": "known", "source_format": "DICOM"}
    insert(catalog, "samples", pa.Table.from_pylist([known]))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("auto", ["hash", "labels", "/x/IM-0001-2", "IM-0001", "known"]),
        ("dicom", ["hash", "labels", "/x/IM-0001-2", "/x/IM-0001-3", "known"]),
    ],
)
def test_the_labels_file_goes_before_the_header_and_the_header_before_the_name(tmp_path, rule, expected):
    """Viewers export DICOM files of all patients as IM-0001-0001, which the rule kermany would take for one patient."""
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        set_up(catalog, rule)
        counts = describe_files(catalog, by_header=True)
        set_patients(catalog, rule)
        rows = query_rows(catalog, "SELECT patient_id FROM files ORDER BY path")
    assert [row["patient_id"] for row in rows] == expected
    assert counts.without_patient == 1


@pytest.mark.parametrize(
    ("rule", "fingerprint", "kind", "expected"),
    [
        ("auto", "", "PNG", True),
        ("auto", "", "DICOM", False),  # an older version took their patients from the names
        ("auto", "f", "DICOM", True),
        ("dicom", "", "DICOM", True),
        ("file", "", "PNG", False),
        (r"(p\d+)", "f", "DICOM", False),
    ],
)
def test_a_table_keeps_its_rule_for_patients(tmp_path, rule, fingerprint, kind, expected):
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "samples", pa.Table.from_pylist([{"path": "a", "source_format": kind}]))
        assert patients_from_headers(catalog, rule, fingerprint) is expected


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
def local():
    """Runs ingest without a JVM."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield session(monkeypatch)


@pytest.fixture(scope="module")
def ingested(local, config):
    """The archive as a table: the result of ingest."""
    return ingest(local, config)


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


def test_files_through_spark_alone_give_the_same_columns(spark, ingested, config, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrflow.pipeline.ingest_job.open_folder", SparkFolder)
    key = tmp_path / "key"
    key.write_bytes(storage.read_bytes(f"{config.table}/{FILE}"))
    through = dataclasses.replace(config, table=str(tmp_path / "table"), patient_key=str(key))
    ingest(spark, through)
    columns = [*IMAGE_COLUMNS, "patient_id", "split"]
    pd.testing.assert_frame_equal(samples_of(config)[columns], samples_of(through)[columns])
    assert not (tmp_path / "table" / FILE).exists()


def test_patients_are_those_of_the_headers(ingested, config):
    samples = samples_of(config)
    names = samples.index.str.extract(r"-(\d+)\.dcm$")[0].astype(int).to_numpy() // 2
    assert samples.groupby(names)["patient_id"].nunique().eq(1).all() and samples["patient_id"].nunique() == 12
    assert samples.groupby("patient_id", observed=True)["split"].nunique().eq(1).all()
    assert samples["patient_id"].str.fullmatch("[0-9a-f]{20}").all()
    assert read_manifest(config.table).audit["files_without_patient"] == 0


def test_more_images_of_a_patient_follow_it_and_another_key_is_refused(local, ingested, config, monkeypatch):
    before = samples_of(config)
    write_dicom(
        Path(config.images) / "A" / "new.dcm", 500, PatientID="ID47110", IssuerOfPatientID="HOSPITAL", ViewPosition="LL"
    )
    write_dicom(Path(config.images) / "A" / "nobody.dcm", 501, PatientID="ANONYMOUS", ViewPosition="LL")
    monkeypatch.setenv("CXRFLOW_PATIENT_KEY", "k" * 16)
    with pytest.raises(UserError, match="leave out --patient-key and unset CXRFLOW_PATIENT_KEY"):
        ingest(local, config)
    monkeypatch.delenv("CXRFLOW_PATIENT_KEY")
    key = storage.read_bytes(f"{config.table}/{FILE}")
    result = ingest(local, config)
    after = samples_of(config)
    assert (result["added"], result["replaced"]) == (2, 0)
    assert after.loc[before.index, "patient_id"].equals(before["patient_id"])
    known, new = after.loc[f"{config.images}/A/IM-0001-0000.dcm"], after.loc[f"{config.images}/A/new.dcm"]
    assert (new["patient_id"], new["split"]) == (known["patient_id"], known["split"])
    nobody = f"{config.images}/A/nobody.dcm"
    assert after.loc[nobody, "patient_id"] == nobody and result["audit"]["files_without_patient"] == 1
    # A table that is built again keeps its key, so all patients keep their ids and, with the same files, their splits.
    ingest(local, dataclasses.replace(config, if_exists="overwrite"))
    assert storage.read_bytes(f"{config.table}/{FILE}") == key
    assert samples_of(config)["patient_id"].equals(after["patient_id"])


def test_a_key_is_kept_only_with_its_table(local, tmp_path, monkeypatch):
    images, table = tmp_path / "images", tmp_path / "table"
    write_archive(images, 4)
    config = IngestConfig(images=str(images), table=str(table), height=8, width=8, split="test")
    with monkeypatch.context() as failing, pytest.raises(OSError, match="disk full"):
        failing.setattr("cxrflow.pipeline.ingest_job.commit", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        ingest(local, config)
    assert not table.exists()
    (table / "_staging").mkdir(parents=True)  # as an ingest leaves it that was killed just before its commit
    (table / FILE).write_text("k" * 64)
    ingest(local, config)
    assert (table / FILE).read_text().strip() != "k" * 64
    own = samples_of(config)["patient_id"]
    (tmp_path / "key").write_text("g" * 64)
    ingest(local, dataclasses.replace(config, patient_key=str(tmp_path / "key"), if_exists="overwrite"))
    assert not (table / FILE).exists() and not set(samples_of(config)["patient_id"]) & set(own)
    with pytest.raises(UserError, match="--patient-key: expected the key with which .*, got no key"):
        check_ingest(config)


def test_no_identity_is_in_the_table(ingested, config):
    secret = storage.read_bytes(f"{config.table}/{FILE}").strip()
    assert secret not in storage.read_bytes(f"{config.table}/manifest.json")
    for url in storage.files(config.table, ""):
        table = pq.read_table(url, partitioning=None).drop_columns(["pixels"]) if "/samples/" in url else None
        content = repr(table.to_pylist()).encode() if table is not None else storage.read_bytes(url)
        assert not any(secret.encode() in content for secret in SECRETS), url


def test_a_table_of_an_older_version_is_extended(local, config, tmp_path):
    """The rows that the table had get no values; all readers see one set of columns."""
    images, table = tmp_path / "images", tmp_path / "table"
    write_archive(images, 4)
    older = dataclasses.replace(config, images=str(images), table=str(table))
    ingest(local, older)
    manifest = read_manifest(str(table))
    for shard in manifest.shards:
        content = pq.read_table(table / shard.path, partitioning=None).drop_columns([field.name for field in HEADER])
        pq.write_table(content, table / shard.path)
    columns = {name: kind for name, kind in manifest.columns.items() if name not in IMAGE_COLUMNS}
    write_manifest(str(table), dataclasses.replace(manifest, columns=columns))
    write_dicom(images / "A" / "later.dcm", 999, ViewPosition="LL", PatientID="other")
    result = ingest(local, older)
    assert (result["added"], result["replaced"], result["samples"]) == (1, 0, 9)
    rows = pa.concat_tables(
        [read_shard(f"{table}/{shard.path}", ["path", "view_position"]) for shard in read_manifest(str(table)).shards]
    ).to_pylist()
    assert {row["path"].rsplit("/", 1)[1]: row["view_position"] for row in rows if row["view_position"]} == {
        "later.dcm": "LL"
    }


def test_a_mixed_folder_is_warned_about_and_a_selection_loses_no_file(local, tmp_path, caplog):
    images, table = tmp_path / "images", tmp_path / "table"
    write_archive(images, 4)
    write_dicom(images / "A" / "lateral.dcm", 900, ViewPosition="LL", PatientID="ID47110", IssuerOfPatientID="HOSPITAL")
    write_dicom(images / "A" / "slice", 901, Modality="CT", ViewPosition="")
    report = pydicom.dcmread(images / "A" / "slice")
    del report.PixelData, report.Rows, report.Columns
    report.Modality = "SR"
    report.save_as(images / "B" / "report.dcm")
    (images / "B" / "broken.dcm").write_bytes((images / "A" / "lateral.dcm").read_bytes()[:-50])
    config = IngestConfig(images=str(images), table=str(table), height=8, width=8, split="test")
    mixed = ingest(local, config)
    assert (mixed["left_out"], mixed["samples"], mixed["reasons"]) == (0, 10, {"no_pixel_data": 1, "truncated": 1})
    warning = next(record.message for record in caplog.records if "frontal chest X-rays" in record.message)
    assert "modality DX 10, CT 1, SR 1;" in warning and '--select "modality in DX and view_position in ' in warning
    select = "modality in CR,DX and view_position in PA,AP"
    with pytest.raises(UserError, match="was made with no --select"):
        ingest(local, dataclasses.replace(config, select=select))
    chosen = dataclasses.replace(config, select=select, if_exists="overwrite")
    result = ingest(local, chosen)
    with pytest.raises(UserError, match=f"was made with --select '{select}'; use the same flags"):
        check_ingest(config)
    assert result["files"] == 12 == result["samples"] + result["quarantined"] + result["left_out"]
    assert (result["samples"], result["quarantined"], result["left_out"]) == (8, 0, 4)
    found = read_manifest(str(table)).audit["selection"]
    assert found["left_out"] == 4 and found["values"]["modality"] == {"DX": 10, "CT": 1, "SR": 1}
    assert {(row["condition"], row["value"]): row["files"] for row in found["reasons"]} == {
        ("modality in CR,DX", "CT"): 1,
        ("modality in CR,DX", "SR"): 1,
        ("view_position in PA,AP", "LL"): 2,
    }
    # A file that is exported again as a lateral film leaves the table; nothing else is decoded.
    changed = images / "A" / "IM-0001-0000.dcm"
    write_dicom(changed, 0, ViewPosition="LATERAL")
    again = ingest(local, dataclasses.replace(chosen, if_exists="extend"))
    assert (again["added"], again["replaced"], again["left_out"], again["samples"]) == (0, 0, 5, 7)
    assert str(changed) not in set(samples_of(chosen).index)


def test_views_of_a_labels_file_can_be_selected(local, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 11), np.uint8)).save(
            images / f"{number}.png"
        )
    (tmp_path / "labels.csv").write_text("path,label,view_position\n0.png,A,PA\n1.png,A,LL\n2.png,A,\n")
    config = IngestConfig(
        images=str(images),
        table=str(tmp_path / "table"),
        labels=str(tmp_path / "labels.csv"),
        select="view_position in PA,AP",
        height=8,
        width=8,
        split="test",
    )
    result = ingest(local, config)
    assert (result["samples"], result["left_out"]) == (1, 2)
    assert result["audit"]["selection"]["values"] == {"view_position": {"LL": 1, "PA": 1, "none": 1}}
    assert samples_of(config)["view_position"].tolist() == ["PA"]
    assert not (tmp_path / "table" / FILE).exists()  # no DICOM file, so no patient's id needs a key
