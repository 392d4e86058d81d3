"""Writes events to an MLflow run, with fed images as steps.

MLflow finds its server and credentials itself, in the environment or from Databricks. A run directory has one MLflow
run, whose ID is in ``RUN/mlflow.json``; a resumed training continues it. MLflow cannot remove points, so it keeps those
of the steps that a resumed training repeats.
"""

from __future__ import annotations

import logging
import os
import tempfile

from cxrflow import __version__
from cxrflow.base import storage
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.manifest import RunDirectory, write_json
from cxrflow.watch.events import curves

# By default MLflow reports its use to its developers. Users who train on images of patients have not agreed to that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

log = logging.getLogger(__name__)

SECONDS = 10.0
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
MAX_POINTS = 1000
"""MLflow accepts no more in one call."""


class MLflowSink:
    """A run of the experiment ``config.mlflow``."""

    seconds = SECONDS

    def __init__(self, config: TrainConfig, resumes: bool, replaces: bool):
        """Open or create the MLflow run. Raises MlflowException, or another error if MLflow cannot be reached.

        ``resumes``: training continues the run in the run directory. ``replaces``: the run directory has another run,
        which stays valid until this run's first checkpoint.
        """
        self._run, self._client = RunDirectory(config.run), MlflowClient()
        experiment = self._client.get_experiment_by_name(config.mlflow)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(config.mlflow)
        self.run_id = (self._find_run(experiment_id) if resumes else None) or self._make_run(experiment_id, config)
        self._client.update_run(self.run_id, status="RUNNING")
        log.info("MLflow: run %s of the experiment %s", self.run_id, config.mlflow)
        self._id_saved = False
        if not replaces:
            self._save_id()

    def _find_run(self, experiment_id: str) -> str | None:
        """The ID of the run directory's MLflow run; None if MLflow does not have it in this experiment."""
        if not storage.exists(self._run.mlflow):
            return None
        try:
            info = self._client.get_run(self._run.read(self._run.mlflow, "train")["run_id"]).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return info.run_id if (info.experiment_id, info.lifecycle_stage) == (experiment_id, "active") else None

    def _make_run(self, experiment_id: str, config: TrainConfig) -> str:
        tags = resolve_tags({"cxrflow.version": __version__})
        name = self._run.url.rpartition("/")[2]
        run_id = self._client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        self._client.log_batch(run_id, params=[Param(name, str(value)) for name, value in to_dict(config).items()])
        return run_id

    def _save_id(self) -> None:
        write_json(self._run.mlflow, {"run_id": self.run_id})
        self._id_saved = True

    def write(self, events: list[dict]) -> None:
        """Log the points and tags of the events; at the end also the model's metrics and files."""
        if not self._id_saved and any(event["event"] == "checkpoint" for event in events):
            self._save_id()
        points = [
            Metric(name, value, _milliseconds(event), event["images"])
            for event in events
            for name, value in curves(event).items()
        ]
        for first in range(0, len(points), MAX_POINTS):
            self._client.log_batch(self.run_id, metrics=points[first : first + MAX_POINTS])
        for event in events:
            if event["event"] == "start":
                self._client.log_batch(
                    self.run_id,
                    tags=[RunTag(f"cxrflow.{name}", str(event[name])) for name in ("workers", "batch_size", "backend")],
                )
            if event["event"] == "end":
                self._end(event)

    def _end(self, event: dict) -> None:
        try:
            if event["status"] == "finished":
                self._log_saved_model(_milliseconds(event))
                self._log_files()
        finally:
            self._client.set_terminated(self.run_id, STATUS[event["status"]], _milliseconds(event))

    def _log_saved_model(self, milliseconds: int) -> None:
        """The validation metrics of the saved model, for comparing runs."""
        saved = self._run.read(self._run.history, "train")["saved"]
        self._client.log_batch(
            self.run_id,
            metrics=[
                Metric(f"saved/{name}", float(saved[name]), milliseconds, 0)
                for name in ("epoch", "val_loss", "val_auc", "val_accuracy")
            ],
        )

    def _log_files(self) -> None:
        """Upload the model, the history and the configuration as artifacts."""
        with tempfile.TemporaryDirectory() as folder:
            for url in (self._run.model, self._run.history, self._run.config):
                local = os.path.join(folder, url.rpartition("/")[2])
                storage.download(url, local)
                self._client.log_artifact(self.run_id, local)


def _milliseconds(event: dict) -> int:
    """The event's time in milliseconds since 1970, as MLflow stores it."""
    return round(event["time"] * 1000)
