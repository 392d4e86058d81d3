"""Pass Spark's S3 credentials to Python: from Spark's S3 client to the environment variables that fsspec reads.

Credentials stay in memory and are never part of a cxrflow configuration. Spark passes the environment to its Python
workers with each task. Horovod's and TorchDistributor's workers are started by tasks, so they get it as well.
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
    """The environment variables for Hadoop's S3 client settings. ``setting`` returns a property's value or None."""
    found = {variable: setting(name) for name, variable in _LOGIN.items()}
    if not (found["AWS_ACCESS_KEY_ID"] and found["AWS_SECRET_ACCESS_KEY"]):
        found = {}  # a session token alone is useless
    found["AWS_DEFAULT_REGION"] = setting(_REGION)
    endpoint = setting(_ENDPOINT)
    if endpoint == "s3.amazonaws.com":  # Hadoop's default; clients derive the endpoint from the region
        endpoint = None
    if endpoint and "://" not in endpoint:
        endpoint = ("http://" if setting(_TLS) == "false" else "https://") + endpoint
    found["AWS_ENDPOINT_URL_S3"] = endpoint
    if endpoint and endpoint.startswith("http://"):
        found["AWS_ALLOW_HTTP"] = "true"  # the package deltalake needs it
    return {variable: value for variable, value in found.items() if value}


def share_credentials(spark: SparkSession) -> None:
    """Give Spark's current credentials to this process and to every Python worker that starts from now on.

    Settings in ``spark.executorEnv`` and in this process's own environment take precedence.
    """
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    found = environment(lambda name: hadoop.get(name))
    _update(found, spark.sparkContext.environment, _set_for_workers)
    _update(found, os.environ, _set_here)


def take_from_submit() -> None:
    """Give spark-submit's credentials to this process, before there is a session."""
    SparkContext._ensure_initialized()  # connects to spark-submit's JVM, which has read its flags and files
    conf = SparkConf()
    _update(environment(lambda name: conf.get(f"spark.hadoop.{name}")), os.environ, _set_here)


_OTHER_LOGINS = {
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
}
_set_for_workers: dict[str, str] = {}
_set_here: dict[str, str] = {}
"""The variables that this module set. It may replace them: tokens expire, and a notebook's session gets new ones."""


def _update(found: dict[str, str], target: MutableMapping[str, str], set_before: dict[str, str]) -> None:
    """Add ``found`` to ``target``, without replacing variables that the user set.

    A login is added completely or not at all, because a key and a secret of two logins do not work together.
    """
    users = {variable for variable, value in target.items() if set_before.get(variable) != value}
    if users & (set(_LOGIN.values()) | _OTHER_LOGINS):
        users |= set(_LOGIN.values())
    if "AWS_ENDPOINT_URL" in users:  # the endpoint for S3 alone would take precedence over it
        users.add("AWS_ENDPOINT_URL_S3")
    added = {variable: value for variable, value in found.items() if variable not in users}
    if added == set_before:
        return
    for variable in set_before.keys() - users - added.keys():
        target.pop(variable, None)
    target.update(added)
    set_before.clear()
    set_before.update(added)
    if "s3fs" in sys.modules:  # it caches clients together with their credentials
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
