"""Contestant of scaling.py: train on real workers, in one Spark session.

Each line ``run LAUNCHER WORKERS together|apart SCRATCH TABLE...`` on standard input is answered with a list that has,
for each table, ``rate`` (images per second of all workers, without the first step) and ``all_reduce_share`` (None if it
was not measured), both from the step events. ``apart`` means that each worker trains its own model at the same time,
without communication.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import uuid
from pathlib import Path

from contestant import PROCESSES, answer, take_standard_output

BATCH_ROWS = 32


def open_local_session(task_cpus: int):
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        f"--master local[{PROCESSES}] --driver-memory 1g --conf spark.task.cpus={task_cpus} "
        "--conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false pyspark-shell"
    )
    return open_session("cxrflow scaling")


def on_own_cores(tables: list[str], folder: str, threads: int, apart: bool):
    """Return a training function for launchers: one epoch of each table, each worker on ``threads`` cores of its
    own."""

    def train(config, worker) -> dict:
        import dataclasses
        import os

        import numpy as np

        from cxrflow.distributed.worker import Worker
        from cxrflow.training.fit import fit

        cores = sorted(os.sched_getaffinity(0))[worker.rank * threads :][:threads]
        for thread in os.listdir("/proc/self/task"):  # threads of Horovod or torch; later ones inherit it
            os.sched_setaffinity(int(thread), cores)
        sizes = []
        for number, table in enumerate(tables):
            trains, events = Worker() if apart else worker, []
            trains.report_event, trains.report_progress = events.append, worker.report_progress
            worker.all_gather(np.zeros(1))  # start together
            fit(
                dataclasses.replace(config, table=table, run=f"{folder}/{number}-{worker.rank if apart else 0}"), trains
            )
            rate, share = steady(events) if events else (0.0, float("nan"))  # only rank 0 reports events
            rates = worker.all_gather(np.array([rate]))
            sizes.append({"rate": float(rates.sum()), "all_reduce_share": None if share != share else share})
        return {"sizes": sizes}

    return train


def run(spark, launcher: str, workers: int, apart: bool, scratch: str, tables: list[str]) -> list[dict]:
    from cxrflow.base.config import TrainConfig
    from cxrflow.launch.supervisor import supervise

    folder = f"{scratch}/{uuid.uuid4().hex}"
    config = TrainConfig(
        table=tables[0],
        run=folder,
        launcher=launcher,
        workers=workers,
        epochs=1,
        batch_size=BATCH_ROWS,
        max_restarts=0,
        tta=1,
        tensorboard=False,
    )
    threads = int(spark.conf.get("spark.task.cpus"))
    return supervise(
        spark,
        config,
        on_own_cores(tables, folder, threads, apart),
        lambda config, slots: config,
        lambda event: None,
        lambda: None,
    )["sizes"]


def steady(events: list[dict]) -> tuple[float, float]:
    """Return a training's images per second after the first step, and the all-reduce's share of that time."""
    fed = events[0]["workers"] * events[0]["batch_size"]  # in the first step, which no step event covers
    seconds = reduced = images = 0.0
    for event in events:
        if event["event"] == "step":
            spent = (event["images"] - fed) / event["images_per_second"]
            images, fed, seconds = images + event["images"] - fed, event["images"], seconds + spent
            reduced += spent * event.get("all_reduce_share", float("nan"))
    return images / seconds, reduced / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task-cpus", type=int, required=True, help="threads per worker")
    flags = parser.parse_args()
    answers = take_standard_output()
    spark = open_local_session(flags.task_cpus)
    answer(answers, {"ready": True})
    for line in sys.stdin:
        _, launcher, workers, how, scratch, *tables = shlex.split(line)
        answer(answers, {"sizes": run(spark, launcher, int(workers), how == "apart", str(Path(scratch)), tables)})
    spark.stop()


if __name__ == "__main__":
    main()
