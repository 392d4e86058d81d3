"""Training under every launcher: real Spark tasks, real Horovod and TorchDistributor workers."""

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from cxrflow.base.config import EvaluateConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import RunDirectory, read_manifest
from cxrflow.launch.supervisor import supervise
from cxrflow.metrics.evaluation_text import rate
from cxrflow.pipeline.train_job import check_train, train
from cxrflow.training.checkpoint import read_checkpoint
from cxrflow.watch.events import FIELDS

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
                # Three epochs are too few to fit changing images, and at the default rate the loss of 28 images jumps.
                augment="none",
                learning_rate=5e-4,
                mlflow="xrays",
            ),
        )
    return result, run


def test_two_workers_train_and_rank_0_writes_the_run(trained):
    result, run = trained
    assert (
        result["workers"] == 2
        and result["epochs"] == EPOCHS
        and 1 <= result["best_epoch"] <= result["kept_epoch"] == EPOCHS
    )
    history = json.loads((run / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    assert history["best"]["val_auc"] == max(epoch["val_auc"] for epoch in history["epochs"])
    assert history["finished"] and history["kept"]["val_auc"] == result["val_auc"]
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
    assert found.info.status == "FINISHED" and found.data.metrics["kept/val_auc"] == result["val_auc"]
    history = client.get_metric_history(found.info.run_id, "val/loss")
    assert len(history) == EPOCHS and "model.keras" in [file.path for file in client.list_artifacts(found.info.run_id)]


LOAD = """
import sys, numpy, keras
model = keras.saving.load_model(sys.argv[1])
pixels = numpy.random.default_rng(0).integers(0, 256, (3, 48, 40, 1), numpy.uint8)
numpy.save(sys.argv[2], numpy.asarray(model.predict(pixels, verbose=0)))
"""


def test_the_model_file_gives_the_same_scores_on_either_backend(trained, tmp_path):
    _, run = trained
    scores = []
    for backend in ("tensorflow", "torch"):
        place = tmp_path / f"{backend}.npy"
        subprocess.run(
            [sys.executable, "-c", LOAD, str(run / "model.keras"), str(place)],
            check=True,
            env={**os.environ, "KERAS_BACKEND": backend},
        )
        scores.append(np.load(place))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    np.testing.assert_allclose(scores[0].sum(axis=1), 1, atol=1e-5)
    assert "cxrflow" not in zipfile.ZipFile(run / "model.keras").read("config.json").decode()


def test_validation_covers_the_samples_of_all_workers(spark, table, trained):
    """The AUC that training reports is that of the whole val split, scored again by another way."""
    from cxrflow.pipeline.evaluate_job import evaluate

    result, run = trained
    figures = evaluate(spark, EvaluateConfig(run=str(run), table=str(table), split="val", bootstrap=20))
    assert figures["n"] == sum(shard.rows for shard in read_manifest(str(table)).of_split("val"))
    assert figures["auc"] == pytest.approx(result["val_auc"], abs=1e-6)
    assert figures["threshold"] == result["threshold"]


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)  # tests/test_findings.py has the same of torch
def test_evaluate_predict_and_report_follow(spark, table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.evaluate_job import evaluate
    from cxrflow.pipeline.predict_job import predict
    from cxrflow.report.page import write_report

    _, run = trained
    figures = evaluate(
        spark, EvaluateConfig(run=str(run), table=str(table), split="all", bootstrap=20, subgroups=r"_(\d)_synthetic")
    )
    assert json.loads((run / "metrics.json").read_text())["n"] == figures["n"] == 48
    assert {name: group["n"] for name, group in figures["subgroups"]["groups"].items()} == {"1": 24, "2": 24}
    assert len(figures["mistakes"]) == min(20, round(48 * (1 - figures["accuracy"])))
    # The same images, and the 30 that training took from the same source.
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
    again = predict(
        spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p"), if_exists="overwrite")
    )
    assert again["predicted"] == result["predicted"]
    predictions = pd.read_parquet(tmp_path / "p").set_index("path").sort_index()
    unread = predictions[predictions["reason"].notna()]
    assert unread["predicted_label"].isna().all() and unread["score_SYNTHETIC_OPACITY"].isna().all()
    # Raw files and the table's pixels go through the same decoder, so the scores are the same.
    scored = pd.read_parquet(run / "scores.parquet").set_index("path").sort_index()
    both = predictions.loc[scored.index]
    np.testing.assert_allclose(both["score_SYNTHETIC_OPACITY"], scored["score_SYNTHETIC_OPACITY"], atol=1e-5)
    assert (both["predicted_label"] == scored["predicted_label"]).all()
    written = write_report(ReportConfig(run=str(run), predictions=str(tmp_path / "p"), examples=3))
    page = (run / "report.html").read_text()
    assert len(written["pictures"]) == 8 and page.count("data:image/png;base64,") == 8
    # Grad-CAM, by the run's own backend; after three epochs there may be little to see.
    assert page.count("with its Grad-CAM heat map") + page.count("no evidence for this label") > 5
    assert page.count("<img") == page.count(' alt="') == page.count("data:image/")
    assert "not a medical device" in page and "http" not in page and rate(figures["auc"]) in page


@pytest.mark.parametrize("trained", ["horovod"], indirect=True)
def test_another_prevalence_changes_scores_but_no_call(spark, table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.evaluate_job import evaluate
    from cxrflow.pipeline.predict_job import predict

    run = shutil.copytree(trained[1], tmp_path / "run")
    figures = evaluate(
        spark, EvaluateConfig(run=str(run), table=str(table), split="all", bootstrap=20, prevalence="0.05")
    )
    training = figures["prevalence"]["training"]["SYNTHETIC_OPACITY"]
    before, after = (pd.read_parquet(place / "scores.parquet").set_index("path") for place in (trained[1], run))
    assert (before["predicted_label"] == after["predicted_label"]).all() and figures["clinic"]["prevalence"] == 0.05

    def odds(frame):
        return frame["score_SYNTHETIC_OPACITY"].astype(float) / frame["score_SYNTHETIC_NORMAL"].astype(float)

    np.testing.assert_allclose(odds(after) / odds(before), 0.05 / 0.95 / (training / (1 - training)), rtol=1e-4)
    done = predict(
        spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p"), prevalence="0.3")
    )
    predictions = pd.read_parquet(tmp_path / "p").set_index("path")
    assert (done["files"], done["scored"], len(predictions), predictions["reason"].notna().sum()) == (52, 48, 52, 4)
    assert done["prevalence"] == pytest.approx({"SYNTHETIC_OPACITY": 0.3, "SYNTHETIC_NORMAL": 0.7})
    assert (predictions.loc[before.index, "predicted_label"] == before["predicted_label"]).all()
    shares = done["prevalence"]
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
            "--prevalence: expected a share of each of SYNTHETIC_NORMAL, SYNTHETIC_OPACITY, which add up to 1; got a=0.5",
        ),
    ],
)
def test_what_does_not_fit_the_table_is_refused_before_spark_is_asked(table, trained, change, words):
    from cxrflow.pipeline.evaluate_job import check_evaluate

    with pytest.raises(UserError, match=words):
        check_evaluate(EvaluateConfig(run=str(trained[1]), table=str(table), **change))


def test_predictions_are_replaced_only_if_asked_and_only_if_they_are_predictions(table, phantoms, trained, tmp_path):
    from cxrflow.pipeline.predict_job import check_predict

    _, run = trained
    (tmp_path / "thesis.txt").write_text("mine")
    config = {"run": str(run), "images": str(phantoms), "predictions": str(tmp_path)}
    with pytest.raises(UserError, match="exists; name another folder"):
        check_predict(PredictConfig(**config))
    pd.DataFrame({"precious": [1]}).to_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(UserError, match="which predict never removes"):
        check_predict(PredictConfig(**config, if_exists="overwrite"))
    with pytest.raises(UserError, match="apart from the images"):
        check_predict(PredictConfig(**{**config, "predictions": str(phantoms / "predictions")}))


@pytest.fixture(scope="module")
def losses(spark, table, tmp_path_factory):
    """A function that trains once for each set of arguments, without the preflight before it; returns loss and validation loss
    of each epoch."""

    def fit(config, worker):
        from cxrflow.training.fit import fit

        return fit(config, worker)

    @functools.cache
    def train_plain(launcher, workers, **change):
        run = tmp_path_factory.mktemp("losses") / "run"
        config = TrainConfig(
            table=str(table),
            run=str(run),
            launcher=launcher,
            workers=workers,
            batch_size=8 // workers,
            epochs=2,
            model="plain",
            lr_scaling="none",
            **change,
        )
        supervise(spark, config, fit, lambda config, slots: config, lambda event: None, lambda: None)
        config = zipfile.ZipFile(run / "model.keras").read("config.json").decode()
        assert "mixed" not in config and "float16" not in config
        arrays = read_checkpoint(RunDirectory(str(run))).arrays
        assert {str(array.dtype) for name, array in arrays.items() if name.startswith("model/")} == {"float32"}
        return [
            epoch[name]
            for epoch in json.loads((run / "history.json").read_text())["epochs"]
            for name in ("loss", "val_loss")
        ]

    return train_plain


def test_both_backends_learn_the_same(losses):
    """The same weights, batches and augmentation: what is left is the order in which numbers are added up. (tests/test_resume.py
    holds two workers against one.)"""
    assert losses("torch", 2) == pytest.approx(losses("horovod", 2), rel=1e-4)


@pytest.mark.parametrize(("launcher", "precision"), [("horovod", "mixed_bfloat16"), ("torch", "mixed_float16")])
def test_16_bits_learn_about_the_same_and_are_not_saved(losses, launcher, precision):
    """Of the first steps mixed_float16 leaves out some, until its scale fits."""
    half = losses(launcher, 2, precision=precision)
    assert half != losses(launcher, 2) and half == pytest.approx(losses(launcher, 2), rel=0.05)


def test_a_relative_run_directory_is_the_drivers(spark, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(
        spark,
        TrainConfig(
            table=os.path.relpath(table), run="run", launcher="torch", workers=1, epochs=1, batch_size=8, model="plain"
        ),
    )
    assert result["run"] == str(tmp_path / "run") and (tmp_path / "run" / "model.keras").exists()


def test_a_loss_that_is_no_number_ends_training_and_leaves_the_older_run(spark, table, trained, tmp_path, capfd):
    run = shutil.copytree(trained[1], tmp_path / "run")
    launcher = json.loads((run / "config.json").read_text())["train"]["launcher"]
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(Exception):
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
    assert "not a number: lower --learning-rate" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_directory_that_holds_another_run_is_refused(table, trained):
    _, run = trained
    with pytest.raises(UserError, match="holds another run"):
        check_train(TrainConfig(table=str(table), run=str(run), if_exists="fail"))
    with pytest.raises(UserError, match="--epochs: expected .*, with which the run began, got 99"):
        check_train(TrainConfig(table=str(table), run=str(run), augment="none", epochs=99))


def test_more_workers_than_slots(spark, table, tmp_path):
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
        (lambda c: c.pop("shards"), "expected the manifest that ingest.py writes"),
    ],
)
def test_a_table_that_cannot_be_trained_on(table, tmp_path, edit, words):
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
