"""Ingest on a real Spark session."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import functions as F

from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.base.path_rules import patient_of
from cxrflow.base.shard_files import checksum
from cxrflow.images import REASONS, Recipe, decode_image
from cxrflow.images.phantoms import LABELS, PATIENT_RULE
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.spark.image_folder import SparkFolder
from cxrflow.spark.session import settings


@pytest.fixture(scope="module", autouse=True)
def few_partitions(spark):
    """Joins of a few rows take longer in Spark's 200 partitions than all else in these tests."""
    with settings(spark, {"spark.sql.shuffle.partitions": 2}):
        yield


def write_images(folder, names, size=(12, 10), distinct=False):
    """One gray value per file, or noise if ``distinct``."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, size, np.uint8)
        Image.fromarray(noise if distinct else np.full(size, number % 250, np.uint8)).save(path, "PNG")


def samples_of(table):
    return pd.read_parquet(table / "samples").astype({"split": str})


def test_every_file_is_a_sample_or_in_quarantine_with_its_reason(table, phantoms):
    files = {str(path) for path in phantoms.rglob("*") if path.is_file()}
    samples = samples_of(table)
    quarantine = pd.read_parquet(table / "quarantine")
    assert set(samples["path"]) | set(quarantine["path"]) == files
    assert len(samples) + len(quarantine) == len(files) == 52
    assert Counter(quarantine["reason"]) == {"empty": 1, "not_an_image": 2, "truncated": 1}
    assert set(quarantine["reason"]) <= set(REASONS) and quarantine["detail"].str.len().min() > 0
    manifest = read_manifest(str(table))
    assert manifest.quarantined == dict(Counter(quarantine["reason"])) and manifest.rows() == len(samples)


def test_a_patient_is_in_one_split_and_labels_are_balanced(table):
    samples = samples_of(table)
    assert samples.groupby("patient_id")["split"].nunique().max() == 1
    assert set(samples["patient_id"]) == {patient_of(path, PATIENT_RULE) for path in samples["path"]}
    patients = samples.drop_duplicates("patient_id").groupby(["split", "label"]).size().unstack()
    # 12 patients, assigned 0.6, 0.2, 0.2: whole patients only
    assert dict(patients[LABELS[1]]) == {"train": 7, "val": 2, "test": 3}


def test_stored_pixels_are_those_of_the_decoder(table):
    for row in samples_of(table).sample(8, random_state=0).itertuples():
        with open(row.path, "rb") as file:
            decoded = decode_image(file.read(), Recipe(48, 40))
        np.testing.assert_array_equal(
            np.frombuffer(row.pixels, np.uint8).reshape(row.height, row.width), decoded.pixels
        )
        assert (row.source_height, row.source_width) == (decoded.source_height, decoded.source_width)


def test_a_shard_is_one_row_group_and_all_but_the_last_are_full(table):
    manifest = read_manifest(str(table))
    for shard in manifest.shards:
        file = pq.ParquetFile(table / shard.path)
        assert file.num_row_groups == 1 and file.metadata.num_rows == shard.rows
        labels = Counter(file.read(["label"])["label"].to_pylist())
        assert dict(labels) == shard.labels
        assert checksum(file.read(["sample_id"])["sample_id"].to_numpy()) == shard.checksum
    for split in ("train", "val", "test"):
        rows = sorted(shard.rows for shard in manifest.of_split(split))
        assert rows[1:] == [6] * (len(rows) - 1) and 1 <= rows[0] <= 6


def test_spark_and_pandas_read_the_table_as_any_other(spark, table):
    rows = read_manifest(str(table)).rows()
    frame = spark.read.parquet(str(table / "samples"))
    assert frame.count() == rows and {row[0] for row in frame.select("split").distinct().collect()} == {
        "train",
        "val",
        "test",
    }
    assert len(pd.read_parquet(table / "samples")) == rows
    assert not (table / "_staging").exists() or not list((table / "_staging").iterdir())


NAMES = [
    "a b.png",
    "a#b.png",
    "100%.png",
    "a%41.png",
    "x+y=z,1.png",
    "größe-肺.png",
    "sub folder/[1]{2}*.png",
    "q?.png",
]


def test_awkward_names(spark, tmp_path):
    images = tmp_path / "we#ird [images]"
    write_images(images, [f"NORMAL/{name}" for name in NAMES])
    table = tmp_path / "ta ble"
    result = ingest(spark, IngestConfig(images=str(images), table=str(table), split="test", height=10, width=12))
    assert result["samples"] == len(NAMES)
    assert set(samples_of(table)["path"]) == {str(images / "NORMAL" / name) for name in NAMES}


def test_labels_patients_and_splits_from_a_file(spark, tmp_path):
    images = tmp_path / "images"
    write_images(images, [f"{number}.png" for number in range(6)])
    (tmp_path / "labels.csv").write_text(
        "path,label,patient_id,split\n"
        f"0.png,A,p1,train\n1.png,B,p1,train\n{images}/2.png,A,p2,val\nfile:{images}/3.png,B,p3,test\n4.png,,p4,\n"
    )
    result = ingest(
        spark,
        IngestConfig(
            images=str(images), table=str(tmp_path / "table"), height=4, width=4, labels=str(tmp_path / "labels.csv")
        ),
    )
    samples = samples_of(tmp_path / "table").set_index("path")
    assert result["reasons"] == {"unlabelled": 2}  # 4.png without a label, 5.png without a line
    assert {name[-5]: (row.label, row.patient_id, row.split) for name, row in samples.iterrows()} == {
        "0": ("A", "p1", "train"),
        "1": ("B", "p1", "train"),
        "2": ("A", "p2", "val"),
        "3": ("B", "p3", "test"),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("file,label\n0.png,A\n", "expected the columns of a known layout, got file, label"),
        ("path,label\n0.png,A\n0.png,B\n", "expected one row per path"),
    ],
)
def test_a_labels_file_that_contradicts_itself_is_refused(spark, tmp_path, lines, message):
    write_images(tmp_path / "images", ["0.png", "1.png"])
    (tmp_path / "labels.csv").write_text(lines)
    with pytest.raises(UserError, match=message):
        ingest(
            spark,
            IngestConfig(
                images=str(tmp_path / "images"), table=str(tmp_path / "table"), labels=str(tmp_path / "labels.csv")
            ),
        )
    assert not (tmp_path / "table" / "manifest.json").exists()


def test_the_deal_of_patients_is_seeded_and_exact(spark, tmp_path):
    names = [f"{label}/p{number}_{view}.png" for label in "AB" for number in range(50) for view in (0, 1)]
    write_images(tmp_path, names, distinct=True)

    def assign(seed):
        table = tmp_path.parent / f"{tmp_path.name}-table-{seed}"
        ingest(
            spark,
            IngestConfig(
                images=str(tmp_path),
                table=str(table),
                height=4,
                width=4,
                patients=r"(p\d+)_",
                seed=seed,
                if_exists="overwrite",
            ),
        )
        # the same keys under both labels: such a patient counts once, under its first label
        return samples_of(table).set_index("path")["split"].to_dict()

    first = assign(0)
    assert first == assign(0) and first != assign(1)
    assert Counter(first.values()) == {"train": 160, "val": 20, "test": 20}


def test_files_of_unknown_patients_get_the_same_split_in_any_folder(spark, tmp_path):
    names = [f"{label}/größe {number}.png" for label in "AB" for number in range(50)]
    assigned = {}
    for folder in ("one", "an other/肺"):
        write_images(tmp_path / folder, names, distinct=True)
        ingest(
            spark,
            IngestConfig(images=str(tmp_path / folder), table=str(tmp_path / f"{folder}-table"), height=4, width=4),
        )
        assigned[folder] = samples_of(tmp_path / f"{folder}-table").set_index("path")["split"].to_dict()
    one, other = (
        {path.removeprefix(f"{tmp_path / folder}/"): split for path, split in splits.items()}
        for folder, splits in assigned.items()
    )
    assert one == other and sorted(one) == sorted(names)
    assert Counter(one.values()) == {"train": 80, "val": 10, "test": 10}


def test_overwrite_makes_the_table_anew(spark, tmp_path):
    write_images(tmp_path / "images", ["A/0.png", "B/1.png"])
    config = {
        "images": str(tmp_path / "images"),
        "table": str(tmp_path / "table"),
        "split": "train",
        "height": 4,
        "width": 4,
    }
    ingest(spark, IngestConfig(**config))
    (tmp_path / "images" / "A" / "0.png").unlink()
    with pytest.raises(UserError, match="was made with --height 4 --width 4"):
        ingest(spark, IngestConfig(**{**config, "height": 6, "width": 6}))
    ingest(spark, IngestConfig(**{**config, "height": 6, "width": 6}, if_exists="overwrite"))
    assert list(samples_of(tmp_path / "table")["path"]) == [str(tmp_path / "images" / "B" / "1.png")]
    assert read_manifest(str(tmp_path / "table")).generation == 2


def test_a_folder_that_is_no_table_is_never_written_into(spark, tmp_path):
    write_images(tmp_path / "images", ["A/0.png"])
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        ingest(
            spark, IngestConfig(images=str(tmp_path / "images"), table=str(tmp_path / "home"), if_exists="overwrite")
        )


def test_a_failed_ingest_leaves_no_table_and_nothing_staged(spark, tmp_path):
    images = tmp_path / "images"
    (images / "A").mkdir(parents=True)
    (images / "A" / "0.png").write_text("no image")
    with pytest.raises(UserError, match="got only unusable files, 1 of 1 .not_an_image: 1."):
        ingest(spark, IngestConfig(images=str(images), table=str(tmp_path / "table")))
    assert not (tmp_path / "table" / "manifest.json").exists()
    assert not (tmp_path / "table").exists()


def test_files_through_spark_alone_give_the_same_table(spark, tmp_path, monkeypatch, phantoms):
    """Where Python cannot open the images, their bytes come through binaryFile; here by pretending so."""
    images = tmp_path / "images"
    shutil.copytree(phantoms, images)
    config = {"images": str(images), "height": 16, "width": 16, "patients": PATIENT_RULE}
    ingest(spark, IngestConfig(**config, table=str(tmp_path / "direct")))
    monkeypatch.setattr("cxrflow.pipeline.ingest_job.open_folder", SparkFolder)
    ingest(spark, IngestConfig(**config, table=str(tmp_path / "spark")))
    direct, through = (samples_of(tmp_path / name).set_index("path").sort_index() for name in ("direct", "spark"))
    assert read_manifest(str(tmp_path / "spark")).quarantined == {"empty": 1, "not_an_image": 2, "truncated": 1}
    columns = ["label", "patient_id", "split", "sha256", "pixels"]
    pd.testing.assert_frame_equal(direct[columns], through[columns])


def test_what_cannot_be_read_is_quarantined_and_not_the_end(spark, tmp_path):
    images = tmp_path / "images"
    write_images(images, ["A/0.png", "B/1.png"])
    (images / "A" / "gone.png").symlink_to(tmp_path / "nothing")
    (images / "A" / "loop.png").symlink_to(images / "A" / "loop.png")
    os.mkfifo(images / "A" / "pipe.png")
    shutil.copy(images / "A" / "0.png", os.fsencode(images / "B") + b"/\xff.png")
    result = ingest(
        spark, IngestConfig(images=str(images), table=str(tmp_path / "table"), split="test", height=4, width=4)
    )
    assert (result["files"], result["samples"], result["reasons"]) == (6, 2, {"unreadable": 4})
    details = pd.read_parquet(tmp_path / "table" / "quarantine").set_index("path")["detail"]
    assert "not a regular file" in details[str(images / "A" / "pipe.png")]
    assert details[str(images / "A" / "gone.png")] == "No such file or directory"
    assert str(images / "B" / "\\xff.png") in details.index


def test_hidden_files_are_counted_and_said(spark, tmp_path):
    images = tmp_path / "images"
    write_images(images, ["A/0.png", "B/1.png", "A/.hidden.png", "A/_hidden.png", ".folder/2.png", "B/_more/3.png"])
    result = ingest(
        spark, IngestConfig(images=str(images), table=str(tmp_path / "table"), split="test", height=4, width=4)
    )
    assert (result["files"], result["skipped"], result["samples"]) == (2, 4, 2)
    files = sum(path.is_file() for path in images.rglob("*"))
    assert result["files"] + result["skipped"] == files


def test_too_many_bad_files_fail_the_job_and_leave_nothing(spark, tmp_path):
    images = tmp_path / "images"
    write_images(images, ["A/0.png", "B/1.png", "B/2.png"])
    (images / "A" / "3.png").write_text("no image")
    config = {"images": str(images), "table": str(tmp_path / "table"), "split": "test", "height": 4, "width": 4}
    with pytest.raises(
        UserError, match=r"expected at most 20.0% unusable files, got 1 of 4 \(25.0%\)(.|\n)*not_an_image +1"
    ):
        ingest(spark, IngestConfig(**config, max_bad=0.2))
    assert not (tmp_path / "table").exists()
    assert ingest(spark, IngestConfig(**config, max_bad=0.25))["reasons"] == {"not_an_image": 1}


def test_a_file_that_kills_its_decoder_is_quarantined_alone(spark, tmp_path):
    spark.sparkContext.addPyFile(str(Path(__file__).parent / "deadly_decoder.py"))
    images = tmp_path / "images"
    write_images(images, [f"{label}/{number}.png" for number in range(5) for label in "AB"], distinct=True)
    (images / "A" / "deadly.png").write_bytes(b"deadly")
    result = ingest(
        spark,
        IngestConfig(
            images=str(images),
            table=str(tmp_path / "table"),
            split="test",
            height=4,
            width=4,
            decoder="deadly_decoder:decode",
        ),
    )
    assert (result["samples"], result["reasons"]) == (10, {"crashed": 1})
    (row,) = pd.read_parquet(tmp_path / "table" / "quarantine").itertuples()
    assert (row.path, row.detail, row.size) == (str(images / "A" / "deadly.png"), "killed by SIGSEGV", 6)


def test_padding_keeps_the_shape(spark, tmp_path):
    write_images(tmp_path / "images", ["A/0.png", "A/1.png"], size=(10, 40))
    ingest(
        spark,
        IngestConfig(
            images=str(tmp_path / "images"),
            table=str(tmp_path / "table"),
            split="test",
            height=20,
            width=20,
            resize="pad",
        ),
    )
    pixels = samples_of(tmp_path / "table").set_index("path")["pixels"][str(tmp_path / "images" / "A" / "1.png")]
    image = np.frombuffer(pixels, np.uint8).reshape(20, 20)
    assert (image[:7] == 0).all() and (image[8:12] == 1).all() and (image[13:] == 0).all()


def test_copies_go_to_one_split_and_are_reported(spark, tmp_path):
    images = tmp_path / "images"
    write_images(images, [f"{label}/p{number}.png" for label in "AB" for number in range(20)], distinct=True)
    for number in range(1, 20):  # all of A are one content, under patients who would be in different splits
        shutil.copy(images / "A" / "p0.png", images / "A" / f"p{number}.png")
    shutil.copy(images / "B" / "p3.png", images / "A" / "p20.png")
    result = ingest(
        spark, IngestConfig(images=str(images), table=str(tmp_path / "table"), height=4, width=4, patients=r"(./p\d+)")
    )
    samples = samples_of(tmp_path / "table")
    assert samples.groupby("sha256")["split"].nunique().max() == 1 and len(samples) == 41
    found = result["audit"]
    assert (found["duplicates"]["contents"], found["duplicates"]["files"]) == (2, 22)
    assert found["conflicting_labels"]["examples"] == [[str(images / "A" / "p20.png"), str(images / "B" / "p3.png")]]
    rows = [shard.rows for shard in read_manifest(str(tmp_path / "table")).shards]
    assert all(rows == 8 for rows in sorted(rows)[3:])  # full but for the last of each split, though rows moved


def test_one_row_is_found_without_reading_pixels(spark, table):
    """What any tool may do with plain Parquet."""
    path = samples_of(table)["path"].iloc[5]
    row = pq.read_table(table / "samples", filters=[("path", "==", path)], columns=["label", "sha256"])
    assert row.num_rows == 1
    frame = spark.read.parquet(str(table / "samples")).where(F.col("path") == path).select("label")
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert frame.count() == 1 and "ReadSchema: struct<path:string,label:string>" in plan


def test_labels_that_were_mended_are_read_again(spark, tmp_path):
    """In a session that lives on, as in a notebook."""
    write_images(tmp_path / "images", ["0.png", "1.png"])
    for number, label in enumerate(("A", "C")):
        (tmp_path / "labels.csv").write_text(f"path,label\n0.png,{label}\n1.png,B\n")
        table = tmp_path / f"table{number}"
        ingest(
            spark,
            IngestConfig(
                images=str(tmp_path / "images"),
                table=str(table),
                split="train",
                height=4,
                width=4,
                labels=str(tmp_path / "labels.csv"),
            ),
        )
        assert sorted(samples_of(table)["label"]) == sorted([label, "B"])


def test_empty_cells_of_a_labels_file_are_no_values(spark, tmp_path):
    write_images(tmp_path / "images", ["0.png", "1.png"])
    (tmp_path / "labels.csv").write_text('path,label,patient_id,split\n0.png,A,"",""\n1.png,B,"",""\n')
    ingest(
        spark,
        IngestConfig(
            images=str(tmp_path / "images"),
            table=str(tmp_path / "table"),
            height=4,
            width=4,
            labels=str(tmp_path / "labels.csv"),
        ),
    )
    assert samples_of(tmp_path / "table")["patient_id"].nunique() == 2


def test_the_same_files_give_the_same_table(spark, phantoms, table, tmp_path):
    ingest(
        spark,
        IngestConfig(
            images=str(phantoms),
            table=str(tmp_path / "again"),
            height=48,
            width=40,
            shard_rows=6,
            split="0.6,0.2,0.2",
            patients=PATIENT_RULE,
        ),
    )
    again, first = read_manifest(str(tmp_path / "again")), read_manifest(str(table))
    assert again.shards == first.shards
    for shard in first.shards:
        assert pq.read_table(tmp_path / "again" / shard.path, partitioning=None).equals(
            pq.read_table(table / shard.path, partitioning=None)
        )


@pytest.mark.parametrize("table", ["images/table", "."])
def test_a_table_inside_the_images_or_around_them_is_refused(spark, tmp_path, table):
    write_images(tmp_path / "images", ["A/0.png"])
    with pytest.raises(UserError, match="expected a folder apart from the images"):
        ingest(spark, IngestConfig(images=str(tmp_path / "images"), table=str(tmp_path / table)))


def test_real_images(spark, real_images, tmp_path):
    result = ingest(spark, IngestConfig(images=str(real_images), table=str(tmp_path / "table"), height=64, width=64))
    assert (result["files"], result["samples"], result["quarantined"]) == (340, 340, 0)
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    assert manifest["labels"] == ["NORMAL", "PNEUMONIA"]
