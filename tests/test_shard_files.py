"""The checksum of a shard's samples."""

import numpy as np

from cxrflow.base.path_rules import sample_id
from cxrflow.base.shard_files import checksum


def test_a_checksum_identifies_the_samples_whatever_their_order():
    ids = np.array([sample_id(str(number)) for number in range(100)])
    assert checksum(ids) == checksum(ids[::-1]) and len(checksum(ids)) == 16
    assert checksum(ids) != checksum(ids[1:]) != checksum(ids[:-1])
    assert checksum([5, -3]) == format((5 ^ -3) & (2**64 - 1), "016x")
    assert checksum([]) == "0" * 16
