"""The driver's side of the preflight: one barrier stage whose tasks collect the facts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Timer

from pyspark.sql import SparkSession

from cxrflow.base import host_facts
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.manifest import Manifest
from cxrflow.distributed.connection import Listener
from cxrflow.launch import LAUNCHERS
from cxrflow.preflight.judge import judge, judge_gpu_amount, judge_slots, judge_stage_failure
from cxrflow.preflight.probe import ProbeRequest, to_json
from cxrflow.preflight.storage_probe import ProbeFile
from cxrflow.preflight.verdict import OK, Row, failed
from cxrflow.spark.session import free_slots, running_tasks, task_slots, wait_for_slots

JOB_GROUP = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
STAGE_SECONDS = 180.0
MAX_TASKS = 256
"""Tasks in the stage unless there are more workers. Each task pings all others."""


def check_workers(spark: SparkSession, config: TrainConfig, manifest: Manifest) -> list[Row]:
    """The rows of a preflight of distributed workers; only the row of the slots if there are too few.

    On a cluster the stage has a task for each free slot, because training may use any of them.
    """
    slots = _check_slots(spark, config)
    if slots.state != OK:
        return [slots]
    alone = len(running_tasks(spark)) == 1
    tasks = config.workers if alone else max(config.workers, min(free_slots(spark), MAX_TASKS))
    token = secrets.token_hex(8)
    file = ProbeFile(config.run, f"{token}-driver")
    try:
        file.write()
    except Exception as error:  # each file system has its own exceptions
        return [
            slots,
            failed(
                "run",
                f"{type(error).__name__}: {error} (on the driver)",
                "give the driver permission to write the run directory, or choose another folder with --run",
            ),
        ]
    else:
        return [slots, *_check_tasks(spark, config, manifest, token, tasks)]
    finally:
        with suppress(Exception):  # a file that could not be written often cannot be removed either
            file.remove()


def _check_tasks(spark: SparkSession, config: TrainConfig, manifest: Manifest, token: str, tasks: int) -> list[Row]:
    started = time.monotonic()
    try:
        facts = _collect_facts(spark, config, manifest, token, tasks)
    except Exception as error:  # Spark has many exceptions; their text says what happened
        return [judge_stage_failure(str(error), time.monotonic() - started)]
    driver = {
        "java": spark._jvm.System.getProperty("java.version"),
        **host_facts.versions(config.launcher, LAUNCHERS[config.launcher].backend),
    }
    return judge(config, manifest, driver, facts)


def _check_slots(spark: SparkSession, config: TrainConfig) -> Row:
    started = time.monotonic()
    conf, local = spark.sparkContext.getConf(), spark.sparkContext.master.startswith("local")
    # Local mode ignores dynamic allocation.
    dynamic = conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true" and not local
    if row := judge_gpu_amount(config, conf.get("spark.task.resource.gpu.amount", "0")):
        return row
    free = 0 if dynamic else wait_for_slots(spark, config.workers)
    return judge_slots(
        config.workers, task_slots(spark), free, local=local, dynamic=dynamic, seconds=time.monotonic() - started
    )


def _collect_facts(spark: SparkSession, config: TrainConfig, manifest: Manifest, token: str, tasks: int) -> list[dict]:
    """The facts of all tasks by rank. Raises Spark's exception if the stage fails or takes too long."""
    context = spark.sparkContext
    with Listener(spark.conf.get("spark.driver.host")) as listener:
        address = listener.address
        request = to_json(
            ProbeRequest(
                config=to_dict(config),
                backend=LAUNCHERS[config.launcher].backend,
                generation=manifest.generation,
                token=token,
                driver=(address.host, address.port, address.key.hex()),
                threads=int(spark.conf.get("spark.task.cpus", "1")),
            )
        )
        group = f"cxrflow preflight {token}"
        watchdog = Timer(STAGE_SECONDS, context.cancelJobGroup, [group])
        watchdog.daemon = True
        before = {name: context.getLocalProperty(name) for name in JOB_GROUP}  # those of a notebook
        context.setJobGroup(group, "cxrflow preflight", interruptOnCancel=True)
        watchdog.start()
        try:
            reports = context.range(tasks, numSlices=tasks).barrier().mapPartitions(_task(request)).collect()
        finally:
            watchdog.cancel()
            for name, value in before.items():
                context.setLocalProperty(name, value)
    return sorted(map(json.loads, reports), key=lambda facts: facts["rank"])


def _task(request_text: str) -> Callable:
    """The function of a task.

    It is nested so that Spark pickles it by value. Only when it runs does it import what its executor has installed.
    """

    def task(_):
        import json
        import os

        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
        rank = context.partitionId()
        try:
            from cxrflow.preflight.probe import TaskContext, from_json, probe

            request = from_json(request_text)
        except Exception as error:  # cxrflow is missing or too old; the other tasks still wait for this one
            for _ in range(2):
                context.allGather("")
            host = os.environ.get("SPARK_LOCAL_IP", hosts[rank])
            yield json.dumps({"rank": rank, "host": host, "broken": f"{type(error).__name__}: {error}"})
            return
        gpus = context.resources().get("gpu")
        addresses = tuple(gpus.addresses) if gpus else ()
        yield json.dumps(probe(request, TaskContext(rank, hosts, context.allGather, addresses)))

    return task
