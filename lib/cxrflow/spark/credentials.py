"""Spark's credentials for S3, for Python: what Spark's own client is configured with, in the environment variables that
fsspec, and everything else that speaks S3, reads.

They go from memory to memory and are never part of a configuration of ours. Spark hands the environment to its Python
workers with each task, so Horovod's and TorchDistributor's workers, which are started by tasks, have it as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, MutableMapping

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

_LOGIN = {
    "fs.s3a.access.key": "AWS_ACCESS_KEY_ID",
    "fs.s3a.secret.key": "AWS_SECRET_ACCESS_KEY",
    "fs.s3a.session.token": "AWS_SESSION_TOKEN",
}
_REGION = "fs.s3a.endpoint.region"
_ENDPOINT = "fs.s3a.endpoint"
_TLS = "fs.s3a.connection.ssl.enabled"


def environment(setting: Callable[[str], str | None]) -> dict[str, str]:
    """The environment variables for what Hadoop's S3 client is configured with; ``setting`` gives a property or None."""
    found = {variable: setting(name) for name, variable in _LOGIN.items()}
    if not (found["AWS_ACCESS_KEY_ID"] and found["AWS_SECRET_ACCESS_KEY"]):
        found = {}  # a session token is worth nothing on its own
    found["AWS_DEFAULT_REGION"] = setting(_REGION)
    endpoint = setting(_ENDPOINT)
    if endpoint == "s3.amazonaws.com":  # Hadoop's default; clients find their region's by themselves
        endpoint = None
    if endpoint and "://" not in endpoint:
        endpoint = ("http://" if setting(_TLS) == "false" else "https://") + endpoint
    found["AWS_ENDPOINT_URL_S3"] = endpoint
    if endpoint and endpoint.startswith("http://"):
        found["AWS_ALLOW_HTTP"] = "true"  # asked for by the package deltalake
    return {variable: value for variable, value in found.items() if value}


def share_credentials(spark: SparkSession) -> None:
    """Give Spark's credentials, as they are now, to this process and to every Python worker that is started from now on.

    What ``spark.executorEnv`` says is kept, and so is what this process has in its own environment.
    """
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    found = environment(lambda name: hadoop.get(name))
    _give(found, spark.sparkContext.environment, _workers_have)
    _give(found, os.environ, _this_has)


def take_from_submit() -> None:
    """Give spark-submit's credentials to this process, before there is a session."""
    SparkContext._ensure_initialized()  # connects to spark-submit's JVM, which has read its flags and files
    conf = SparkConf()
    _give(environment(lambda name: conf.get(f"spark.hadoop.{name}")), os.environ, _this_has)


_OTHER_LOGINS = {
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
}
_workers_have: dict[str, str] = {}
_this_has: dict[str, str] = {}
"""What was given by us, and may be replaced: tokens end, and a notebook's session is given new ones."""


def _give(found: dict[str, str], there: MutableMapping[str, str], ours: dict[str, str]) -> None:
    """Put into ``there`` what it lacks; of a login all or nothing, since a key of one and a secret of another open
    nothing."""
    theirs = {variable for variable, value in there.items() if ours.get(variable) != value}
    if theirs & (set(_LOGIN.values()) | _OTHER_LOGINS):
        theirs |= set(_LOGIN.values())
    if "AWS_ENDPOINT_URL" in theirs:  # ours, of S3 alone, would outrank it
        theirs.add("AWS_ENDPOINT_URL_S3")
    given = {variable: value for variable, value in found.items() if variable not in theirs}
    if given == ours:
        return
    for variable in ours.keys() - theirs - given.keys():
        there.pop(variable, None)
    there.update(given)
    ours.clear()
    ours.update(given)
    if "s3fs" in sys.modules:  # it keeps its clients, with the credentials they were made with
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
