"""What a Python worker takes, in a fresh Spark application, with files of 32 MB among small ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.spark

SCRIPT = """
import json, sys
from cxrflow.base.config import IngestConfig
from cxrflow.pipeline import ingest_job
from cxrflow.spark.image_folder import SparkFolder
from cxrflow.spark.session import open_session

spark, open_folder = open_session("memory"), ingest_job.open_folder
for images, table, way, memory in json.loads(sys.argv[1]):
    ingest_job.open_folder = SparkFolder if way == "spark" else open_folder  # the files come through the JVM
    config = IngestConfig(images=images, table=table, split="test", height=64, width=64, worker_memory=memory)
    print(json.dumps(ingest_job.ingest(spark, config)))
"""


@pytest.fixture(scope="module")
def large_and_small(tmp_path_factory):
    """12 TIFF files of 32 MB and 300 PNG files of 400 bytes."""
    folder = tmp_path_factory.mktemp("sizes") / "A"
    folder.mkdir()
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 2**16, (4000, 4000), np.uint16)
        Image.fromarray(noise).save(folder / f"large{number}.tif")
    for number in range(300):
        noise = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(noise).save(folder / f"small{number}.png")
    return folder.parent


@pytest.fixture(scope="module")
def one_large_image(tmp_path_factory):
    """A small file of 243 MB of pixels, beside a small image."""
    folder = tmp_path_factory.mktemp("large") / "A"
    folder.mkdir()
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).convert("RGB").save(folder / "large.png")
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(folder / "small.png")
    return folder.parent


@pytest.fixture(scope="module")
def results(large_and_small, one_large_image, tmp_path_factory):
    """Four ingests in one application, by name. A worker's memory counts from its start, so the largest is last."""
    runs = {
        "too large": (one_large_image, "direct", "256m"),
        "direct": (large_and_small, "direct", "768m"),
        "spark": (large_and_small, "spark", "768m"),
        "large enough": (one_large_image, "direct", "2g"),
    }
    folder = tmp_path_factory.mktemp("tables")
    jobs = [[str(images), str(folder / name), way, memory] for name, (images, way, memory) in runs.items()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYSPARK_SUBMIT_ARGS": "--master local[2] --driver-memory 1g pyspark-shell"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(runs, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("way", ["direct", "spark"])
def test_workers_stay_within_their_memory(results, way):
    result = results[way]
    assert (result["samples"], result["quarantined"]) == (312, 0)
    assert 50 << 20 < result["worker_memory"] < 768 << 20


def test_an_image_that_would_need_more_is_quarantined(results):
    assert (results["too large"]["samples"], results["too large"]["reasons"]) == (1, {"too_large": 1})
    assert results["large enough"]["samples"] == 2
