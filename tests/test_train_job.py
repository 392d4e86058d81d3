"""The job train and the jobs that follow it, with real Spark tasks and real Horovod and TorchDistributor workers."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrflow.base import lease
from cxrflow.base.config import EvaluateConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.evaluations import Evaluation
from cxrflow.base.manifest import RUN_VERSION, RunDirectory, read_manifest, write_json
from cxrflow.metrics.evaluation_text import rate
from cxrflow.pipeline.train_job import _restart_config, _with_most_workers, check_train, train
from cxrflow.watch.events import FIELDS

pytestmark = pytest.mark.cluster

EPOCHS = 3


@pytest.fixture(scope="module", params=["horovod", "torch"])
def trained(request, spark, table, tmp_path_factory):
    """(result, run directory) of two workers; MLflow's store is beside it."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_TRACKING_URI", (run.parent / "mlruns").as_uri())
        result = train(
            spark,
            TrainConfig(
                table=str(table),
                run=str(run),
                launcher=request.param,
                workers=2,
                epochs=EPOCHS,
                batch_size=4,
                # Three epochs cannot fit augmented images, and at the default rate the loss of 28 images jumps.
                augment="none",
                learning_rate=5e-4,
                mlflow="xrays",
            ),
        )
    return result, run


def test_two_workers_train_and_rank_0_writes_the_run_directory(trained):
    result, run = trained
    assert (
        result["workers"] == 2
        and result["epochs"] == EPOCHS
        and 1 <= result["best_epoch"] <= result["saved_epoch"] == EPOCHS
    )
    history = json.loads((run / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    assert history["best"]["val_auc"] == max(epoch["val_auc"] for epoch in history["epochs"])
    assert history["finished"] and history["saved"]["val_auc"] == result["val_auc"]
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "events.jsonl",
        "history.json",
        "mlflow.json",
        "model.keras",
        "reference.json",
        "tensorboard",
    ]


def test_the_driver_recorded_what_rank_0_did(trained):
    result, run = trained
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    epochs = json.loads((run / "history.json").read_text())["epochs"]
    assert [event["event"] for event in events] == ["start", *["step", "checkpoint", "epoch"] * EPOCHS, "end"]
    assert events[0]["workers"] == 2 and events[0]["backend"] == result["backend"]
    for event in events:
        assert event.keys() == {"event", "time", *FIELDS[event["event"]]} - {"error"}
    for event, record in zip((event for event in events if event["event"] == "epoch"), epochs, strict=True):
        assert all(event[name] == record[name] for name in ("epoch", "loss", "val_auc", "images_per_second"))
        assert event["images"] == event["epoch"] * events[0]["images_per_epoch"]
    for event in events:
        if event["event"] == "step":
            shares = [event[f"{part}_share"] for part in ("feed", "augment", "step", "other")]
            assert all(share >= 0 for share in shares) and sum(shares) == pytest.approx(1)
            assert 0 < event["all_reduce_share"] < event["step_share"]
    assert events[-1]["status"] == "finished" and events[-2]["seconds_left"] > 0


def test_mlflow_has_what_the_driver_recorded(trained, monkeypatch):
    from mlflow import MlflowClient

    result, run = trained
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient((run.parent / "mlruns").as_uri())
    found = client.get_run(json.loads((run / "mlflow.json").read_text())["run_id"])
    assert found.info.status == "FINISHED" and found.data.metrics["saved/val_auc"] == result["val_auc"]
    history = client.get_metric_history(found.info.run_id, "val/loss")
    assert len(history) == EPOCHS and "model.keras" in [file.path for file in client.list_artifacts(found.info.run_id)]


LOAD = """
import sys, numpy, keras
model = keras.saving.load_model(sys.argv[1])
pixels = numpy.random.default_rng(0).integers(0, 256, (3, 48, 40, 1), numpy.uint8)
numpy.save(sys.argv[2], numpy.asarray(model.predict(pixels, verbose=0)))
"""


def test_the_model_file_gives_the_same_scores_on_both_backends(trained, tmp_path):
    _, run = trained
    scores = []
    for backend in ("tensorflow", "torch"):
        path = tmp_path / f"{backend}.npy"
        subprocess.run(
            [sys.executable, "-c", LOAD, str(run / "model.keras"), str(path)],
            check=True,
            env={**os.environ, "KERAS_BACKEND": backend},
        )
        scores.append(np.load(path))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    np.testing.assert_allclose(scores[0].sum(axis=1), 1, atol=1e-5)
    assert "cxrflow" not in zipfile.ZipFile(run / "model.keras").read("config.json").decode()


def test_validation_covers_the_samples_of_all_workers(spark, table, trained):
    """The AUC that training reports is that of the whole val split, which evaluate scores again."""
    from cxrflow.pipeline.evaluate_job import evaluate

    result, run = trained
    figures = evaluate(spark, EvaluateConfig(run=str(run), table=str(table), split="val", bootstrap=20))
    assert figures["n"] == sum(shard.rows for shard in read_manifest(str(table)).of_split("val"))
    assert figures["auc"] == pytest.approx(result["val_auc"], abs=1e-6)
    assert figures["threshold"] == result["threshold"]


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)  # tests/test_findings.py does the same with torch
def test_evaluate_predict_and_report_follow(spark, table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.evaluate_job import evaluate
    from cxrflow.pipeline.predict_job import predict
    from cxrflow.report.page import write_report

    _, run = trained
    figures = evaluate(
        spark, EvaluateConfig(run=str(run), table=str(table), split="all", bootstrap=20, subgroups=r"_(\d)_synthetic")
    )
    assert json.loads(Path(Evaluation(str(run), "table-all-1").metrics).read_text())["n"] == figures["n"] == 48
    assert {name: group["n"] for name, group in figures["subgroups"][0]["groups"].items()} == {"1": 24, "2": 24}
    assert len(figures["subgroups"]) == 1 and figures["shift"]["taken"]["groupings"] == {}  # PNG files have no header
    assert len(figures["mistakes"]) == min(20, round(48 * (1 - figures["accuracy"])))
    # The images are from the same source as those that training used.
    assert figures["shift"]["large"] == [] and len(figures["shift"]["facts"]) == 7
    trained_on = read_manifest(str(table)).counts()["train"]
    assert figures["prevalence"]["training"] == {
        label: rows / sum(trained_on.values()) for label, rows in trained_on.items()
    }
    assert (
        figures["prevalence"]["here"] == {"SYNTHETIC_NORMAL": 0.5, "SYNTHETIC_OPACITY": 0.5}
        and not figures["prevalence"]["used"]
    )
    result = predict(spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p")))
    assert (result["files"], result["scored"], result["unreadable"]) == (52, 48, 4)
    assert (result["noted"], result["doubts"]) == (0, {})
    again = predict(
        spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p"), if_exists="overwrite")
    )
    assert again["predicted"] == result["predicted"]
    held = lease.hold(str(tmp_path / "p"), "--predictions")
    with held, pytest.raises(UserError, match="--predictions: expected a folder that no other job writes to"):
        predict(
            spark,
            PredictConfig(run=str(run), images=str(phantoms), predictions=again["predictions"], if_exists="overwrite"),
        )
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["predictions.parquet"]
    assert spark.read.parquet(str(tmp_path / "p")).count() == 52
    predictions = pd.read_parquet(tmp_path / "p").set_index("path").sort_index()
    unreadable = predictions[predictions["reason"].notna()]
    assert unreadable["note"].isna().all() and (predictions["note"].dropna() == "").sum() == 48
    assert unreadable["predicted_label"].isna().all() and unreadable["score_SYNTHETIC_OPACITY"].isna().all()
    # Raw files and the table's pixels go through the same decoder, so the scores are the same.
    scored = pd.read_parquet(Evaluation(str(run), figures["evaluation"]).scores).set_index("path").sort_index()
    both = predictions.loc[scored.index]
    np.testing.assert_allclose(both["score_SYNTHETIC_OPACITY"], scored["score_SYNTHETIC_OPACITY"], atol=1e-5)
    assert (both["predicted_label"] == scored["predicted_label"]).all()
    written = write_report(ReportConfig(run=str(run), predictions=str(tmp_path / "p"), examples=3))
    page = (run / "report.html").read_text()
    assert len(written["pictures"]) == 8 and page.count("data:image/png;base64,") == 8
    # Grad-CAM on the run's own backend. After three epochs some heat maps are empty.
    assert page.count("with its Grad-CAM heat map") + page.count("no evidence for this label") > 5
    assert page.count("<img") == page.count(' alt="') == page.count("data:image/")
    assert "not a medical device" in page and "http" not in page and rate(figures["auc"]) in page


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)
def test_another_prevalence_changes_scores_but_no_predicted_label(spark, table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.evaluate_job import evaluate
    from cxrflow.pipeline.predict_job import predict

    run = shutil.copytree(trained[1], tmp_path / "run")
    figures = evaluate(
        spark, EvaluateConfig(run=str(run), table=str(table), split="all", bootstrap=20, prevalence="0.05")
    )
    training = figures["prevalence"]["training"]["SYNTHETIC_OPACITY"]
    before, after = (
        pd.read_parquet(Evaluation(str(run), f"table-all-{number}").scores).set_index("path") for number in (1, 2)
    )
    assert (before["predicted_label"] == after["predicted_label"]).all() and figures["clinic"]["prevalence"] == 0.05

    def odds(frame):
        return frame["score_SYNTHETIC_OPACITY"].astype(float) / frame["score_SYNTHETIC_NORMAL"].astype(float)

    np.testing.assert_allclose(odds(after) / odds(before), 0.05 / 0.95 / (training / (1 - training)), rtol=1e-4)
    result = predict(
        spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p"), prevalence="0.3")
    )
    predictions = pd.read_parquet(tmp_path / "p").set_index("path")
    assert (result["files"], result["scored"], len(predictions), predictions["reason"].notna().sum()) == (52, 48, 52, 4)
    assert result["prevalence"] == pytest.approx({"SYNTHETIC_OPACITY": 0.3, "SYNTHETIC_NORMAL": 0.7})
    assert (predictions.loc[before.index, "predicted_label"] == before["predicted_label"]).all()
    shares = result["prevalence"]
    expected = shares["SYNTHETIC_OPACITY"] / shares["SYNTHETIC_NORMAL"] / (training / (1 - training))
    np.testing.assert_allclose(odds(predictions.loc[before.index]) / odds(before), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"subgroups": "hospital"},
            "--subgroups: expected a regular expression with a .group., or one of the table's columns sample_id",
        ),
        (
            {"prevalence": "a=0.5,b=0.5"},
            "--prevalence: expected a share of each of SYNTHETIC_NORMAL, SYNTHETIC_OPACITY, adding up to 1, got a=0.5",
        ),
    ],
)
def test_flags_that_do_not_fit_the_table_are_refused_before_spark_starts(table, trained, change, words):
    from cxrflow.pipeline.evaluate_job import check_evaluate

    with pytest.raises(UserError, match=words):
        check_evaluate(EvaluateConfig(run=str(trained[1]), table=str(table), **change))


def test_only_predictions_are_overwritten_and_only_on_request(table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.predict_job import check_predict

    _, run = trained
    (tmp_path / "thesis.txt").write_text("mine")
    config = {"run": str(run), "images": str(phantoms), "predictions": str(tmp_path)}
    for if_exists in ("fail", "overwrite"):
        with pytest.raises(UserError, match="which predict never removes"):
            check_predict(PredictConfig(**config, if_exists=if_exists))
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "_staging" / "killed").mkdir(parents=True)
    (tmp_path / "_lease.json").touch()
    check_predict(PredictConfig(**config))
    pd.DataFrame({"path": ["a"]}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(UserError, match="holds predictions; choose another folder"):
        check_predict(PredictConfig(**config))
    check_predict(PredictConfig(**config, if_exists="overwrite"))
    with pytest.raises(UserError, match="apart from the images"):
        check_predict(PredictConfig(**{**config, "predictions": str(phantoms / "predictions")}))


@pytest.fixture
def no_preflight(monkeypatch):
    """For tests of what comes after the preflight."""
    monkeypatch.setattr("cxrflow.pipeline.train_job.preflight", lambda spark, config: None)


def test_a_relative_run_directory_is_relative_to_the_driver(spark, table, no_preflight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(
        spark,
        TrainConfig(
            table=os.path.relpath(table), run="run", launcher="torch", workers=1, epochs=1, batch_size=8, model="plain"
        ),
    )
    assert result["run"] == str(tmp_path / "run") and (tmp_path / "run" / "model.keras").exists()


def test_a_loss_that_is_not_a_number_ends_training_and_leaves_the_older_run(
    spark, table, trained, no_preflight, tmp_path, capfd
):
    run = shutil.copytree(trained[1], tmp_path / "run")
    launcher = json.loads((run / "config.json").read_text())["train"]["launcher"]
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(JobError):
        train(
            spark,
            TrainConfig(
                table=str(table),
                run=str(run),
                launcher=launcher,
                workers=2,
                epochs=2,
                if_exists="overwrite",
                batch_size=4,
                learning_rate=1e30,
            ),
        )
    assert "not a number; lower --learning-rate" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("trained", ["torch"], indirect=True)
def test_a_run_directory_that_holds_another_run_is_refused(table, trained):
    _, run = trained
    with pytest.raises(UserError, match="holds another run"):
        check_train(TrainConfig(table=str(table), run=str(run), if_exists="fail"))
    with pytest.raises(UserError, match="--epochs: expected .*, with which the run started, got 99"):
        check_train(TrainConfig(table=str(table), run=str(run), augment="none", epochs=99))


def config_of(run) -> TrainConfig:
    """The configuration that a run was trained with."""
    return TrainConfig(**json.loads((run / "config.json").read_text())["train"])


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "--seed: expected 0, with which the run started, got 4"),
        ({"epochs": 5}, "--epochs: expected 3, with which the run started, got 5"),
        ({"model": "plain"}, "--model: expected residual"),
        ({"feed_memory": "1k"}, r"--feed-memory: expected at least \d+m"),
        ({"if_exists": "fail"}, "holds another run; choose another folder, resume it with --if-exists resume"),
    ],
)
def test_a_run_that_would_not_resume_as_what_it_was_is_refused(trained, change, words):
    config = config_of(trained[1])
    check_train(dataclasses.replace(config, batch_size=5, workers=1, checkpoint_seconds=7))
    with pytest.raises(UserError, match=words):
        check_train(dataclasses.replace(config, **change))


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)
def test_a_run_does_not_resume_with_a_table_that_changed(trained, table, tmp_path):
    content = json.loads((table / "manifest.json").read_text())
    content["shards"] = [
        shard
        for shard in content["shards"]
        if shard != next(other for other in content["shards"] if other["split"] == "train")
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="--table: expected the table that the run was trained on"):
        check_train(dataclasses.replace(config_of(trained[1]), table=str(tmp_path)))


def test_a_second_job_for_one_run_directory_is_refused(table, no_preflight, tmp_path):
    config = TrainConfig(table=str(table), run=str(tmp_path / "run"), model="plain")
    with (
        lease.hold(config.run, "--run"),
        pytest.raises(UserError, match="--run: expected a folder that no other job writes to"),
    ):
        train(None, config)


def test_files_of_a_run_that_died_before_its_first_checkpoint_are_no_obstacle(table, tmp_path):
    config = TrainConfig(table=str(table), run=str(tmp_path), model="plain")
    (tmp_path / "config.json").write_text("{}")
    check_train(config)
    (tmp_path / "model.keras").write_text("a model of a run whose checkpoints are gone")
    with pytest.raises(UserError, match="holds another run; choose another folder, or replace it"):
        check_train(config)


def test_a_restart_uses_as_many_workers_as_can_hold_the_runs_order_of_samples(table, tmp_path):
    """The order has four streams, and each holds a shard of 6 images of 1.9 kB at a time.

    Three workers cannot share four streams. One worker alone would need more than 95 kB for streams and batches.
    """
    config = TrainConfig(
        table=str(table), run=str(tmp_path), launcher="horovod", workers=4, batch_size=2, feed_memory="95k"
    )
    order = {"streams": 4, "shuffle_rows": 4}
    assert [_with_most_workers(config, slots, order).workers for slots in (4, 3, 2)] == [4, 2, 2]
    with pytest.raises(
        JobError, match="from 1 to the 1 remaining task slots that can resume the run, found none: --feed-memory"
    ):
        _with_most_workers(config, 1, order)
    assert _with_most_workers(config, 1, None).workers == 1  # the run has no order yet


def test_a_worker_lost_before_the_first_checkpoint_restarts_training_without_it(table, tmp_path):
    config = TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="horovod", workers=2)
    with lease.hold(config.run, "--run") as held:
        write_json(RunDirectory(config.run).config, {"version": RUN_VERSION, "job": held.token})
        assert _restart_config(config, 1, held) == dataclasses.replace(config, workers=1)


def test_more_workers_than_slots_are_refused(spark, table, tmp_path):
    with pytest.raises(UserError, match="--workers: expected at most 2, the task slots.*got 3"):
        train(spark, TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="horovod", workers=3))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"launcher": "mpi"}, "--launcher: expected one of local, horovod, horovodrunner, torch; got 'mpi'"),
        ({"model": "vgg99"}, "--model: expected one of residual, resnetd, plain, notebook, .*got 'vgg99'"),
        ({"workers": 2}, "--workers: expected 1 with the local launcher, got 2"),
        ({"positive_label": "COVID"}, "--positive-label: expected one of SYNTHETIC_NORMAL, SYNTHETIC_OPACITY"),
    ],
)
def test_unknown_choices_are_refused_with_the_known_ones(table, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        check_train(TrainConfig(table=str(table), run=str(tmp_path / "run"), **change))


def edited(table, tmp_path, edit):
    content = json.loads((table / "manifest.json").read_text())
    edit(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(shards=[s for s in c["shards"] if s["split"] != "val"]), "val of .* is empty"),
        (
            lambda c: c.update(
                labels=["SYNTHETIC_NORMAL"],
                shards=[{**s, "labels": {"SYNTHETIC_NORMAL": s["rows"]}} for s in c["shards"]],
            ),
            "has only SYNTHETIC_NORMAL",
        ),
        (
            lambda c: [s["labels"].pop("SYNTHETIC_OPACITY", 0) for s in c["shards"] if s["split"] == "val"],
            "val of .* has none of SYNTHETIC_OPACITY",
        ),
        (lambda c: c.update(version=99), "expected a table of version 3, got 99"),
        (lambda c: c.pop("shards"), "expected a manifest that ingest wrote"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused(table, tmp_path, edit, words):
    with pytest.raises(UserError, match=words):
        check_train(TrainConfig(table=edited(table, tmp_path, edit), run=str(tmp_path / "run")))


def test_the_plain_network_in_this_process(table, tmp_path):
    """The local launcher, in a process of its own because it fixes Keras' backend."""
    code = (
        "import json, sys; from cxrflow.base.config import TrainConfig; from cxrflow.pipeline.train_job import train; "
        "print(json.dumps(train(None, TrainConfig(table=sys.argv[1], run=sys.argv[2], model='plain', epochs=1))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(table), str(tmp_path / "run")], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == 1
    assert (tmp_path / "run" / "model.keras").exists()
