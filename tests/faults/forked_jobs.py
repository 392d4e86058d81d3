"""Runs jobs in forks of this process, which has loaded Spark or Keras, so that each job starts at once.

python tests/faults/forked_jobs.py spark|local MODULE...     # modules to load first

Each line of the standard input is a job: {"job": name, "options": {...}}. The answer is a line with its exit status,
negative if a signal ended it. The job is a process of its own and may be killed at any time. With ``spark`` it uses the
session of this process, whose executors outlive it, as those of a cluster do for a while.
"""

import importlib
import json
import os
import sys
import threading
import time
import traceback

from cxrflow.base import config


def run(job, options, spark):
    """Call the job's function as a notebook does."""
    module = importlib.import_module(f"cxrflow.pipeline.{job}_job" if job != "report" else "cxrflow.report.page")
    options = getattr(config, f"{job.capitalize()}Config")(**options)
    if job in ("report", "vacuum"):
        getattr(module, {"report": "write_report"}.get(job, job))(options)
    else:
        getattr(module, job)(spark, options)


def in_fork(request, spark):
    """The fork's part. With Spark, the job runs in a new thread, as connections belong to the thread that made them."""
    with open(os.path.join(os.environ["CXRFLOW_FAULTS"], "driver"), "w") as file:
        file.write(str(os.getpid()))

    def target():
        try:
            run(request["job"], request["options"], spark)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    if spark is None:
        target()
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def end_tasks(context):
    """Cancel what a killed job has left running, and wait for it."""
    context.cancelAllJobs()
    deadline = time.monotonic() + 10
    while context.statusTracker().getActiveStageIds() and time.monotonic() < deadline:
        time.sleep(0.1)


def main():
    spark = None
    if sys.argv[1] == "spark":
        from cxrflow.spark.session import open_session

        spark = open_session("cxrflow faults")
    for name in sys.argv[2:]:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            in_fork(json.loads(line), spark)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if spark:
            end_tasks(spark.sparkContext)
        print(status, file=answers, flush=True)


main()
