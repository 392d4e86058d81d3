"""How scoring divides a table among tasks, and fills its batches."""

import pyarrow as pa
import pytest

from cxrflow.base.manifest import Shard
from cxrflow.spark.score_task import BATCH, divide_shards, full_batches


def shards(*rows):
    return [
        Shard(path=f"{index}.parquet", split="test", rows=n, labels={}, checksum="") for index, n in enumerate(rows)
    ]


@pytest.mark.parametrize(
    "rows, slots, tasks",
    [
        ([8] * 78, 2, 2),  # 624 images: one task a slot, or each would have a batch that is not full
        ([128] * 400, 2, 8),  # enough for four tasks a slot
        ([128] * 16, 2, 4),
        ([1000], 4, 1),  # a shard is not divided
        ([3, 1], 16, 2),
    ],
)
def test_each_shard_is_in_one_task_and_tasks_are_about_equal(rows, slots, tasks):
    divided = divide_shards(shards(*rows), slots)
    assert len(divided) == tasks
    assert [shard for task in divided for shard in task] == shards(*rows)
    sizes = [sum(shard.rows for shard in task) for task in divided]
    assert max(sizes) - min(sizes) <= max(rows)


@pytest.mark.parametrize("rows", [[8] * 9, [1, BATCH, 1], [100, 3], [0, 5], [BATCH] * 2, [0]])
def test_batches_are_full_except_for_the_last(rows):
    tables = [pa.table({"row": pa.array(range(index, index + n), pa.int32())}) for index, n in enumerate(rows)]
    batches = list(full_batches(iter(tables)))
    assert [row for batch in batches for row in batch.to_pylist()] == [
        row for table in tables for row in table.to_pylist()
    ]
    assert all(len(batch) and len(batch) % BATCH == 0 for batch in batches[:-1])
    assert len(batches) <= -(-sum(rows) // BATCH)
