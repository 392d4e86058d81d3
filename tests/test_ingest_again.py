"""Ingest over a folder that it has seen before: what is new, what changed, what died, who else writes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrflow.base import lease
from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.pipeline.ingest_job import ingest

ROOT = Path(__file__).resolve().parents[1]
RULE = r"(p\d+)_"


def draw(images: Path, patients, views=(0, 1), labels="AB") -> None:
    for label in labels:
        for patient in patients:
            for view in views:
                path = (
                    images / label / f"p{patient}{label}_{view}.png".replace(label + "_", "_" if label == "A" else "0_")
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng([patient, view, ord(label)]).integers(0, 255, (9, 11), np.uint8)
                Image.fromarray(noise).save(path)


def samples_of(table: Path) -> pd.DataFrame:
    return pd.read_parquet(table / "samples").astype({"split": str}).set_index("path").sort_index()


def files_of(table: Path) -> dict[str, tuple[int, int]]:
    """Content of the table's folder: what no failed run may change."""
    return {
        str(path.relative_to(table)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in table.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def config(tmp_path) -> IngestConfig:
    draw(tmp_path / "images", range(1, 21))
    return IngestConfig(
        images=str(tmp_path / "images"),
        table=str(tmp_path / "table"),
        height=8,
        width=8,
        shard_rows=5,
        split="0.6,0.2,0.2",
        patients=RULE,
    )


def test_a_folder_that_grew_adds_what_is_new_and_moves_nobody(spark, config, tmp_path):
    first = ingest(spark, config)
    before, shards = samples_of(tmp_path / "table"), read_manifest(config.table).shards
    draw(tmp_path / "images", range(21, 41))
    draw(tmp_path / "images", range(1, 6), views=(2,))  # another image of patients who have their split
    second = ingest(spark, config)
    after = samples_of(tmp_path / "table")
    assert (first["added"], second["added"], second["replaced"], second["files"]) == (80, 90, 0, 170)
    pd.testing.assert_frame_equal(after.loc[before.index], before)  # split, pixels, all
    assert after.groupby("patient_id")["split"].nunique().max() == 1
    manifest = read_manifest(config.table)
    assert manifest.generation == 2 and manifest.rows() == len(after) == 170
    unchanged = {shard.path for shard in manifest.shards} & {shard.path for shard in shards}
    assert unchanged == {shard.path for shard in shards if shard.rows == 5}  # only short shards were rewritten
    for split in ("train", "val", "test"):
        assert sorted(shard.rows for shard in manifest.of_split(split))[1:] == [5] * (len(manifest.of_split(split)) - 1)
    assert {
        str(path.relative_to(tmp_path / "table")) for path in (tmp_path / "table" / "samples").rglob("*.parquet")
    } == {shard.path for shard in manifest.shards}


def test_the_table_does_not_depend_on_how_it_grew(spark, config, tmp_path):
    """Patients of the first run stay; later ones are assigned by the same thresholds."""
    ingest(spark, config)
    one = samples_of(tmp_path / "table")["split"]
    draw(tmp_path / "images", range(21, 41))
    ingest(spark, config)
    both = samples_of(tmp_path / "table")["split"]
    assert both.loc[one.index].equals(one)
    shares = both.value_counts(normalize=True)
    assert abs(shares["train"] - 0.6) < 0.15 and set(shares.index) == {"train", "val", "test"}


def test_nothing_new_changes_nothing(spark, config, tmp_path):
    first = ingest(spark, config)
    before = files_of(tmp_path / "table")
    again = ingest(spark, config)
    assert files_of(tmp_path / "table") == before
    assert (again["added"], again["replaced"], again["samples"], again["counts"]) == (0, 0, 80, first["counts"])


def test_a_changed_file_replaces_its_row(spark, config, tmp_path):
    ingest(spark, config)
    before = samples_of(tmp_path / "table")
    changed = sorted((tmp_path / "images").rglob("*.png"))[::7]
    for number, path in enumerate(changed):
        Image.fromarray(np.random.default_rng(number).integers(0, 200, (20, 30), np.uint8)).save(path)
    result = ingest(spark, config)
    after = samples_of(tmp_path / "table")
    assert (result["replaced"], result["added"], result["samples"]) == (len(changed), 0, 80)
    assert set(after.index) == set(before.index)
    different = {path for path in after.index if after["sha256"][path] != before["sha256"][path]}
    assert different == set(map(str, changed))
    assert after.groupby("patient_id")["split"].nunique().max() == 1
    assert after.drop(different)["split"].equals(before.drop(different)["split"])


def test_rows_of_files_that_are_gone_stay_and_are_counted(spark, config, tmp_path):
    ingest(spark, config)
    shutil.rmtree(tmp_path / "images" / "A")
    result = ingest(spark, config)
    assert (result["missing"], result["samples"], result["files"]) == (40, 80, 40)


def test_quarantined_files_are_tried_again_if_the_result_may_differ(spark, config, tmp_path):
    broken, late = tmp_path / "images" / "A" / "broken.png", tmp_path / "images" / "A" / "late.png"
    broken.write_text("no image")
    late.symlink_to(tmp_path / "later.png")
    assert ingest(spark, config)["reasons"] == {"not_an_image": 1, "unreadable": 1}
    draw(tmp_path / "more", [99], views=(0,), labels="A")
    shutil.copy(next((tmp_path / "more").rglob("*.png")), tmp_path / "later.png")
    result = ingest(spark, config)
    assert (result["added"], result["reasons"]) == (1, {"not_an_image": 1})
    assert list(pd.read_parquet(tmp_path / "table" / "quarantine")["path"]) == [str(broken)]


def test_labels_that_come_later_free_files_from_quarantine(spark, tmp_path):
    draw(tmp_path / "images", range(1, 6), views=(0,), labels="A")
    names = sorted(path.name for path in (tmp_path / "images" / "A").iterdir())
    config = IngestConfig(
        images=str(tmp_path / "images"),
        table=str(tmp_path / "table"),
        split="train",
        height=4,
        width=4,
        labels=str(tmp_path / "labels.csv"),
    )
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"A/{name},X\n" for name in names[:3]))
    assert ingest(spark, config)["reasons"] == {"unlabelled": 2}
    assert ingest(spark, config)["added"] == 0
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"A/{name},Y\n" for name in names[2:]) + f"A/{names[0]},X\n"
    )
    result = ingest(spark, config)  # the file without a line any more keeps what it had
    assert (result["added"], result["replaced"], result["reasons"]) == (2, 1, {})
    labels = samples_of(tmp_path / "table")["label"]
    assert {path.rsplit("/", 1)[1]: label for path, label in labels.items()} == dict(zip(names, "XXYYY", strict=True))
    with pytest.raises(UserError, match="was made with --labels .*labels.csv"):
        ingest(spark, dataclasses.replace(config, labels=None))


def test_a_labels_file_does_not_change_the_split_of_a_patient(spark, tmp_path):
    draw(tmp_path / "images", [1, 2], views=(0,), labels="A")
    first, second = sorted((tmp_path / "images" / "A").iterdir())
    config = IngestConfig(
        images=str(tmp_path / "images"),
        table=str(tmp_path / "table"),
        height=4,
        width=4,
        patients=r"(A)/",
        labels=str(tmp_path / "labels.csv"),
    )
    (tmp_path / "labels.csv").write_text(f"path,label,split\n{first},X,train\n")
    ingest(spark, config)
    (tmp_path / "labels.csv").write_text(f"path,label,split\n{first},X,test\n{second},X,test\n")
    with pytest.raises(UserError, match="a patient never changes its split"):
        ingest(spark, config)
    (tmp_path / "labels.csv").write_text(f"path,label,split\n{first},X,test\n")  # with nothing new to decode
    with pytest.raises(UserError, match="a patient never changes its split"):
        ingest(spark, config)


def test_new_files_that_would_leak_go_to_quarantine(spark, config, tmp_path):
    """A copy of a train image arrives under the name of a patient whom the table has in test."""
    ingest(spark, config)
    samples = samples_of(tmp_path / "table")
    source = samples[samples["split"] == "train"].index[0]
    patient = samples[samples["split"] == "test"]["patient_id"].iloc[0]
    shutil.copy(source, tmp_path / "images" / "A" / f"{patient}_9.png")
    result = ingest(spark, config)
    assert (result["added"], result["reasons"]) == (0, {"in_another_split": 1})
    assert samples_of(tmp_path / "table").equals(samples)


def test_a_feed_continues_with_its_generation_while_ingest_replaces_the_table(spark, config):
    """The shards that it still reads are moved, not removed, and Spark sees the new rows alone."""
    from cxrflow.base.generations import reading
    from cxrflow.training.feed import Feed

    ingest(spark, config)
    before = read_manifest(config.table)

    def sample_ids():
        feed = Feed(config.table, before, "train", rank=0, workers=1, batch_size=5)
        return sorted(sample for batch in feed.epoch() for sample in batch.sample_ids.tolist())

    with reading(config.table, before.generation):
        first = sample_ids()
        draw(Path(config.images), range(21, 31))
        replaced = dataclasses.replace(config, if_exists="overwrite", shard_rows=7, grace_hours=0)
        assert ingest(spark, replaced)["samples"] == 120 == len(samples_of(Path(config.table)))
        assert sample_ids() == first
    ingest(spark, dataclasses.replace(replaced, if_exists="extend"))
    with pytest.raises(JobError, match="cannot train on .*samples"):
        sample_ids()
    assert not (Path(config.table) / "_older").exists()


def test_a_second_run_at_the_same_time_is_refused(spark, config, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "jobs" / "ingest.py"),
        "--images",
        config.images,
        "--table",
        config.table,
        "--height",
        "8",
        "--width",
        "8",
        "--shard-rows",
        "5",
        "--split",
        "0.6,0.2,0.2",
        "--patients",
        RULE,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        deadline = time.monotonic() + 120
        while not (tmp_path / "table" / lease.NAME).exists() and first.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(
            UserError, match="--table: expected a folder that no other job writes to, but process .* is writing to it"
        ):
            ingest(spark, config)
        output, _ = first.communicate(timeout=300)
    assert first.returncode == 0 and json.loads(output.splitlines()[-1])["added"] == 80
    assert ingest(spark, config)["added"] == 0
    assert len(samples_of(tmp_path / "table")) == 80


@pytest.mark.parametrize(
    "change", [{"height": 9}, {"resize": "pad"}, {"seed": 1}, {"patients": "file"}, {"shard_rows": 6}]
)
def test_another_recipe_is_refused(spark, config, tmp_path, change):
    ingest(spark, config)
    before = files_of(tmp_path / "table")
    flag = next(iter(change)).replace("_", "-")
    with pytest.raises(
        UserError, match=f"was made with --{flag} .*; use the same flags to add files to it, or --if-exists overwrite"
    ):
        ingest(spark, dataclasses.replace(config, **change))
    assert files_of(tmp_path / "table") == before
