"""The Spark session of a job, and its task slots."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyspark
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession

from cxrflow.base import console
from cxrflow.base.environment import java_home
from cxrflow.base.errors import UserError
from cxrflow.spark.own_settings import read_timeouts
from cxrflow.spark.start_errors import check_before_start, check_java, explain_start, first_cause

log = logging.getLogger(__name__)

T = TypeVar("T")

LOG_AFTER_SECONDS = 2.0
"""Time without progress before a log line says what the job waits for."""


CONF_FOLDER = Path(__file__).with_name("conf")
"""spark-defaults.conf and log4j2.properties."""
SETTINGS = {
    # When Spark frees data on executors, it waits for their answers. An executor that lost its connection would delay
    # the end of the JVM by two minutes.
    "spark.cleaner.referenceTracking.blocking": "false",
    # Executors fetch broadcasts from each other. Between two that cannot connect, each block would wait two minutes
    # before it is fetched elsewhere, and the preflight that reports such pairs could not start.
    "spark.shuffle.io.connectionCreationTimeout": "5s",
}


def open_session(app_name: str) -> SparkSession:
    """The running session, or a new one; local mode if no master is set.

    Raises UserError with Java's first cause if Spark does not start.
    """
    # Without this variable, executors use the system's Python.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    home = java_home()
    if home:
        os.environ["JAVA_HOME"] = home
    if "SPARK_HOME" not in os.environ and CONF_FOLDER.is_dir():  # Spark from pip has no settings of its own
        os.environ.setdefault("SPARK_CONF_DIR", str(CONF_FOLDER))
    settings = {**SETTINGS, "spark.ui.showConsoleProgress": str(console.in_terminal()).lower()}
    is_running = SparkContext._active_spark_context is not None
    if not is_running:
        check_before_start(pyspark.__version__, os.environ)
    try:
        spark = SparkSession.builder.appName(app_name).config(map=settings).getOrCreate()
    except Exception as error:  # Java's, Py4J's or Spark's, of any kind
        raise UserError(explain_start(first_cause(error))) from error
    if not is_running:
        assert spark._jvm is not None
        check_java(spark._jvm.java.lang.System.getProperty("java.version"), spark.version)
    spark.sparkContext.setLogLevel("ERROR")
    return spark


@contextmanager
def job_session(app_name: str) -> Iterator[SparkSession]:
    """The session of a job that runs in its own process. It stays open, because a platform may own it."""
    spark = open_session(app_name)
    read_timeouts(spark)  # refuses a misspelled name in every job, before it begins
    try:
        yield spark
    finally:
        _cancel_barrier_timer(spark)


def _cancel_barrier_timer(spark: SparkSession) -> None:
    """Let the JVM end after a barrier stage, such as TorchDistributor's.

    Spark 3 runs a timer for barrier() on a non-daemon thread. In local mode this thread is in the driver's JVM, and
    spark-submit would never return. Spark 4 uses another timer, so remove this function together with Spark 3.
    """
    if spark.version.startswith("3.") and spark.sparkContext.master.startswith("local"):
        barrier = (
            spark._jvm.java.lang.Class.forName("org.apache.spark.BarrierTaskContext$").getField("MODULE$").get(None)
        )
        getattr(barrier, "org$apache$spark$BarrierTaskContext$$timer")().cancel()


@contextmanager
def cached(frame: DataFrame) -> Iterator[DataFrame]:
    """Cache the frame for the length of a block.

    A cache that lasts longer would also serve later frames with the same plan, even after the files have changed.
    """
    frame.cache()
    try:
        yield frame
    finally:
        frame.unpersist()


def task_slots(spark: SparkSession) -> int:
    """Number of tasks that the registered executors can run at the same time."""
    context = spark.sparkContext._jsc.sc()
    profile = context.resourceProfileManager().defaultResourceProfile()
    return context.maxNumConcurrentTasks(profile)


def registered_slots(spark: SparkSession) -> int:
    """Task slots, after the executors of a cluster have registered.

    This runs an empty job, because Spark delays the first job of an application until the share
    spark.scheduler.minRegisteredResourcesRatio of the executors has registered.
    """
    if not spark.sparkContext.master.startswith("local"):
        spark.sparkContext.parallelize([0], 1).count()
    return max(1, task_slots(spark))


def running_tasks(spark: SparkSession, excluded: frozenset[str] = frozenset()) -> list[int]:
    """Number of running tasks of this application on each executor that is not ``excluded``.

    In local mode the driver is the only executor.
    """
    # This is the scheduler's own count; the one of Spark's status tracker may be a second old.
    counts = spark.sparkContext._jsc.sc().taskScheduler().runningTasksByExecutors().mkString(",")
    found = (entry.split(" -> ") for entry in counts.split(",") if entry)
    return [int(count) for executor, count in found if executor not in excluded]


def free_slots(spark: SparkSession, excluded: frozenset[str] = frozenset()) -> int:
    """Task slots that no task of this application occupies."""
    return max(0, task_slots(spark) - sum(running_tasks(spark, excluded)))


def wait_for_slots(
    spark: SparkSession, needed: int, seconds: float = 20.0, excluded: frozenset[str] = frozenset()
) -> int:
    """Wait until ``needed`` task slots are free or ``seconds`` have passed; returns the number of free slots.

    Executors of a cluster register one after the other while the driver already runs, and other jobs of the application
    may end. In local mode no slots can be added. ``excluded`` are the executors that ``exclude_host_of`` returned.
    """
    deadline = time.monotonic() + seconds
    log_at = time.monotonic() + LOG_AFTER_SECONDS
    is_local = spark.sparkContext.master.startswith("local")
    while (free := free_slots(spark, excluded)) < needed and time.monotonic() < deadline:
        if is_local and task_slots(spark) < needed:
            break
        if time.monotonic() > log_at:
            log.info("waiting for task slots: %d of %d are free (up to %.0f s)", free, needed, seconds)
            log_at = deadline
        time.sleep(0.2)
    return free


def exclude_host_of(spark: SparkSession, executor: str | None) -> frozenset[str]:
    """Make Spark stop using all executors on the machine of ``executor``, which is unreachable; returns their ids.

    Otherwise Spark would start tasks there until spark.network.timeout (two minutes) has passed.
    """
    context = spark.sparkContext._jsc.sc()
    executors = context.statusStore().executorList(True)
    found = [executors.apply(index) for index in range(executors.size())]
    hosts = {entry.id(): entry.hostPort().rpartition(":")[0] for entry in found}
    excluded = frozenset(name for name, host in hosts.items() if host == hosts.get(executor) and name != "driver")
    for name in excluded:
        context.killAndReplaceExecutor(name)
    return excluded


@contextmanager
def settings(spark: SparkSession, values: dict[str, object]) -> Iterator[None]:
    """Change session settings for the length of a block, and restore them afterwards."""
    before = {key: spark.conf.get(key, None) for key in values}
    try:
        for key, value in values.items():
            spark.conf.set(key, str(value))
        yield
    finally:
        for key, value in before.items():
            if value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, value)


def run_on_executor(spark: SparkSession, function: Callable[[], T]) -> T:
    """The result of ``function`` in a single task. A UserError that it raises is raised here, without a stack trace."""

    def run(_: int) -> tuple[T | None, str]:
        try:
            return function(), ""
        except UserError as error:
            return None, str(error)

    result, error = spark.sparkContext.parallelize([0], 1).map(run).collect()[0]
    if error:
        raise UserError(error)
    return result
