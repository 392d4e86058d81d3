"""Why Spark does not start, or scores nothing, in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.environment import java_number, supported_java
from cxrflow.base.errors import UserError
from cxrflow.base.keras_settings import installed_backend
from cxrflow.base.manifest import read_manifest
from cxrflow.pipeline import cli
from cxrflow.pipeline.train_job import check_train
from cxrflow.spark.start_errors import (
    check_before_start,
    check_java,
    explain_start,
    explain_task_failure,
    first_cause,
)
from synthetic_table import make_table


@pytest.mark.parametrize(
    ("text", "number"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_392"', 8), ("25", 25), ("MISSING", None)],
)
def test_the_number_of_a_java(text, number):
    assert java_number(text) == number


@pytest.mark.parametrize(("java", "spark"), [("17.0.15", "3.5.9"), ("1.8.0_392", "3.5.9"), ("21.0.1", "4.0.1")])
def test_a_java_that_spark_supports(java, spark):
    assert java_number(java) in supported_java(spark)
    check_java(java, spark)


@pytest.mark.parametrize(
    ("java", "spark", "words"),
    [
        ("25.0.2", "3.5.9", "JAVA_HOME: expected Java 8, 11, 17 for Spark 3.5.9, got Java 25; install"),
        ("11.0.2", "4.0.1", "expected Java 17, 21, 25 for Spark 4.0.1, got Java 11"),
        ("MISSING (no java)", "3.5.9", r"got MISSING \(no java\)"),
    ],
)
def test_a_java_that_spark_does_not_support(java, spark, words):
    with pytest.raises(UserError, match=words):
        check_java(java, spark)


def test_a_python_that_does_not_exist_is_refused_in_local_mode():
    environment = {"PYSPARK_PYTHON": "/no/such/python", "JAVA_HOME": os.environ.get("JAVA_HOME", "")}
    with pytest.raises(UserError, match="PYSPARK_PYTHON: expected a Python that can be run, got '/no/such/python'"):
        check_before_start("3.5.9", environment)
    # On a cluster, the path is one of the executors.
    check_before_start("3.5.9", {**environment, "PYSPARK_GATEWAY_PORT": "1"})
    text = 'java.io.IOException: Cannot run program "/no/such/python": error=2, No such file or directory'
    assert "got '/no/such/python'" in explain_task_failure(text) and explain_task_failure("other") is None


class JavaException:
    def __init__(self, text, cause=None):
        self.text, self.cause = text, cause

    def getCause(self):
        return self.cause

    def toString(self):
        return self.text


def test_the_first_cause_is_the_innermost():
    error = RuntimeError("py4j")
    error.java_exception = JavaException("outer", JavaException("java.net.UnknownHostException: a: b\n\tat x"))
    assert first_cause(error) == "java.net.UnknownHostException: a: b"
    assert first_cause(RuntimeError("one\n two")) == "one two" and first_cause(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("org.apache.spark.SparkException: Invalid Spark URL: spark://H@my_host:1", "expected a host name without _"),
        ("java.net.UnknownHostException: nohost: nohost: Name or service not known", "add 'my_host' to /etc/hosts"),
        ("java.net.BindException: Cannot assign requested address", "SPARK_LOCAL_IP"),
        ("[JAVA_GATEWAY_EXITED] Java gateway process exited", "expected Java to start"),
        ("java.lang.UnsupportedOperationException: getSubject is not supported", "Java that this Spark supports"),
        ("anything else", "Spark: expected a Spark session, got anything else; correct this"),
    ],
)
def test_what_a_cause_means(cause, words):
    sentence = explain_start(cause, "my_host")
    assert words in sentence and cause in sentence


def test_a_table_whose_path_has_a_hash_is_refused_by_every_job(tmp_path):
    table = tmp_path / "a#b"
    make_table(table)
    with pytest.raises(UserError, match="--table: expected a path without # and [?]"):
        read_manifest(str(table))
    with pytest.raises(UserError, match="--table: expected a path without # and [?]"):
        check_train(TrainConfig(table=str(table), run=str(tmp_path / "run")))


def test_a_missing_backend_is_replaced_by_the_other(monkeypatch):
    present = {"tensorflow", "torch"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in present else None)
    assert installed_backend("torch") == "torch"
    present.remove("torch")
    assert installed_backend("torch") == "tensorflow"
    present.clear()
    with pytest.raises(
        UserError, match=r'expected the package tensorflow-cpu or torch .* pip install "cxrflow\[torch\]", with which'
    ):
        installed_backend("torch")


def test_a_package_that_executors_lack_is_one_sentence():
    text = "PythonException: Traceback:\n  import keras\nModuleNotFoundError: No module named 'keras.layers'\n\tat org"
    assert explain_task_failure(text) == (
        'executors: expected the package keras, found none; pip install "cxrflow[train]" there'
    )
    assert explain_task_failure(text.replace("keras.", "mine.")) is None


def test_names_that_the_locale_cannot_show(monkeypatch):
    with pytest.raises(UnicodeEncodeError) as error:
        "caf\udce9".encode()
    assert "LC_ALL: expected a UTF-8 locale, got 'caf\\udce9'" in cli._explained(error.value)
    assert "set LC_ALL=C.UTF-8" in cli._explained(ValueError("Malformed input or input contains unmappable characters"))
    monkeypatch.setattr(sys, "argv", ["ingest.py", "--images", "/caf??"])
    monkeypatch.setenv("LC_ALL", "C")
    assert cli._locale_hint() == ""
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    assert "spark-submit replaces characters" in cli._locale_hint()
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert cli._locale_hint() == ""


@pytest.mark.spark
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PYSPARK_PYTHON": "/no/such/python"}, "PYSPARK_PYTHON: expected"),
        (
            {"PYSPARK_SUBMIT_ARGS": "--master local[1] --conf spark.driver.bindAddress=203.0.113.9 pyspark-shell"},
            "Spark: expected an address of this machine for the driver",
        ),
    ],
)
def test_a_job_that_cannot_start_spark_ends_with_one_sentence(phantoms, tmp_path, change, words):
    command = [sys.executable, "-m", "cxrflow", "ingest", "--images", phantoms, "--table", tmp_path / "table"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **change})
    assert done.returncode == 2 and f"error: {words}" in done.stderr
    assert "Traceback" not in done.stderr and "\tat " not in done.stderr
