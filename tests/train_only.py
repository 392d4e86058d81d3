"""``jobs/train.py`` without the preflight, for tests of what comes after it. The preflight starts Keras on driver and
executors, which takes longer than the trainings of these tests."""

import runpy
from pathlib import Path

from cxrflow.pipeline import train_job

train_job.preflight = lambda spark, config: {}

runpy.run_path(str(Path(__file__).resolve().parents[1] / "jobs" / "train.py"), run_name="__main__")
