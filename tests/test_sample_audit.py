"""The sample audit stops training, with the shard's name, unless every sample was fed exactly once."""

import numpy as np
import pytest

from cxrflow.base.manifest import Shard
from cxrflow.base.shard_files import checksum
from cxrflow.distributed.worker import Worker
from cxrflow.training.sample_audit import SampleAudit

IDS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (3, 5))
SHARDS = [
    Shard(path=f"shard{n}.parquet", split="train", rows=5, labels={}, checksum=checksum(ids))
    for n, ids in enumerate(IDS)
]
SHARD_INDICES = np.repeat(np.arange(3, dtype=np.int32), 5)


class FirstOfTwo(Worker):
    """Rank 0 of two workers. The other worker's audit is given."""

    size = 2

    def __init__(self, other):
        self._other = other

    def all_gather(self, array):
        return np.concatenate([array, self._other.entries[None]])


def test_two_workers_and_a_resumed_run_together_fed_every_sample_once():
    mine, other = SampleAudit(SHARDS), SampleAudit(SHARDS)
    fed = np.random.default_rng(1).permutation(15)
    mine.add(SHARD_INDICES[fed[:6]], IDS.ravel()[fed[:6]])
    mine = SampleAudit(SHARDS, mine.entries)  # as restored from a checkpoint
    mine.add(SHARD_INDICES[fed[6:9]], IDS.ravel()[fed[6:9]])
    other.add(SHARD_INDICES[fed[9:]], IDS.ravel()[fed[9:]])
    assert mine.combined(FirstOfTwo(other)).check() == {"samples": 15, "expected": 15, "checksum": checksum(IDS)}


@pytest.mark.parametrize(
    ("fed", "message"),
    [
        ([*range(14)], r"shard2.parquet \(4 samples fed, 5 expected\)$"),
        ([*range(15), 7], r"shard1.parquet \(6 samples fed, 5 expected\)$"),
        ([*range(14), 13], r"shard2.parquet \(5 samples fed, 5 expected\)$"),  # one sample twice, another not at all
        ([], "shard0.parquet .* shard1.parquet .* shard2.parquet"),
    ],
)
def test_a_sample_left_out_or_fed_twice_stops_training_with_the_shards_name(fed, message):
    audit = SampleAudit(SHARDS)
    audit.add(SHARD_INDICES[fed], IDS.ravel()[fed])
    with pytest.raises(RuntimeError, match=message):
        audit.combined(Worker()).check()
