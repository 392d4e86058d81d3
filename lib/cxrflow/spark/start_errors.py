"""Why Spark does not start, in one sentence: what is checked before, and what Java's first cause means."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Mapping

from cxrflow.base.environment import java_home, java_number, java_version, supported_java
from cxrflow.base.errors import UserError
from cxrflow.base.extras import missing_package


def check_before_start(spark_version: str, environment: Mapping[str, str]) -> None:
    """Raise UserError if Spark would not start, or could do nothing once it has.

    Args:
        spark_version: Of the installed PySpark.
        environment: The process's environment variables.
    """
    python = environment.get("PYSPARK_PYTHON")
    if python and _is_local(environment) and shutil.which(python) is None:
        raise UserError(
            f"PYSPARK_PYTHON: expected a Python that can be run, got {python!r}, which does not exist; unset it, or "
            "set it to this environment's bin/python"
        )
    if "PYSPARK_GATEWAY_PORT" not in environment:  # otherwise spark-submit has already started Java
        check_java(java_version(java_home() or environment.get("JAVA_HOME")), spark_version)


def check_java(version: str, spark_version: str) -> None:
    """Raise UserError unless this Spark supports a Java, of which ``version`` is the version or its version line."""
    number, supported = java_number(version), supported_java(spark_version)
    if number not in supported:
        found = f"Java {number}" if number else version
        raise UserError(
            f"JAVA_HOME: expected Java {', '.join(map(str, supported))} for Spark {spark_version}, got {found}; "
            "install one of these (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME to its folder"
        )


def _is_local(environment: Mapping[str, str]) -> bool:
    """Whether executors run in this process's Java, as far as the environment shows."""
    master = re.search(r"--master[ =](\S+)", environment.get("PYSPARK_SUBMIT_ARGS", ""))
    return "PYSPARK_GATEWAY_PORT" not in environment and (master is None or master[1].startswith("local"))


def first_cause(error: BaseException) -> str:
    """One line with the cause that Java names first, or with Python's error if Java is not involved."""
    cause = getattr(error, "java_exception", None)
    if cause is None:
        return " ".join(str(error).split()) or type(error).__name__
    while cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.toString()).splitlines()[0]


def explain_start(cause: str, host: str | None = None) -> str:
    """The sentence for a failed start of Spark. ``cause``: see ``first_cause``; ``host``: this machine's name."""
    host = socket.gethostname() if host is None else host
    local_ip = "set SPARK_LOCAL_IP (on one machine, to 127.0.0.1)"
    advice = "correct this, and run the same command again"
    expected = "a Spark session"
    if re.search("Invalid Spark URL|URI|hostname", cause) and "_" in cause:
        expected = "a host name without _, because Spark puts it into URLs"
        advice = f"rename the host {host!r}, or set SPARK_LOCAL_HOSTNAME (on one machine, to localhost)"
    elif "UnknownHostException" in cause:
        expected = "a host name that resolves to an address"
        advice = f"add {host!r} to /etc/hosts, or {local_ip}"
    elif re.search("BindException|assign requested address", cause):
        expected = "an address of this machine for the driver"
        advice = f"correct spark.driver.bindAddress and spark.driver.host, or {local_ip}"
    elif re.search("JAVA_GATEWAY_EXITED|Java gateway process exited", cause):
        expected = "Java to start"
        advice = "the lines above are Java's; check JAVA_HOME and PYSPARK_SUBMIT_ARGS"
    elif "getSubject is not supported" in cause or "UnsupportedClassVersionError" in cause:
        expected = "a Java that this Spark supports"
        advice = "set JAVA_HOME to a folder with Java 17"
    return f"Spark: expected {expected}, got {cause}; {advice}"


def explain_task_failure(text: str) -> str | None:
    """The sentence for a job that failed because executors lack Python or a package; None for any other failure."""
    module = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", text)
    if module and (error := missing_package("executors", module[1])):
        return f"{error} there"
    missing = re.search(r'Cannot run program "([^"]+)"', text)
    if missing is None:
        return None
    return (
        f"PYSPARK_PYTHON: expected a Python that every executor can run, got {missing[1]!r}, which they cannot; "
        "set it to a path that exists on every machine, or unset it"
    )
