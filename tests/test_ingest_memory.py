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

images, table, way, memory = sys.argv[1:]
if way == "spark":  # the files come through the JVM
    ingest_job.open_folder = SparkFolder
print(json.dumps(ingest_job.ingest(open_session("memory"), IngestConfig(
    images=images, table=table, split="test", height=64, width=64, worker_memory=memory))))
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


def run(images, table, way, memory):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(images), str(table), way, memory],
        capture_output=True,
        text=True,
        env={**os.environ, "PYSPARK_SUBMIT_ARGS": "--master local[2] --driver-memory 1g pyspark-shell"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["direct", "spark"])
def test_workers_stay_within_their_memory(large_and_small, tmp_path, way):
    result = run(large_and_small, tmp_path / "table", way, "768m")
    assert (result["samples"], result["quarantined"]) == (312, 0)
    assert 50 << 20 < result["worker_memory"] < 768 << 20


def test_an_image_that_would_need_more_is_quarantined(tmp_path):
    folder = tmp_path / "images" / "A"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).convert("RGB").save(
        folder / "large.png"
    )  # 243 MB of pixels, a small file
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(folder / "small.png")
    result = run(tmp_path / "images", tmp_path / "table", "direct", "256m")
    assert (result["samples"], result["reasons"]) == (1, {"too_large": 1})
    assert run(tmp_path / "images", tmp_path / "table", "direct", "2g")["samples"] == 2
