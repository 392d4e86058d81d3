"""Several findings an image: what a text or a line of a labels file says, and the way from ingest to the report."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrflow.base.config import EvaluateConfig, IngestConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.evaluations import Evaluation
from cxrflow.base.findings import from_cells, from_predicted, from_text, tally, to_states, to_text
from cxrflow.base.manifest import read_manifest, write_manifest
from cxrflow.base.schema import score_column, truth_column
from cxrflow.catalog.database import new_catalog
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.label_formats import ImageLabels
from cxrflow.catalog.labels import LabelFiles, add_labels
from cxrflow.images.phantoms import PATIENT_RULE
from cxrflow.metrics.evaluation_text import rate
from cxrflow.pipeline.evaluate_job import check_evaluate, evaluate
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.pipeline.predict_job import predict
from cxrflow.pipeline.train_job import check_train, train
from cxrflow.spark.scorer import read_run
from cxrflow.training.feed import Feed

NAN = float("nan")
FINDINGS = ["Opacity", "Second view", "Rare"]


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ({"A": "1", "B": "0", "C": "1.0"}, "A|C"),
        ({"A": "1.0", "B": "-1.0", "C": None, "D": "nan"}, "A|?B|?C|?D"),
        ({"A": "0", "B": "False"}, "No Finding"),
        ({"A": "", "B": " "}, None),  # nothing is known of it
        ({"A": "1", "B": "", "No Finding": ""}, "A|?B"),
        ({"A": "", "B": "-1", "No Finding": "1.0"}, "?B"),  # what is not mentioned is absent, what is doubtful stays so
    ],
)
def test_a_line_of_a_labels_file(cells, text):
    assert from_cells(cells) == text


def test_a_text_and_what_it_says():
    assert from_text("Infiltration| Effusion|?Edema") == ({"Effusion", "Infiltration"}, {"Edema"})
    assert to_text(["B", "A"], ["D", "C"]) == "A|B|?C|?D" and from_text(to_text([])) == (set(), set())
    np.testing.assert_array_equal(
        to_states(["A|?C", "No Finding", "B", "B"], ["A", "B", "C"]),
        np.float32([[1, 0, NAN], [0, 0, 0], [0, 1, 0], [0, 1, 0]]),
    )
    assert from_predicted(np.array([[True, False, True], [False] * 3]), ["B", "C", "A"]) == ["A|B", "No Finding"]
    assert tally({"A|?C": 2, "A|B": 3, "No Finding": 4}) == ({"A": 5, "B": 3}, {"C": 2})


@pytest.mark.parametrize("text", ["No Finding|Effusion", "A|?A"])
def test_a_text_that_contradicts_itself(text):
    with pytest.raises(UserError, match="can occur together"):
        from_text(text)


def lines_of(phantoms):
    """What is known of each phantom: half have opacities, half are second views, and of some a finding is not known."""
    for path in sorted(phantoms.rglob("phantom*.jpeg")):
        patient, view = (int(part) for part in path.name.removeprefix("phantom").split("_")[:2])
        opacity, second, rare = patient % 2, view - 1, int(patient % 8 == 3)
        yield (
            path,
            {
                "Opacity": "" if patient % 5 == 0 else opacity,
                "Second view": -1 if patient % 7 == 2 else second,
                "Rare": 1 if rare else NAN if patient % 3 == 0 else 0,
            },
        )


@pytest.fixture(scope="module")
def config(phantoms, tmp_path_factory) -> IngestConfig:
    folder = tmp_path_factory.mktemp("findings")
    with open(folder / "labels.csv", "w", newline="") as file:
        file.write("path, " + ", ".join(FINDINGS) + "\n")
        writer = csv.DictWriter(file, ["path", *FINDINGS])
        writer.writerows({"path": path, **known} for path, known in lines_of(phantoms))
    return IngestConfig(
        images=str(phantoms),
        table=str(folder / "table"),
        labels=str(folder / "labels.csv"),
        findings="all",
        height=48,
        width=40,
        shard_rows=6,
        split="0.6,0.2,0.2",
        patients=PATIENT_RULE,
    )


@pytest.fixture(scope="module")
def result(spark, config):
    return ingest(spark, config)


def samples_of(table):
    return pd.read_parquet(f"{table}/samples").astype({"split": str})


def test_the_table_holds_what_the_file_says(config, result, phantoms):
    expected = {
        str(path): from_cells({name: str(cell) for name, cell in known.items()}) for path, known in lines_of(phantoms)
    }
    samples, manifest = samples_of(config.table), read_manifest(config.table)
    assert dict(zip(samples["path"], samples["label"], strict=True)) == expected
    assert (manifest.task, manifest.labels, manifest.split_thresholds) == ("multi", FINDINGS, {"*": [0.6, 0.8]})
    for split, rows in samples.groupby("split"):
        states = to_states(rows["label"].tolist(), FINDINGS)
        for kind, counted in (("counts", states == 1), ("absent", states == 0), ("unknown", np.isnan(states))):
            assert result[kind][split] == dict(zip(FINDINGS, counted.sum(axis=0), strict=True))
        assert result["patients"][split] == rows["patient_id"].nunique() == {"train": 14, "val": 5, "test": 5}[split]
    assert samples["patient_id"].nunique() == 24 and result["unknown"]["train"]["Opacity"] > 0


def test_targets_are_fed_with_what_is_not_known(config, result):
    labels = samples_of(config.table).set_index("sample_id")["label"]
    for rank in range(2):
        batches = list(
            Feed(config.table, read_manifest(config.table), "train", rank=rank, workers=2, batch_size=5).epoch()
        )
        assert {batch.targets.shape for batch in batches} == {(5, 3)}
        for batch in batches:
            expected = to_states(labels.loc[batch.sample_ids].tolist(), FINDINGS)
            np.testing.assert_array_equal(batch.targets[: len(expected)], expected)


LOSS = """
import keras
import numpy as np
from cxrflow.base.manifest import Manifest, Shard
from cxrflow.training.objectives import TASKS

nan = np.nan
targets = np.float32([[1, nan], [0, 0], [nan, nan], [1, 1], [0, nan], [nan, 1]])
shard = Shard(path="", split="train", rows=6, labels={"A": 2, "B": 2}, unknown={"A": 2, "B": 3}, checksum="")
manifest = Manifest(generation=1, height=1, width=1, labels=["A", "B"], shard_rows=6, shards=[shard],
                    quarantined={}, quarantine=[], config={}, columns={}, task="multi")
logits = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

def step(rows, weights):
    '(loss, gradient (6, 2) of the logits): a network whose weights are the logits of each row'
    layer = keras.layers.Dense(2, use_bias=False)  # the loss is of logits
    model = keras.Sequential([keras.Input((6,)), layer])
    layer.set_weights([logits])
    model.compile(keras.optimizers.SGD(1.0), loss=TASKS["multi"].loss(manifest))
    logs = model.train_on_batch(np.eye(6, dtype=np.float32)[rows], targets[rows], np.float32(weights), return_dict=True)
    return float(logs["loss"]), logits - layer.get_weights()[0]

loss, gradient = step(np.arange(6), np.ones(6))
known = ~np.isnan(targets)
chance = 1 / (1 + np.exp(-logits))
assert known.sum() == 7 and np.isfinite(loss)
np.testing.assert_allclose(loss, -np.log(np.where(targets == 1, chance, 1 - chance)[known]).mean(), rtol=1e-5)
np.testing.assert_allclose(gradient[known], (chance - targets)[known] / 7, atol=1e-6)
assert (gradient[~known] == 0).all()
# Two workers with batches of 4, of which the second has only two true rows and knows little of them.
parts = [step(np.array([0, 1, 3, 4]), np.full(4, 8 / 6)), step(np.array([2, 5, 0, 1]), np.array([8 / 6, 8 / 6, 0, 0]))]
np.testing.assert_allclose(np.mean([part[0] for part in parts]), loss, rtol=1e-6)
np.testing.assert_allclose(np.mean([part[1] for part in parts], axis=0), gradient, atol=1e-7)
figures = TASKS["multi"].validation_metrics(targets, chance)
np.testing.assert_allclose(figures["val_loss"], loss, rtol=1e-5)
"""


@pytest.mark.spark
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_nothing_is_learnt_from_what_is_not_known(backend):
    """All known targets have the same weight, on every worker. A separate process selects the backend."""
    done = subprocess.run(
        [sys.executable, "-c", LOSS], env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


RECIPE = {"epochs": 2, "model": "plain", "lr_scaling": "none", "weight_decay": 0.0}

ALONE = """
import json, sys
from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.train_job import train
print(json.dumps(train(None, TrainConfig(**json.loads(sys.argv[1])))))
"""


@pytest.fixture(scope="module")
def trained(spark, config, result, tmp_path_factory):
    """(result, run directory) of two workers."""
    run = tmp_path_factory.mktemp("together") / "run"
    return train(
        spark, TrainConfig(table=config.table, run=str(run), launcher="torch", workers=2, batch_size=4, **RECIPE)
    ), run


def train_alone(**config):
    """The result of one worker in a process of its own, for the backend's sake."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps({**RECIPE, **config})],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_two_workers_learn_what_one_does_though_they_know_more_or_less(config, trained, tmp_path):
    train_alone(table=config.table, run=str(tmp_path / "run"), batch_size=8)
    records = [json.loads((run / "history.json").read_text()) for run in (tmp_path / "run", trained[1])]
    for name in ("loss", "val_loss"):
        one, two = ([epoch[name] for epoch in record["epochs"]] for record in records)
        assert two == pytest.approx(one, rel=1e-4)


def test_evaluate_predict_and_report_follow(spark, config, phantoms, trained, tmp_path):
    from cxrflow.report.page import write_report

    result, run = trained
    thresholds = dict(zip(FINDINGS, result["threshold"], strict=True))
    figures = evaluate(spark, EvaluateConfig(run=str(run), table=config.table, split="val", bootstrap=20))
    assert figures["auc"] == pytest.approx(result["val_auc"], abs=1e-6) and figures["thresholds"] == thresholds
    scored = pd.read_parquet(Evaluation(str(run), figures["evaluation"]).scores).set_index("path")
    truth = scored[[truth_column(name) for name in FINDINGS]].to_numpy()
    np.testing.assert_array_equal(truth, to_states(scored["label"].tolist(), FINDINGS))
    assert [figures["per_label"][name]["n"] for name in FINDINGS] == (~np.isnan(truth)).sum(axis=0).tolist()
    assert result["val_accuracy"] == pytest.approx(
        np.mean(((scored[[score_column(name) for name in FINDINGS]].to_numpy() >= 0.5) == truth)[~np.isnan(truth)])
    )

    done = predict(spark, PredictConfig(run=str(run), images=str(phantoms), predictions=str(tmp_path / "p")))
    found = pd.read_parquet(tmp_path / "p").query("reason.isna()").set_index("path")
    predicted = np.stack(
        [found[score_column(name)] >= (0.5 if thresholds[name] is None else thresholds[name]) for name in FINDINGS],
        axis=1,
    )
    assert found["predicted_label"].tolist() == from_predicted(predicted, FINDINGS)
    assert done["predicted"] == {
        name: count for name, count in zip(FINDINGS, predicted.sum(axis=0).tolist(), strict=True) if count
    }
    assert (found.loc[scored.index, "predicted_label"] == scored["predicted_label"]).all()

    written = write_report(ReportConfig(run=str(run), predictions=str(tmp_path / "p"), examples=3))
    page = (run / "report.html").read_text()
    drawn = {url.rsplit("/", 1)[1] for url in written["pictures"]}
    assert drawn == {"loss.png", "validation.png", "roc.png", "precision_recall.png"}
    assert all(f"<td>{name}</td>" in page for name in FINDINGS) and rate(figures["auc"]) in page


def test_tables_and_runs_of_one_label_and_of_several_do_not_mix(spark, config, table, trained, tmp_path):
    with pytest.raises(
        UserError, match="expected a table with several findings per image .*, but .* is one with one label per image"
    ):
        check_evaluate(EvaluateConfig(run=str(trained[1]), table=str(table)))
    with pytest.raises(UserError, match="was made with --findings all; use the same flags"):
        ingest(spark, dataclasses.replace(config, findings=None))


def test_findings_that_a_table_lacks_are_unknown(trained):
    run = read_run(str(trained[1]))
    texts = pd.Series(["Opacity", "?Opacity", "No Finding"])
    np.testing.assert_array_equal(run.truth(texts, ["Opacity"]), [[1, NAN, NAN], [NAN, NAN, NAN], [0, NAN, NAN]])


def write_tiny(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 8), np.uint8)).save(folder / name)


def test_names_in_one_column_and_labels_that_change(spark, tmp_path):
    """As NIH has them; what changed is done again, and nobody moves."""
    names = [f"{number}.png" for number in range(12)]
    write_tiny(tmp_path / "images", names)
    texts = ["No Finding", "Effusion|Infiltration", "Infiltration", "Infiltration|Effusion"] * 3
    config = IngestConfig(
        images=str(tmp_path / "images"),
        table=str(tmp_path / "table"),
        labels=str(tmp_path / "labels.csv"),
        height=8,
        width=8,
        findings="all",
    )

    def ingest_labels(texts):
        (tmp_path / "labels.csv").write_text(
            "path,label\n" + "".join(f"{name},{text}\n" for name, text in zip(names, texts, strict=True))
        )
        return ingest(spark, config)

    first = ingest_labels(texts)
    before = samples_of(config.table).set_index("path").sort_index()
    assert sum(counts["Infiltration"] for counts in first["counts"].values()) == 9
    again = ingest_labels(
        ["Infiltration|Effusion", *texts[1:]]
    )  # the first of them has findings now; others are the same in another order
    after = samples_of(config.table).set_index("path").sort_index()
    assert (again["replaced"], again["added"]) == (1, 0) and after["split"].equals(before["split"])
    assert after.loc[str(tmp_path / "images" / "0.png"), "label"] == "Effusion|Infiltration"
    with pytest.raises(UserError, match="expected the findings of the table .Effusion, Infiltration., also got Mass"):
        ingest_labels(["Mass", *texts[1:]])
    assert read_manifest(config.table).labels == ["Effusion", "Infiltration"]


@pytest.mark.parametrize(
    ("findings", "rows", "message"),
    [
        ("all", {"A": ["1", "maybe"]}, "expected 1, 0, -1 or an empty cell in the column A, got 'maybe'"),
        (
            "all",
            {"label": ["A", "A|No Finding"]},
            "or a single name for an image without findings, got 'A|No Finding'",
        ),
        (
            "A,Efusion",
            {"label": ["A", "Effusion"]},
            "expected names from the labels file, which has A, Effusion; got Efusion",
        ),
        ("all", {"A|B": ["1", "0"]}, "expected names of findings without | and without a leading ?, got A|B"),
        ("all", {"label": ["No Finding", ""]}, "expected at least one finding, found none"),
    ],
)
def test_a_labels_file_that_cannot_be_understood(findings, rows, message):
    reader = FindingsReader(findings, [])
    columns = list(rows)
    with pytest.raises(UserError, match=re.escape(message)):
        for number, cells in enumerate(zip(*rows.values(), strict=True)):
            values = dict(zip(columns, cells, strict=True))
            label = values.get("label")
            reader.to_text(ImageLabels(f"{number}.png", number + 2, label, None if "label" in values else values))
        reader.findings()


@pytest.mark.parametrize(
    ("findings", "columns", "message"),
    [
        ("A,C", "path,A,B", "expected the columns C of --findings, got A, B"),
        ("all", "path,split", "expected the columns of a known layout, got path, split"),
    ],
)
def test_columns_that_are_missing(tmp_path, findings, columns, message):
    (tmp_path / "labels.csv").write_text(f"{columns}\n" + ",".join("1" for _ in columns.split(",")) + "\n")
    config = IngestConfig(images="/x", table="/t", labels=str(tmp_path / "labels.csv"), findings=findings)
    with new_catalog(str(tmp_path / "staging"), 64 << 20) as catalog, pytest.raises(UserError, match=message):
        add_labels(catalog, config, LabelFiles(config.labels, {}), FindingsReader(findings, []))


@pytest.mark.parametrize(
    ("edit", "change", "message"),
    [
        ({}, {"positive_label": "Rare"}, "--positive-label: expected none for a table with several findings"),
        (
            {"labels": {"Opacity": 2, "Second view": 1}},
            {},
            "not so for Rare; ingest .* --findings Opacity,Second view",
        ),
        ({"unknown": {"Opacity": 4, "Second view": 5}}, {}, "not so for Opacity, Second view; .*--findings Rare"),
    ],
)
def test_a_table_of_which_too_little_is_known(config, result, tmp_path, edit, change, message):
    manifest = read_manifest(config.table)
    shard = dataclasses.replace(
        manifest.of_split("train")[0],
        **{"rows": 6, "labels": {"Opacity": 2, "Second view": 1, "Rare": 1}, "unknown": {}, **edit},
    )
    write_manifest(str(tmp_path), dataclasses.replace(manifest, shards=[shard, *manifest.of_split("val")]))
    with pytest.raises(UserError, match=message):
        check_train(TrainConfig(table=str(tmp_path), run=str(tmp_path / "run"), **change))


def test_three_labels_of_real_images(spark, kermany, tmp_path):
    """Bacteria, virus and normal, by a rule; a file that it does not match goes to quarantine."""
    for folder, pattern in (("NORMAL", "IM-*"), ("PNEUMONIA", "*bacteria*"), ("PNEUMONIA", "*virus*")):
        (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((kermany / folder).glob(pattern))[:20]:
            (tmp_path / "images" / folder / path.name).symlink_to(path)
    write_tiny(tmp_path / "images" / "PNEUMONIA", ["other.png"])
    labels = ["NORMAL", "bacteria", "virus"]
    made = ingest(
        spark,
        IngestConfig(
            images=str(tmp_path / "images"),
            table=str(tmp_path / "table"),
            height=32,
            width=32,
            label_rule="(bacteria|virus|NORMAL)",
            split="0.6,0.2,0.2",
        ),
    )
    assert made["reasons"] == {"unlabelled": 1} and made["samples"] == 60 and "unknown" not in made
    assert [sum(counts[label] for counts in made["counts"].values()) for label in labels] == [20, 20, 20]
    assert (
        train_alone(table=str(tmp_path / "table"), run=str(tmp_path / "run"), batch_size=16, epochs=1)["threshold"]
        is None
    )
    figures = evaluate(spark, EvaluateConfig(run=str(tmp_path / "run"), table=str(tmp_path / "table"), bootstrap=20))
    assert (
        figures["labels"] == labels
        and np.sum(figures["confusion"]) == figures["n"]
        and set(figures["per_label"]) == set(labels)
    )
    done = predict(
        spark,
        PredictConfig(run=str(tmp_path / "run"), images=str(tmp_path / "images"), predictions=str(tmp_path / "p")),
    )
    found = pd.read_parquet(tmp_path / "p")
    scores = found[[score_column(label) for label in labels]].to_numpy()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert (
        found["predicted_label"].tolist() == [labels[index] for index in scores.argmax(axis=1)] and done["scored"] == 61
    )
