"""The driver's side of the preflight: one barrier stage whose tasks gather the facts."""

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
from cxrflow.preflight import storage_probe
from cxrflow.preflight.judge import judge, judge_gpu_amount, judge_slots, judge_stage_failure
from cxrflow.preflight.probe import ProbeRequest, to_json
from cxrflow.preflight.verdict import OK, Row, failed
from cxrflow.spark.session import free_slots, running_tasks, task_slots, wait_for_slots

JOB_GROUP = ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel")
STAGE_SECONDS = 180.0
MOST_TASKS = 256
"""Tasks in the stage, if there are not more workers: all ping at each other's doors."""


def check_workers(spark: SparkSession, config: TrainConfig, manifest: Manifest) -> list[Row]:
    """The rows of a preflight of distributed workers; of too few slots there is that row alone.

    The stage has as many tasks as there are free slots on a cluster: training's may come to lie on any of them.
    """
    slots = _check_slots(spark, config)
    if slots.state != OK:
        return [slots]
    alone = len(running_tasks(spark)) == 1
    tasks = config.workers if alone else max(config.workers, min(free_slots(spark), MOST_TASKS))
    word = secrets.token_hex(8)
    mark = storage_probe.ProbeFile(config.run, f"{word}-driver")
    try:
        mark.write()
    except Exception as error:  # each kind of file system has its own
        return [
            slots,
            failed(
                "run",
                f"{type(error).__name__}: {error} (on the driver)",
                "the driver must be allowed to write the run directory: name another folder with --run",
            ),
        ]
    else:
        return [slots, *_check_tasks(spark, config, manifest, word, tasks)]
    finally:
        with suppress(Exception):  # where it could not be written, it often cannot be removed
            mark.remove()


def _check_tasks(spark: SparkSession, config: TrainConfig, manifest: Manifest, word: str, tasks: int) -> list[Row]:
    started = time.monotonic()
    try:
        facts = _gather(spark, config, manifest, word, tasks)
    except Exception as error:  # Spark's own kinds are many; its text says what happened
        return [judge_stage_failure(str(error), time.monotonic() - started)]
    driver = {
        "java": spark._jvm.System.getProperty("java.version"),
        **host_facts.versions(config.launcher, LAUNCHERS[config.launcher].backend),
    }
    return judge(config, manifest, driver, facts)


def _check_slots(spark: SparkSession, config: TrainConfig) -> Row:
    started = time.monotonic()
    conf, local = spark.sparkContext.getConf(), spark.sparkContext.master.startswith("local")
    # In local mode Spark takes no notice of dynamic allocation.
    dynamic = conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true" and not local
    if row := judge_gpu_amount(config, conf.get("spark.task.resource.gpu.amount", "0")):
        return row
    free = 0 if dynamic else wait_for_slots(spark, config.workers)
    return judge_slots(
        config.workers, task_slots(spark), free, local=local, dynamic=dynamic, seconds=time.monotonic() - started
    )


def _gather(spark: SparkSession, config: TrainConfig, manifest: Manifest, word: str, tasks: int) -> list[dict]:
    """Every task's facts, in order of rank. Raises Spark's exception where the stage fails or takes too long."""
    context = spark.sparkContext
    with Listener(spark.conf.get("spark.driver.host")) as listener:
        address = listener.address
        question = to_json(
            ProbeRequest(
                config=to_dict(config),
                backend=LAUNCHERS[config.launcher].backend,
                generation=manifest.generation,
                word=word,
                driver=(address.host, address.port, address.key.hex()),
                threads=int(spark.conf.get("spark.task.cpus", "1")),
            )
        )
        group = f"cxrflow preflight {word}"
        watchdog = Timer(STAGE_SECONDS, context.cancelJobGroup, [group])
        watchdog.daemon = True
        before = {name: context.getLocalProperty(name) for name in JOB_GROUP}  # a notebook has its own
        context.setJobGroup(group, "cxrflow preflight", interruptOnCancel=True)
        watchdog.start()
        try:
            reports = context.range(tasks, numSlices=tasks).barrier().mapPartitions(_task(question)).collect()
        finally:
            watchdog.cancel()
            for name, value in before.items():
                context.setLocalProperty(name, value)
    return sorted(map(json.loads, reports), key=lambda facts: facts["rank"])


def _task(question: str) -> Callable:
    """What a task does. Nested, so that it travels by value and only then meets what its executor has installed."""

    def task(_):
        import json
        import os

        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
        rank = context.partitionId()
        try:
            from cxrflow.preflight.probe import Place, from_json, probe

            asked = from_json(question)
        except Exception as error:  # no cxrflow, or one too old to understand; the others still want to meet this task
            for _ in range(2):
                context.allGather("")
            host = os.environ.get("SPARK_LOCAL_IP", hosts[rank])
            yield json.dumps({"rank": rank, "host": host, "broken": f"{type(error).__name__}: {error}"})
            return
        gpus = context.resources().get("gpu")
        yield json.dumps(probe(asked, Place(rank, hosts, context.allGather, tuple(gpus.addresses) if gpus else ())))

    return task
