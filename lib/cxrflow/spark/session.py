"""The Spark session of a job, and what it can run at once."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession

from cxrflow.base.environment import java_home

log = logging.getLogger(__name__)

SAY_SECONDS = 2.0
"""Of silence, before a person is told what is waited for."""


SETTINGS = {
    # Spark tells executors what they need no more, and would wait two minutes for the answer of one that is cut off: the
    # JVM ends no sooner.
    "spark.cleaner.referenceTracking.blocking": "false",
    # Executors get what is broadcast from each other. Of two that cannot talk, one would wait two minutes for each piece
    # before it asks elsewhere, and the preflight, which names such pairs, would not begin.
    "spark.shuffle.io.connectionCreationTimeout": "5s",
}


def open_session(app_name: str) -> SparkSession:
    """The running session if there is one, otherwise a new one; local mode where no master is set."""
    # Executors take the system's Python unless told otherwise.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    home = java_home()
    if home:
        os.environ["JAVA_HOME"] = home
    spark = SparkSession.builder.appName(app_name).config(map=SETTINGS).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


@contextmanager
def job_session(app_name: str) -> Iterator[SparkSession]:
    """The session of a job that is a process of its own. It is left open: a platform may own it."""
    spark = open_session(app_name)
    try:
        yield spark
    finally:
        _cancel_barrier_timer(spark)


def _cancel_barrier_timer(spark: SparkSession) -> None:
    """Let the JVM end after a barrier stage, such as TorchDistributor's.

    Spark 3 keeps a timer for barrier() on a thread that is no daemon. In local mode it lives in the driver's JVM, and
    spark-submit would never return. Spark 4 has another timer, so this can go with Spark 3.
    """
    if spark.version.startswith("3.") and spark.sparkContext.master.startswith("local"):
        barrier = (
            spark._jvm.java.lang.Class.forName("org.apache.spark.BarrierTaskContext$").getField("MODULE$").get(None)
        )
        getattr(barrier, "org$apache$spark$BarrierTaskContext$$timer")().cancel()


@contextmanager
def cached(frame: DataFrame) -> Iterator[DataFrame]:
    """Keep what is computed of the frame for the length of a block. Left for longer, Spark would hand it to every later
    frame of the same plan, also after the files below have changed."""
    frame.cache()
    try:
        yield frame
    finally:
        frame.unpersist()


def task_slots(spark: SparkSession) -> int:
    """Tasks that can run at once on the executors that are there now."""
    context = spark.sparkContext._jsc.sc()
    profile = context.resourceProfileManager().defaultResourceProfile()
    return context.maxNumConcurrentTasks(profile)


def registered_slots(spark: SparkSession) -> int:
    """Task slots, once the executors of a cluster have registered: Spark holds the first job of an application back
    until spark.scheduler.minRegisteredResourcesRatio of them are there, so one without work is run."""
    if not spark.sparkContext.master.startswith("local"):
        spark.sparkContext.parallelize([0], 1).count()
    return max(1, task_slots(spark))


def running_tasks(spark: SparkSession, excluded: frozenset[str] = frozenset()) -> list[int]:
    """How many tasks of this application each executor runs now, without those ``excluded``; in local mode the driver is
    the one executor."""
    # The scheduler's own count: what Spark's status tracker says may be a second old.
    counts = spark.sparkContext._jsc.sc().taskScheduler().runningTasksByExecutors().mkString(",")
    found = (entry.split(" -> ") for entry in counts.split(",") if entry)
    return [int(count) for executor, count in found if executor not in excluded]


def free_slots(spark: SparkSession, excluded: frozenset[str] = frozenset()) -> int:
    """Task slots that no task of this application takes now."""
    return max(0, task_slots(spark) - sum(running_tasks(spark, excluded)))


def wait_for_slots(
    spark: SparkSession, wanted: int, seconds: float = 20.0, excluded: frozenset[str] = frozenset()
) -> int:
    """The number of free task slots, as soon as ``wanted`` are there or ``seconds`` have passed.

    The executors of a cluster register one after the other while the driver already runs, and other jobs of the
    application may end. In local mode, more slots than there are will never come. ``excluded``: see ``exclude_host_of``.
    """
    deadline = time.monotonic() + seconds
    said = time.monotonic() + SAY_SECONDS
    is_local = spark.sparkContext.master.startswith("local")
    while (free := free_slots(spark, excluded)) < wanted and time.monotonic() < deadline:
        if is_local and task_slots(spark) < wanted:
            break
        if time.monotonic() > said:
            log.info("waiting for task slots: %d of %d are free (up to %.0f s)", free, wanted, seconds)
            said = deadline
        time.sleep(0.2)
    return free


def exclude_host_of(spark: SparkSession, executor: str | None) -> frozenset[str]:
    """Have Spark use no more the executors on the machine of that one, which is cut off; returns their ids.

    Spark would hold them for alive until spark.network.timeout (two minutes) has passed, and start tasks there.
    """
    context = spark.sparkContext._jsc.sc()
    known = context.statusStore().executorList(True)
    hosts = {known.apply(n).id(): known.apply(n).hostPort().rpartition(":")[0] for n in range(known.size())}
    here = frozenset(name for name, host in hosts.items() if host == hosts.get(executor) and name != "driver")
    for name in here:
        context.killAndReplaceExecutor(name)
    return here


@contextmanager
def settings(spark: SparkSession, values: dict[str, object]) -> Iterator[None]:
    """Session settings for the length of a block; a notebook's session gets its own back afterwards."""
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
