"""What was really fed to the train step, counted on every worker and compared with the manifest. NumPy only."""

from __future__ import annotations

import numpy as np

from cxrflow.base.errors import JobError
from cxrflow.base.manifest import Shard
from cxrflow.base.shard_files import checksum
from cxrflow.distributed.worker import Worker


class SampleAudit:
    """Samples fed in an epoch: for each of S shards their number and the exclusive or of their ids. The order does
    not matter; a sample that was left out, fed twice or taken for another changes them."""

    def __init__(self, shards: list[Shard], entries: np.ndarray | None = None):
        """``entries``: int64 (2, S), what was counted before."""
        self._shards = shards
        self.entries = np.zeros((2, len(shards)), np.int64) if entries is None else entries.copy()

    def add(self, shards: np.ndarray, sample_ids: np.ndarray) -> None:
        """Count samples: their shards as places in the list, and their ids; both (b,)."""
        np.add.at(self.entries[0], shards, 1)
        np.bitwise_xor.at(self.entries[1], shards, sample_ids)

    def combined(self, worker: Worker) -> SampleAudit:
        """The ledger of all workers together; collective."""
        entries = worker.all_gather(self.entries[None])
        return SampleAudit(
            self._shards, np.stack([entries[:, 0].sum(axis=0), np.bitwise_xor.reduce(entries[:, 1], axis=0)])
        )

    def close(self) -> dict:
        """The epoch's record: samples fed, samples expected, checksum of all. Raises JobError with the names of
        the shards of which not every sample was fed exactly once."""
        wrong = [
            f"{shard.path} ({count} samples fed, {shard.rows} expected)"
            for shard, count, ids in zip(self._shards, self.entries[0], self.entries[1], strict=True)
            if count != shard.rows or checksum(ids) != shard.checksum
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise JobError(
                "not every sample was fed exactly once in this epoch; training stops. The samples fed "
                f"are not the manifest's in {', '.join(wrong[:3])}{more}"
            )
        return {
            "samples": int(self.entries[0].sum()),
            "expected": sum(shard.rows for shard in self._shards),
            "checksum": checksum(self.entries[1]),
        }
