"""The two implementations of an images folder: both list the same files and give tasks the same contents."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cxrflow.base.schema import spark_ddl
from cxrflow.spark.image_folder import LocalFolder, SparkFolder, open_folder
from cxrflow.spark.listing import LISTING
from cxrflow.spark.session import settings

FILES = {"A/small.png": b"12", "A/empty.png": b"", "B/b c%41#.png": b"3" * 5000, "B/[x]{y}.png": b"4" * 70}
HIDDEN = ["_hidden.png", ".folder/1.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "we#ird [images]"
    for name, content in {**FILES, **dict.fromkeys(HIDDEN, b"5")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def few_partitions(spark):
    with settings(spark, {"spark.sql.shuffle.partitions": 2}):
        yield


def listing_of(folder, staging) -> list[dict]:
    return pa.Table.from_batches(folder.list_files(str(staging))()).to_pylist()


def test_the_scheme_of_the_url_decides(spark):
    assert isinstance(open_folder(spark, "/Volumes/a/b"), LocalFolder)
    assert isinstance(open_folder(spark, "s3a://bucket/images"), SparkFolder)


@pytest.mark.parametrize("kind", [LocalFolder, SparkFolder])
def test_every_file_is_listed_and_hidden_files_are_counted(spark, images, tmp_path, kind):
    folder = kind(spark, images)
    rows = listing_of(folder, tmp_path)
    visible = {row["path"]: row["size"] for row in rows if not row["hidden"]}
    assert visible == {f"{images}/{name}": len(content) for name, content in FILES.items()}
    assert folder.count_hidden(len(visible), len(rows) - len(visible)) == len(HIDDEN)


def test_spark_reads_the_contents_in_groups_of_similar_size(spark, images, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrflow.spark.image_folder._SMALLEST_LIMIT", 16)
    monkeypatch.setattr("cxrflow.spark.image_folder.LARGEST_CONTENT", 1000)
    folder = SparkFolder(spark, images)
    rows = pa.Table.from_pylist(listing_of(folder, tmp_path), schema=LISTING).to_batches()
    files = spark.range(1, numPartitions=1).mapInArrow(lambda _: iter(rows), spark_ddl(LISTING))
    groups = [{row["path"]: row["content"] for row in frame.collect()} for frame in folder.read_contents(files, 100)]
    assert [len(group) for group in groups] == [1, 2, 1, 0]  # too large, up to 16, up to 128, up to 1024 bytes
    found = {path.removeprefix(f"{images}/"): content for group in groups for path, content in group.items()}
    assert found == {name: bytearray(content) if len(content) <= 1000 else None for name, content in FILES.items()}


def test_contents_never_leave_the_task_that_reads_them(spark, images, tmp_path):
    folder = SparkFolder(spark, images)
    rows = pa.Table.from_pylist(listing_of(folder, tmp_path), schema=LISTING).to_batches()
    files = spark.range(1, numPartitions=1).mapInArrow(lambda _: iter(rows), spark_ddl(LISTING))
    plan = next(folder.read_contents(files, 2**20))._jdf.queryExecution().executedPlan().toString()
    exchanges = [line for line in plan.splitlines() if "Exchange" in line]
    assert exchanges and not any("content" in line for line in exchanges)
