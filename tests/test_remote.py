"""Every job on a table and a run that lie on S3, over the protocol; and that no credential is left anywhere."""

import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cxrflow import lease, storage
from cxrflow.config import EvaluateConfig, IngestConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.errors import UserError
from cxrflow.manifest import read_manifest
from cxrflow.phantom import PATIENT_RULE
from cxrflow.spark.credentials import environment
from cxrflow.spark.evaluate import evaluate
from cxrflow.spark.ingest import ingest
from cxrflow.spark.predict import predict
from cxrflow.training.feed import Feed
from s3_server import KEY, SECRET, S3Server

TRAINING = {"epochs": 2, "batch_size": 4, "augment": "none"}


@pytest.fixture(scope="module")
def server():
    server = S3Server().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bucket(server):
    """An empty bucket that this process can reach; other processes have to be told how."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        fs, _ = storage.filesystem("s3://cxrflow")
        fs.mkdir("cxrflow")
        yield "s3://cxrflow"
        fs.clear_instance_cache()


@pytest.fixture(scope="module")
def remote_spark(spark, server):
    """The session, whose configuration alone tells executors how to reach the bucket."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    settings = {"fs.s3a.access.key": KEY, "fs.s3a.secret.key": SECRET, "fs.s3a.endpoint": server.url,
                "fs.s3a.endpoint.region": "us-east-1"}
    before, workers = {name: hadoop.get(name) for name in settings}, dict(spark.sparkContext.environment)
    for name, value in settings.items():
        hadoop.set(name, value)
    yield spark
    for name, value in before.items():
        hadoop.unset(name) if value is None else hadoop.set(name, value)
    spark.sparkContext.environment = workers


@pytest.fixture(scope="module")
def remote_table(remote_spark, bucket, phantoms):
    place = f"{bucket}/tables/one"
    ingest(remote_spark, IngestConfig(images=str(phantoms), table=place, height=48, width=40, shard_rows=6,
                                      patients=PATIENT_RULE))
    return place


def test_a_table_on_s3_is_the_one_that_is_made_on_a_disk(table, remote_table):
    here, there = read_manifest(str(table)), read_manifest(remote_table)
    assert {shard.path: shard.checksum for shard in there.shards} == {shard.path: shard.checksum for shard in here.shards}
    assert sorted(storage.files(remote_table, ".parquet")) == sorted(
        storage.join(remote_table, path) for path in [*(shard.path for shard in there.shards), *there.quarantine])
    assert not storage.exists(storage.join(remote_table, "_staging"))
    assert not storage.exists(storage.join(remote_table, lease.NAME))


def test_a_feed_from_s3_gives_the_batches_of_a_feed_from_a_disk(table, remote_table):
    feeds = [Feed(place, read_manifest(place), "train", rank=0, workers=1, batch_size=5, seed=1)
             for place in (str(table), remote_table)]
    for here, there in zip(*(feed.epoch(1) for feed in feeds), strict=True):
        assert here.sample_ids.tolist() == there.sample_ids.tolist()
        assert np.array_equal(here.pixels, there.pixels)


def test_a_shard_is_read_in_one_request(server, remote_table):
    manifest = read_manifest(remote_table)
    before = len(server.requests)
    samples = sum(len(batch.sample_ids) for batch in Feed(
        remote_table, manifest, "train", rank=0, workers=1, batch_size=5).epoch())
    shards = manifest.of_split("train")
    assert samples == sum(shard.rows for shard in shards)
    assert sorted(server.requests[before:]) == sorted(
        ("GET", "/" + storage.join(remote_table, shard.path).removeprefix("s3://")) for shard in shards)
