"""The demo's parts that start no job."""

import os
from pathlib import Path

import cxrflow
from cxrflow.base.config import DemoConfig
from cxrflow.pipeline.demo_job import job_environment, table_lines


def test_jobs_start_their_own_jvm_also_under_spark_submit(monkeypatch):
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"):
        monkeypatch.setenv(name, "1")
    environment = job_environment(DemoConfig(launcher="horovod", workers=64, driver_memory="2g"))
    assert not [name for name in environment if name.startswith("PYSPARK_GATEWAY")]
    assert environment["PYSPARK_SUBMIT_ARGS"] == "--master local[64] --driver-memory 2g pyspark-shell"
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(cxrflow.__file__).parents[1])


def test_a_test_split_with_one_label_has_no_auc():
    evaluate = {"n": 1234, "auc": None, "auc_interval": None, "accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}
    results = {
        "ingest": {"samples": 10, "quarantined": 1, "table": "/t"},
        "train": {"epochs": 2, "val_auc": 0.5, "run": "/r"},
        "evaluate": {**evaluate, "metrics": "/r/metrics.json"},
        "predict": {"scored": 3, "unreadable": 0, "predictions": "/p"},
        "report": {"report": "/r/report.html"},
    }
    lines = table_lines(results, dict.fromkeys(results, 1.25))
    assert [line.split()[0] for line in lines] == ["job", *results]
    assert "AUC none, accuracy 0.900 (0.800 to 1.000) on 1,234 test images" in lines[3]
