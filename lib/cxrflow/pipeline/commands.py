"""The commands of ``cxrflow``: what each one runs and what its ``--help`` says.

This module is imported for ``cxrflow --help``. So it loads no framework. The commands' functions load them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cxrflow.base.config import (
    DemoConfig,
    EvaluateConfig,
    IngestConfig,
    Options,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    VacuumConfig,
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, which ``jobs/`` also has as a file of the same name."""

    config: type[Options]
    run: Callable[[Any], dict[str, Any]]
    """From the configuration to the JSON line of the job."""
    summary: str
    """One line for ``cxrflow --help``."""
    details: str
    """What else ``cxrflow NAME --help`` says."""
    example: str
    """Arguments of an example."""
    on_a_cluster: str | None = None
    """How to run it on a cluster; None for spark-submit with the file of its name in ``jobs/``."""


def _ingest(config: IngestConfig) -> dict[str, Any]:
    from cxrflow.pipeline.headline import ingest_headline
    from cxrflow.pipeline.ingest_job import check_ingest, ingest
    from cxrflow.spark.session import job_session

    check_ingest(config)
    with job_session("cxrflow ingest") as spark:
        return ingest_headline(ingest(spark, config))


def _train(config: TrainConfig) -> dict[str, Any]:
    from cxrflow.pipeline.headline import train_headline
    from cxrflow.pipeline.train_job import check_train, train

    check_train(config)
    if config.launcher == "local":
        return train_headline(train(None, config))
    from cxrflow.spark.session import job_session

    with job_session("cxrflow train") as spark:
        return train_headline(train(spark, config))


def _evaluate(config: EvaluateConfig) -> dict[str, Any]:
    from cxrflow.pipeline.evaluate_job import check_evaluate, evaluate
    from cxrflow.pipeline.headline import evaluate_headline
    from cxrflow.spark.session import job_session

    check_evaluate(config)
    with job_session("cxrflow evaluate") as spark:
        return evaluate_headline(evaluate(spark, config), config.run)


def _predict(config: PredictConfig) -> dict[str, Any]:
    from cxrflow.pipeline.headline import predict_headline
    from cxrflow.pipeline.predict_job import check_predict, predict
    from cxrflow.spark.session import job_session

    check_predict(config)
    with job_session("cxrflow predict") as spark:
        return predict_headline(predict(spark, config))


def _report(config: ReportConfig) -> dict[str, Any]:
    from cxrflow.pipeline.headline import report_headline
    from cxrflow.report.page import write_report

    return report_headline(write_report(config))


def _vacuum(config: VacuumConfig) -> dict[str, Any]:
    from cxrflow.pipeline.vacuum_job import vacuum

    return vacuum(config)


def _demo(config: DemoConfig) -> dict[str, Any]:
    from cxrflow.pipeline.demo_job import run_demo

    return run_demo(config)


COMMANDS = {
    "ingest": Command(
        config=IngestConfig,
        run=_ingest,
        summary="Decode a folder of X-ray files on Spark executors and write a training table.",
        details="Every file ends up in the table's samples, or in its quarantine with the reason. All images of a "
        "patient go to the same split.",
        example="--images /data/xrays --table /data/table",
    ),
    "train": Command(
        config=TrainConfig,
        run=_train,
        summary="Train a classifier on a table, on one worker or many.",
        details="The run directory receives the model, the history and the configuration.",
        example="--table /data/table --run /data/run --launcher horovod --workers 2",
    ),
    "evaluate": Command(
        config=EvaluateConfig,
        run=_evaluate,
        summary="Measure a trained model on a split of a table, with a 95 % interval for each figure.",
        details="The decision threshold is the one that training fitted to its own validation data.",
        example="--run /data/run --table /data/table --split test",
    ),
    "predict": Command(
        config=PredictConfig,
        run=_predict,
        summary="Score image files with a trained model. Research software, not a medical device.",
        details="Each file gets a row: its scores and the predicted label, or the reason why it could not be read.",
        example="--run /data/run --images /data/new --predictions /data/predictions",
    ),
    "report": Command(
        config=ReportConfig,
        run=_report,
        summary="Draw a run as PNG files and one self-contained HTML page.",
        details="The page shows the learning curves and, after evaluate, ROC curve, confusion matrix and examples.",
        example="--run /data/run --predictions /data/predictions",
    ),
    "vacuum": Command(
        config=VacuumConfig,
        run=_vacuum,
        summary="Remove the files of a table's older generations.",
        details="Generations that a running job reads are kept. Ingest also does this at its end.",
        example="--table /data/table --grace-hours 0",
    ),
    "demo": Command(
        config=DemoConfig,
        run=_demo,
        summary="Run all five jobs in turn on synthetic images or your own.",
        details="Without --images it draws synthetic phantoms.",
        example="--folder cxrflow-demo --launcher horovod --workers 2",
        on_a_cluster="add --master spark://HOST:7077; the demo starts each job in a process of its own.",
    ),
}
