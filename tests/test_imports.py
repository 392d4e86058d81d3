"""Who imports what: a decoding executor never loads Keras, a worker never opens a Spark session."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cluster

HEAVY = [
    "pyspark",
    "keras",
    "tensorflow",
    "torch",
    "petastorm",
    "matplotlib",
    "horovod",
    "sklearn",
    "PIL",
    "tensorboard",
    "mlflow",
]


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("cxrflow.base.config", set()),
        ("cxrflow.base.path_rules", set()),
        ("cxrflow.base.findings", set()),
        ("cxrflow.images", {"PIL"}),
        ("cxrflow.base.shard_files", set()),
        ("cxrflow.metrics", {"sklearn"}),
        ("cxrflow.spark.decode_task", {"pyspark", "PIL"}),
        ("cxrflow.pipeline.ingest_job", {"pyspark", "PIL"}),
        ("cxrflow.pipeline.predict_job", {"pyspark", "PIL", "sklearn"}),
        ("cxrflow.pipeline.train_job", set()),
        ("cxrflow.watch.recorder", set()),
        ("cxrflow.watch.tensorboard_sink", {"tensorboard"}),  # and not TensorFlow, which tensorboard loads where it can
        ("cxrflow.watch.mlflow_sink", {"mlflow", "pyspark"}),  # MLflow itself imports pyspark
        ("cxrflow.training.progress", set()),
        ("cxrflow.preflight.probe", set()),
        ("cxrflow.preflight.check", set()),
        ("cxrflow.preflight.barrier_stage", {"pyspark"}),
        ("cxrflow.training.smoke_step", set()),
        ("cxrflow.distributed.device", set()),
        ("cxrflow.training.models", set()),
        ("cxrflow.training.epoch_plan", set()),
        ("cxrflow.training.feed_budget", set()),
        ("cxrflow.training.checkpoint", set()),
        ("cxrflow.training.sample_audit", set()),
        ("cxrflow.training.targets", set()),
        ("cxrflow.training.feed", set()),
        ("cxrflow.training.petastorm_reader", {"petastorm", "pyspark"}),  # Petastorm itself imports pyspark
        ("cxrflow.training.arrow_reader", set()),
        ("cxrflow.training.reference_profile", {"sklearn"}),
        ("cxrflow.catalog.grouping", set()),
        ("cxrflow.report.gradcam", set()),  # Keras in a process of its own
        ("cxrflow.report.page", {"matplotlib", "sklearn", "PIL"}),
    ],
)
def test_a_module_loads_only_the_packages_of_its_layer(module, allowed):
    code = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert set(found) <= allowed
