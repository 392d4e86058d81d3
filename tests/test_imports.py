"""Who imports what: a decoding executor never loads Keras, a worker never opens a Spark session."""

import json
import subprocess
import sys

import pytest

HEAVY = ["pyspark", "keras", "tensorflow", "torch", "petastorm", "matplotlib", "horovod", "sklearn", "PIL", "tensorboard", "mlflow"]


@pytest.mark.parametrize(("module", "allowed"), [
    ("cxrflow.config", set()),
    ("cxrflow.labels", set()),
    ("cxrflow.findings", set()),
    ("cxrflow.images", {"PIL"}),
    ("cxrflow.shards", set()),
    ("cxrflow.metrics", {"sklearn"}),
    ("cxrflow.spark.decode", {"pyspark", "PIL"}),
    ("cxrflow.spark.ingest", {"pyspark", "PIL"}),
    ("cxrflow.spark.predict", {"pyspark", "PIL", "sklearn"}),
    ("cxrflow.launch.train", set()),
    ("cxrflow.watch.recorder", set()),
    ("cxrflow.watch.tensorboard", {"tensorboard"}),  # and not TensorFlow, which tensorboard loads where it can
    ("cxrflow.watch.mlflow", {"mlflow", "pyspark"}),  # MLflow itself imports pyspark
    ("cxrflow.training.progress", set()),
    ("cxrflow.preflight.probe", set()),
    ("cxrflow.preflight.check", set()),
    ("cxrflow.spark.preflight", {"pyspark"}),
    ("cxrflow.training.trial", set()),
    ("cxrflow.launch.device", set()),
    ("cxrflow.training.models", set()),
    ("cxrflow.training.plan", set()),
    ("cxrflow.training.budget", set()),
    ("cxrflow.training.checkpoint", set()),
    ("cxrflow.training.ledger", set()),
    ("cxrflow.training.targets", set()),
    ("cxrflow.training.feed", {"petastorm", "pyspark"}),  # Petastorm itself imports pyspark
    ("cxrflow.training.reference", {"sklearn"}),
    ("cxrflow.subgroups", set()),
    ("cxrflow.report.gradcam", set()),  # Keras in a process of its own
    ("cxrflow.report.page", {"matplotlib", "sklearn", "PIL"}),
])
def test_a_module_loads_only_what_its_place_allows(module, allowed):
    code = (f"import json, sys, {module}; "
            f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))")
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert set(found) <= allowed
