"""Every job with its table and run on S3, over the real protocol. No job writes or prints a credential."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrflow.base import lease, storage
from cxrflow.base.config import EvaluateConfig, IngestConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.catalog.delta_log import check_unchanged
from cxrflow.images.phantoms import PATIENT_RULE
from cxrflow.pipeline.evaluate_job import evaluate
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.pipeline.predict_job import predict
from cxrflow.pipeline.train_job import train
from cxrflow.report.page import write_report
from cxrflow.spark.credentials import _update, environment
from cxrflow.training.feed import Feed
from cxrflow.training.shard_source import find_fetch
from s3_server import KEY, SECRET, S3Server

pytestmark = pytest.mark.spark

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--epochs", "1", "--model", "plain", "--batch-size", "8", "--tta", "1"]
TRAINING = {"epochs": 2, "batch_size": 4, "augment": "none", "model": "plain"}


@pytest.fixture(scope="module")
def server():
    server = S3Server().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bucket(server):
    """The URL of an empty bucket. This process has the settings to reach it, other processes do not."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        fs, _ = storage.filesystem("s3://cxrflow")
        fs.mkdir("cxrflow")
        yield "s3://cxrflow"
        fs.clear_instance_cache()


@pytest.fixture(scope="module")
def remote_spark(spark, server):
    """The session. Executors get the bucket's settings from its configuration only."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    settings = {
        "fs.s3a.access.key": KEY,
        "fs.s3a.secret.key": SECRET,
        "fs.s3a.endpoint": server.url,
        "fs.s3a.endpoint.region": "us-east-1",
    }
    before, workers = {name: hadoop.get(name) for name in settings}, dict(spark.sparkContext.environment)
    for name, value in settings.items():
        hadoop.set(name, value)
    yield spark
    for name, value in before.items():
        hadoop.unset(name) if value is None else hadoop.set(name, value)
    spark.sparkContext.environment = workers


@pytest.fixture(scope="module")
def remote_table(remote_spark, bucket, phantoms):
    url = f"{bucket}/tables/one"
    ingest(
        remote_spark,
        IngestConfig(
            images=str(phantoms),
            table=url,
            height=48,
            width=40,
            shard_rows=6,
            split="0.6,0.2,0.2",
            patients=PATIENT_RULE,
        ),
    )
    return url


def test_a_table_on_s3_equals_the_one_on_a_local_disk(table, remote_table):
    here, there = read_manifest(str(table)), read_manifest(remote_table)
    assert {shard.path: shard.checksum for shard in there.shards} == {
        shard.path: shard.checksum for shard in here.shards
    }
    assert sorted(storage.files(remote_table, ".parquet")) == sorted(
        storage.join(remote_table, path) for path in [*(shard.path for shard in there.shards), *there.quarantine]
    )
    assert not storage.exists(storage.join(remote_table, "_staging"))
    assert not storage.exists(storage.join(remote_table, lease.NAME))


@pytest.mark.usefixtures("reader")
def test_a_feed_from_s3_gives_the_same_batches_as_from_a_local_disk(table, remote_table):
    feeds = [
        Feed(url, read_manifest(url), "train", rank=0, workers=1, batch_size=5, seed=1)
        for url in (str(table), remote_table)
    ]
    for here, there in zip(*(feed.epoch(1) for feed in feeds), strict=True):
        assert here.sample_ids.tolist() == there.sample_ids.tolist()
        assert np.array_equal(here.pixels, there.pixels)


@pytest.mark.usefixtures("reader")
def test_a_shard_is_read_in_one_request(server, remote_table):
    feed = Feed(remote_table, read_manifest(remote_table), "train", rank=0, workers=1, batch_size=5)
    before = len(server.requests)
    assert sum(len(batch.sample_ids) for batch in feed.epoch()) == feed.plan().samples
    assert sorted(server.requests[before:]) == sorted(
        ("GET", "/" + storage.join(remote_table, feed.shards[shard].path).removeprefix("s3://"))
        for shard in feed.plan().schedule(0).shards
    )


@pytest.mark.usefixtures("reader")
def test_the_second_epoch_reads_nothing_that_is_in_the_cache(server, remote_table, tmp_path):
    manifest = read_manifest(remote_table)
    fetch = find_fetch(TrainConfig(table=remote_table, run="r", cache=str(tmp_path)), manifest)
    feed = Feed(remote_table, manifest, "train", rank=0, workers=1, batch_size=5, fetch=fetch)
    fed, requests = [], []
    for epoch in range(2):
        before = len(server.requests)
        fed.append(sorted(sample for batch in feed.epoch(epoch) for sample in batch.sample_ids.tolist()))
        requests.append(len(server.requests) - before)
    assert requests[0] >= len(feed.shards) and requests[1] == 0
    assert fed[0] == fed[1]


def test_a_feed_from_s3_keeps_to_its_memory(bucket):
    """As from a disk. The process writes a table of 150 MB to S3 and feeds it eight times."""
    figures = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "feed_process.py"), f"{bucket}/memory"],
        check=True,
        capture_output=True,
        text=True,
    )
    before, first, last, budget = map(int, figures.stdout.split())
    assert last - before < budget and last - first < budget // 8, figures.stdout
    storage.remove(f"{bucket}/memory")


@pytest.fixture(scope="module")
def spark_conf(server, tmp_path_factory):
    """A configuration file for spark-submit with the credentials, which are nowhere else."""
    settings = {"fs.s3a.access.key": KEY, "fs.s3a.secret.key": SECRET, "fs.s3a.endpoint": server.url}
    path = tmp_path_factory.mktemp("conf") / "spark.conf"
    path.write_text("".join(f"spark.hadoop.{name} {value}\n" for name, value in settings.items()))
    return path


@pytest.fixture(scope="module")
def trained(spark_conf, remote_table, bucket, tmp_path_factory):
    """(run, cache folder, result) of two workers of a job by spark-submit."""
    run, cache = f"{bucket}/runs/trained", tmp_path_factory.mktemp("cache")
    flags = [part for name, value in TRAINING.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = train_by_spark_submit(spark_conf, remote_table, run, "horovod", "--cache", str(cache), *flags)
    return run, cache, result


def test_two_workers_train_from_s3_to_s3(trained, remote_table):
    run, cache, result = trained
    names = {url.removeprefix(run + "/") for url in storage.files(run, "")}
    assert {"config.json", "history.json", "model.keras"} <= names
    assert result["workers"] == 2 and result["epochs"] == 2 and result["run"] == run
    manifest = read_manifest(remote_table)
    copies = list((cache / "cxrflow").glob("*.shard"))
    assert len(copies) == len(manifest.of_split("train")) + len(manifest.of_split("val"))


def test_a_run_on_s3_resumes(trained, remote_table):
    run, _, _ = trained
    result = train(
        None, TrainConfig(table=remote_table, run=run, **TRAINING)
    )  # finished before, so there is nothing to do
    assert result["epochs"] == 2


def test_the_other_jobs_accept_a_run_on_s3(trained, remote_spark, remote_table, bucket, phantoms):
    run, _, _ = trained
    judged = evaluate(remote_spark, EvaluateConfig(run=run, table=remote_table, bootstrap=50))
    assert judged["n"] == sum(shard.rows for shard in read_manifest(remote_table).of_split("test"))
    predictions = f"{bucket}/predictions"
    for _ in range(2):
        result = predict(
            remote_spark, PredictConfig(run=run, images=str(phantoms), predictions=predictions, if_exists="overwrite")
        )
    rows = pd.concat(
        [pd.read_parquet(io.BytesIO(storage.read_bytes(file))) for file in storage.files(predictions, ".parquet")]
    )
    assert (
        len(rows) == result["files"] == rows["path"].nunique() and result["scored"] == rows["predicted_label"].count()
    )
    assert storage.files(f"{predictions}/_staging", "") == []
    page = write_report(ReportConfig(run=run, predictions=predictions))
    assert b"<html" in storage.read_bytes(page["report"])


def all_bytes_below(url):
    return b"".join(storage.read_bytes(file) for file in storage.files(url, ""))


def test_no_job_writes_a_secret(trained, remote_table):
    run, cache, result = trained
    secret = SECRET.encode()
    assert secret not in all_bytes_below(run) + all_bytes_below(remote_table)
    assert not [file for file in cache.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert SECRET not in json.dumps(result)


def submit(arguments, *command, **environment):
    """Run a job as its own process. It has only the S3 settings in the command or in ``environment``."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [*command, *arguments], env={**base, **environment}, capture_output=True, text=True, timeout=200, check=False
    )


def train_by_spark_submit(conf, table, run, launcher, *flags):
    """Train with two workers and return the result.

    Only Spark's configuration has the credentials. The job must also end: after a barrier stage, Spark 3 leaves a
    thread behind that once kept the driver's JVM alive, and so spark-submit.
    """
    done = submit(
        ["--table", table, "--run", run, "--launcher", launcher, "--workers", "2", *flags],
        str(Path(os.environ["SPARK_HOME"]) / "bin" / "spark-submit"),
        "--master",
        "local[2]",
        "--properties-file",
        str(conf),
        str(ROOT / "jobs" / "train.py"),
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_job_gets_its_credentials_from_spark_submit_and_prints_none(spark_conf, remote_table, bucket):
    """With torch; ``trained`` does the same with horovod."""
    run, flags = f"{bucket}/runs/submitted", ["--epochs", "1", "--model", "plain", "--batch-size", "8", "--tta", "1"]
    assert train_by_spark_submit(spark_conf, remote_table, run, "torch", *flags)["run"] == run
    assert SECRET.encode() not in all_bytes_below(run)


def test_a_job_that_fails_prints_no_secret(server, remote_table, bucket):
    done = submit(
        ["--table", f"{bucket}/nothing", "--run", f"{bucket}/runs/none"],
        sys.executable,
        str(ROOT / "jobs" / "train.py"),
        **server.environment(),
    )
    assert done.returncode == 2 and "found no manifest.json in 's3://cxrflow/nothing'" in done.stderr
    done = submit(
        ["--table", remote_table, "--run", f"{bucket}/runs/none"],
        sys.executable,
        str(ROOT / "jobs" / "train.py"),
        **{**server.environment(), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
        AWS_MAX_ATTEMPTS="1",
    )
    assert done.returncode == 1 and SECRET not in done.stdout + done.stderr


def test_a_job_without_credentials_asks_for_them(server, remote_table):
    done = submit(
        ["--table", remote_table, "--run", "unused"],
        sys.executable,
        str(ROOT / "jobs" / "train.py"),
        AWS_ENDPOINT_URL_S3=server.url,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: S3: expected credentials, found none")


def test_a_url_with_a_secret_is_refused_without_repeating_it():
    for url in (f"s3://{KEY}:{SECRET}@bucket/table", "hdfs://me:hunter2@host/table"):
        for make in (
            lambda url: TrainConfig(table=url, run="r"),
            lambda url: IngestConfig(images="i", table=url),
            lambda url: EvaluateConfig(run="r", table=url),
            lambda url: PredictConfig(run="r", images="i", predictions=url),
            lambda url: ReportConfig(run=url),
        ):
            with pytest.raises(UserError, match="expected a URL without credentials") as error:
                make(url)
            assert SECRET not in str(error.value) and "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["s3://bucket/a:b@c", "hdfs://host:8020/x@y", "abfss://box@account.dfs.core.windows.net/x"]
)
def test_other_urls_with_an_at_sign_are_accepted(url):
    assert TrainConfig(table=url, run="r").table == url


def test_one_of_many_writers_creates_a_file_on_s3(bucket):
    """The lease needs this. S3 has a conditional put, so only one of several simultaneous writers succeeds."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: storage.create(f"{bucket}/lease/_lease.json", b"%d" % n), range(8)))
    assert sum(made) == 1
    assert storage.read_bytes(f"{bucket}/lease/_lease.json") == b"%d" % made.index(True)


def test_the_second_writer_of_a_table_on_s3_is_refused(bucket):
    with lease.hold(f"{bucket}/held", "--table") as first:
        with pytest.raises(UserError, match="is writing to it"), lease.hold(f"{bucket}/held", "--table"):
            pass
        first.check()
    assert not storage.exists(f"{bucket}/held")


def test_a_delta_table_on_s3(remote_spark, bucket, phantoms):
    """The package deltalake has an S3 client of its own, which reads the same variables."""
    from deltalake import DeltaTable

    config = IngestConfig(
        images=str(phantoms), table=f"{bucket}/tables/delta", height=24, width=20, patients=PATIENT_RULE, delta=True
    )
    result = ingest(remote_spark, config)
    check_unchanged(config.table, read_manifest(config.table))
    assert len(DeltaTable(f"{config.table}/samples").file_uris()) == result["shards"]
    assert ingest(remote_spark, config)["added"] == 0


def test_labels_are_read_if_spark_has_no_client_for_the_table(remote_spark, bucket, phantoms, tmp_path):
    paths = sorted(phantoms.rglob("*.jp*g"))
    pd.DataFrame({"path": paths, "label": ["B" if n % 3 else "A" for n in range(len(paths))]}).astype(str).to_csv(
        tmp_path / "labels.csv", index=False
    )
    result = ingest(
        remote_spark,
        IngestConfig(
            images=str(phantoms),
            table=f"{bucket}/tables/labelled",
            height=24,
            width=20,
            labels=str(tmp_path / "labels.csv"),
            patients=PATIENT_RULE,
        ),
    )
    assert set(read_manifest(f"{bucket}/tables/labelled").labels) == {"A", "B"} and result["samples"] > 40


def test_images_that_spark_cannot_reach_are_explained(remote_spark, bucket, tmp_path):
    with pytest.raises(UserError, match="--images: expected a folder that Spark can read.*hadoop-aws"):
        ingest(remote_spark, IngestConfig(images=f"{bucket}/images", table=str(tmp_path / "table")))


def test_a_missing_bucket_is_not_created(bucket):
    with pytest.raises(FileNotFoundError):
        storage.write_bytes("s3://misspelt/a", b"")


def test_hadoop_settings_become_the_variables_that_python_reads():
    given = {
        "fs.s3a.access.key": "k",
        "fs.s3a.secret.key": "s",
        "fs.s3a.session.token": "t",
        "fs.s3a.endpoint": "store:9000",
        "fs.s3a.connection.ssl.enabled": "false",
        "fs.s3a.endpoint.region": "eu-west-1",
    }
    assert environment(given.get) == {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_S3": "http://store:9000",
        "AWS_ALLOW_HTTP": "true",
    }
    assert environment({"fs.s3a.endpoint": "s3.amazonaws.com", "fs.s3a.session.token": "t"}.get) == {}


def test_renewed_spark_credentials_replace_old_ones_but_not_other_variables():
    there, ours = {"OTHER": "1"}, {}
    _update({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}, there, ours)
    _update({"AWS_ACCESS_KEY_ID": "d", "AWS_SECRET_ACCESS_KEY": "e"}, there, ours)
    assert there == {"OTHER": "1", "AWS_ACCESS_KEY_ID": "d", "AWS_SECRET_ACCESS_KEY": "e"}
    theirs = {"AWS_ACCESS_KEY_ID": "mine"}
    _update({"AWS_ACCESS_KEY_ID": "d", "AWS_SECRET_ACCESS_KEY": "e", "AWS_DEFAULT_REGION": "r"}, theirs, {})
    assert theirs == {"AWS_ACCESS_KEY_ID": "mine", "AWS_DEFAULT_REGION": "r"}
