"""The cost model's formulas, compared with a ring all-reduce that is simulated message by message."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from cost_model import predict, ring_seconds, straggler_seconds


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_simulated_ring_takes_as_long_as_the_formula_says(workers):
    """Each worker ends with the sum of all chunks. A round lasts as long as one message: they are sent in parallel."""
    size, bandwidth, latency = 24e6, 1.25e8, 5e-5
    chunks = [[float(worker == chunk) + worker for chunk in range(workers)] for worker in range(workers)]
    total, seconds = [sum(column) for column in zip(*chunks, strict=True)], 0.0
    for adds in (True, False):
        for turn in range(workers - 1):
            sent = [(worker, (worker - turn + (not adds)) % workers) for worker in range(workers)]
            values = [chunks[worker][chunk] for worker, chunk in sent]
            for (worker, chunk), value in zip(sent, values, strict=True):
                there = chunks[(worker + 1) % workers]
                there[chunk] = there[chunk] + value if adds else value
            seconds += latency + size / workers / bandwidth
    assert all(found == pytest.approx(total) for found in chunks)
    assert sum(ring_seconds(workers, size, bandwidth, latency)) == pytest.approx(seconds)


def test_the_parts_of_a_step():
    assert predict(1, 0.2, 5e6, 10, 5e-5, 0.02).efficiency() == 1.0
    step = predict(512, 0.2, 5e6, 1, 5e-5, 0.02)
    assert (step.bandwidth, step.latency) == pytest.approx((0.08 * 511 / 512, 0.0511))  # 40 Mbit, twice, over 1 Gbit/s
    assert step.limit() == "bandwidth" and predict(512, 0.2, 5e6, 100, 5e-5, 0.02).limit() == "latency"
    assert predict(8, 0.2, 5e4, 100, 1e-7, 0.02).limit() == "stragglers"
    hidden = predict(512, 0.2, 5e6, 1, 5e-5, 0.0)
    assert hidden.efficiency(2 / 3) == 1.0 > hidden.efficiency() > step.efficiency()
    assert straggler_seconds(2, 1.0, 0.1) < straggler_seconds(512, 1.0, 0.1) < 0.4
