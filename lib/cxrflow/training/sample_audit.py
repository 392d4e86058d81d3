"""Counts the samples that training really used and compares them with the manifest. NumPy only."""

from __future__ import annotations

import numpy as np

from cxrflow.base.errors import JobError
from cxrflow.base.manifest import Shard
from cxrflow.base.shard_files import checksum
from cxrflow.distributed.worker import Worker


class SampleAudit:
    """The samples fed in an epoch: for each of S shards, their number and the XOR of their ids.

    The order of the samples does not matter. A sample that is left out, fed twice or replaced changes the entries.
    """

    def __init__(self, shards: list[Shard], entries: np.ndarray | None = None):
        """``entries``: int64 (2, S), the counts and XORs so far, such as those in a checkpoint."""
        self._shards = shards
        self.entries = np.zeros((2, len(shards)), np.int64) if entries is None else entries.copy()

    def add(self, shards: np.ndarray, sample_ids: np.ndarray) -> None:
        """Count b samples: ``shards`` int32 (b,) are indices into the list of shards, ``sample_ids`` int64 (b,)."""
        np.add.at(self.entries[0], shards, 1)
        np.bitwise_xor.at(self.entries[1], shards, sample_ids)

    def combined(self, worker: Worker) -> SampleAudit:
        """The audit of all workers together. Collective."""
        entries = worker.all_gather(self.entries[None])
        return SampleAudit(
            self._shards, np.stack([entries[:, 0].sum(axis=0), np.bitwise_xor.reduce(entries[:, 1], axis=0)])
        )

    def check(self) -> dict:
        """The epoch's record: samples fed, samples expected, and the XOR checksum of all samples.

        Raises JobError with the first three shards of which not every sample was fed exactly once.
        """
        wrong = [
            f"{shard.path} ({count} samples fed, {shard.rows} expected)"
            for shard, count, ids in zip(self._shards, self.entries[0], self.entries[1], strict=True)
            if count != shard.rows or checksum(ids) != shard.checksum
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise JobError(
                "not every sample was fed exactly once in this epoch, so training stops. The samples fed differ from "
                f"the manifest in {', '.join(wrong[:3])}{more}"
            )
        return {
            "samples": int(self.entries[0].sum()),
            "expected": sum(shard.rows for shard in self._shards),
            "checksum": checksum(self.entries[1]),
        }
