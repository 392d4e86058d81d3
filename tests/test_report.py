"""The page of runs that no other test trains: multi-label runs, and runs without an evaluation."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrflow.base.config import EvaluateConfig, ReportConfig, TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.evaluations import Evaluation
from cxrflow.base.manifest import RUN_VERSION, Manifest, RunDirectory, read_manifest, write_json
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import DOUBTS, Recipe
from cxrflow.metrics.evaluation_text import as_text, rate, span, warnings
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS
from cxrflow.pipeline.evaluate_job import check_evaluate, evaluate_scored, write_results
from cxrflow.report.page import write_report
from cxrflow.spark.scorer import Run

FINDINGS = ["Edema", "Effusion", "Mass", "Nodule"]
TABLE_FINDINGS = FINDINGS[:3]

pytestmark = pytest.mark.spark  # the table


@pytest.fixture
def trained(table, tmp_path) -> RunDirectory:
    """The files of a multi-label run on the phantoms, with four findings."""
    manifest, run = read_manifest(str(table)), RunDirectory(str(tmp_path / "run"))
    counts = {"train": dict.fromkeys(FINDINGS, 13), "val": dict.fromkeys(FINDINGS, 5)}
    write_json(
        run.config,
        {
            "version": RUN_VERSION,
            "cxrflow": "0",
            "keras": "3",
            "backend": "torch",
            "workers": 1,
            "task": "multi",
            "labels": FINDINGS,
            "recipe": manifest.recipe(),
            "positive_label": None,
            "prevalence": dict.fromkeys(FINDINGS, 0.3),
            "data": {**manifest.facts(), "counts": counts, "unknown": {"train": {"Mass": 7}, "val": {}}},
            "versions": {"python": "3"},
            "train": to_dict(TrainConfig(table=str(table), run=run.url)),
            "ingest": manifest.config,
        },
    )
    epochs = [
        {"epoch": number, "loss": 0.7, "val_loss": 0.6, "val_auc": auc, "val_accuracy": 0.9}
        for number, auc in ((1, 0.8), (2, 0.7))
    ]
    saved = {"epoch": 2, "tta": 5, "val_loss": 0.5, "val_auc": 0.912, "val_accuracy": 0.9}
    write_json(
        run.history,
        {
            "epochs": epochs,
            "best": epochs[0],
            "finished": True,
            "saved": {**saved, "threshold": [0.5, 0.4, None, 0.6], "temperature": 2.0},
        },
    )
    return run


def change(url: str, **fields) -> None:
    content = json.loads(Path(url).read_text())
    Path(url).write_text(json.dumps({**content, **fields}))


def scored_rows(table) -> pd.DataFrame:
    """What scoring returns: the table's rows, with made-up labels and scores."""
    random = np.random.default_rng(0)
    rows = []
    for shard in read_manifest(str(table)).of_split("all"):
        part = read_shard(str(table / shard.path), ["path", "patient_id"]).to_pandas()
        rows.append(part.assign(split=shard.split, shard=shard.path, row=range(len(part))))
    scored = pd.concat(rows, ignore_index=True)
    present = random.random((len(scored), 3)) < [0.4, 0.5, 0.05]
    texts = [
        [name for name, here in zip(TABLE_FINDINGS, row, strict=True) if here]
        + ["?Mass"] * (not row[2] and index % 3 == 0)
        for index, row in enumerate(present)
    ]
    scored["label"] = ["|".join(row) or "No Finding" for row in texts]
    for index, name in enumerate(FINDINGS):
        here = present[:, index] if name in TABLE_FINDINGS else 0
        scored[score_column(name)] = (0.3 * here + 0.7 * random.random(len(scored))).astype(np.float32)
    for name in (*IMAGE_FACTS, *SOURCE_FACTS):
        scored[name] = random.random(len(scored)).astype(np.float32)
    # As the table's text columns arrive: of 24 patients, 3 are adults, and the sex of 12 is not stated.
    patient = scored["patient_id"].rank(method="dense").astype(int) - 1
    scored["patient_age"] = np.where(patient < 3, "40.5", np.where(patient < 12, "0.5", "3"))
    scored["patient_sex"] = np.where(patient < 12, "F", None)
    scored["modality"] = "DX"
    return scored


def run_of(manifest: Manifest, trained: RunDirectory, temperature: float) -> Run:
    return Run(
        task="multi",
        labels=FINDINGS,
        positive=None,
        threshold=[0.5, 0.4, None, 0.6],
        temperature=temperature,
        prevalence=(0.3, 0.3, 0.3, 0.3),
        recipe=Recipe(**manifest.recipe()),
        backend="torch",
        model=trained.model,
    )


@dataclasses.dataclass
class Evaluated:
    """A multi-label evaluation of made-up scores: what the evaluate job would return and write."""

    run: RunDirectory
    scored: pd.DataFrame
    result: dict


@pytest.fixture
def evaluated(table, trained) -> Evaluated:
    manifest, scored = dataclasses.replace(read_manifest(str(table)), labels=TABLE_FINDINGS), scored_rows(table)
    facts = {name: np.linspace(0, 1, 40).tolist() for name in IMAGE_FACTS} | {"mean": [10.0] * 40}
    taken = {"patients": 400, "groupings": {"patient_sex": {"all": {"F": 200, "M": 600}}}}
    groups = {"all": {"n": 40, "facts": facts}}
    write_json(trained.reference, {"split": "val", "patients": 40, "groups": groups, "taken": taken})
    config = EvaluateConfig(run=trained.url, table=str(table), split="all", bootstrap=50, subgroups=r"(OPACITY|NORMAL)")
    result = {
        "split": "all",
        "table": str(table),
        "leakage": {"table": "own"},
        **evaluate_scored(config, run_of(manifest, trained, temperature=2.0), manifest, scored),
    }
    return Evaluated(trained, scored, write_results(trained, scored, result))


def page_text(run: RunDirectory) -> str:
    """The page with each run of white space as one space."""
    return " ".join(Path(run.report).read_text().split())


def test_findings_are_evaluated_where_they_are_known(evaluated):
    scored, result = evaluated.scored, evaluated.result
    mass = result["per_label"]["Mass"]
    assert mass["n"] == 48 - scored["label"].str.contains("?Mass", regex=False).sum() < 48
    assert mass["positives"] == scored["label"].str.split("|").map(lambda names: "Mass" in names).sum()
    assert result["prevalence"]["here"]["Mass"] == pytest.approx(mass["positives"] / mass["n"])
    nodule = result["per_label"]["Nodule"]
    assert nodule["n"] == 0 and result["prevalence"]["here"]["Nodule"] is None
    assert nodule["auc"] is nodule["calibration"]["ece"] is None
    assert set(result["temperature"]["ece_before"]) == set(FINDINGS) and result["mistakes"]
    assert (scored["predicted_label"].str.contains("Edema") == (scored["score_Edema"] >= 0.5)).all()


def test_multi_label_shift_ignores_scores(evaluated):
    shift = evaluated.result["shift"]
    assert shift["large"] == ["mean"] and set(shift["facts"]) == {*IMAGE_FACTS}


def test_subgroups_are_those_of_the_flag_and_of_how_images_were_taken(evaluated):
    """Each with at least five patients; there is only one modality."""
    found = {grouping["by"]: grouping for grouping in evaluated.result["subgroups"]}
    assert list(found) == ["(OPACITY|NORMAL)", "patient_sex", "age"]
    patients = {by: {name: group["patients"] for name, group in found[by]["groups"].items()} for by in found}
    assert patients["patient_sex"] == {"F": 12, "not stated": 12}
    assert patients["age"] == {"0-1": 9, "1-60": 15} and found["age"]["unshown"] == 0
    assert list(evaluated.scored["subgroup"].unique()) in (["NORMAL", "OPACITY"], ["OPACITY", "NORMAL"])


def test_shift_says_who_was_examined_otherwise(evaluated):
    taken = evaluated.result["shift"]["taken"]
    (sex,) = taken["groupings"].values()
    assert sex["trained"] == {"F": 0.25, "M": 0.75, "not stated": 0.0}
    assert sex["here"] == {"F": 0.5, "M": 0.0, "not stated": 0.5} and sex["distance"] == 0.75
    assert taken["large"] == ["patient_sex"]
    (line,) = (line for line in warnings(evaluated.result) if "taken otherwise" in line)
    assert "(patient_sex): M 75% there, 0% here, not stated 0% there, 50% here, F 25% there, 50% here." in line
    text = as_text(evaluated.result)
    assert "patient_sex, training and here: F 25% 50%, M 75% 0%, not stated 0% 50%; distance 0.75" in text
    assert "AUC by age\n0-1 " in text


def test_page_shows_each_grouping_and_its_shift(evaluated):
    write_report(ReportConfig(run=evaluated.run.url, examples=1))
    text = page_text(evaluated.run)
    for by in ("(OPACITY|NORMAL)", "patient_sex", "age"):
        assert f"<h3>By <code>{by}</code></h3>" in text
    shift = text[text.index("How the images were taken") :]
    assert '<td>patient_sex</td><td>F</td> <td class="number">25.0%</td> <td class="number">50%</td>' in shift
    assert "Results by <code>(OPACITY|NORMAL)</code>" in text and "Other factors were not evaluated" in text


def test_page_reads_subgroups_of_an_older_version(evaluated):
    older = {name: value for name, value in evaluated.result["subgroups"][0].items() if name != "unshown"}
    url = Evaluation(evaluated.run.url, "table-all-1").metrics
    shift = {name: value for name, value in evaluated.result["shift"].items() if name != "taken"}
    write_json(url, {**evaluated.result, "subgroups": older, "shift": shift})
    write_report(ReportConfig(run=evaluated.run.url, examples=1))
    text = page_text(evaluated.run)
    assert "<h3>By <code>(OPACITY|NORMAL)</code></h3>" in text and "How the images were taken" not in text


def test_page_counts_how_training_images_were_taken(trained):
    data = json.loads(Path(trained.config).read_text())["data"]
    many = {"images": 1200, "patients": 1100}
    data["audit"]["groups"] = {"age": {"splits": {"train": {"18-40": many, "5-18": many}, "val": {"5-18": None}}}}
    change(trained.config, data=data)
    write_report(ReportConfig(run=trained.url))
    text = page_text(trained)
    ages = text[text.index("<h3>By <code>age</code></h3>") :]
    assert '<th class="number">5-18</th><th class="number">18-40</th>' in ages
    assert '<td>train</td><td class="number">1,200<small>1,100 patients</small></td>' in ages
    assert '<td>val</td><td class="number">fewer than 5 patients</td><td class="number">0</td>' in ages


def test_metrics_file_is_strict_json(evaluated):
    written = json.loads(Path(Evaluation(evaluated.run.url, "table-all-1").metrics).read_text())
    assert json.loads(json.dumps(evaluated.result, allow_nan=False)) == written


def test_page_of_a_multi_label_evaluation(evaluated):
    (Path(evaluated.run.url) / "confusion.png").write_bytes(b"of an earlier evaluation")
    written = write_report(ReportConfig(run=evaluated.run.url, examples=2))
    text, result = page_text(evaluated.run), evaluated.result
    pictures = {"loss.png", "validation.png", "roc.png", "precision_recall.png", "subgroups.png"}
    assert {url.rsplit("/", 1)[1] for url in written["pictures"]} == pictures
    assert not (Path(evaluated.run.url) / "confusion.png").exists()
    assert all(name in text for name in FINDINGS) and rate(result["auc"]) in text and "over 3 of 4 labels" in text
    assert "No, some measures differ much." in text
    for group in result["subgroups"][0]["groups"].values():
        assert f"{group['auc_labels']} findings; all images {group['auc_of_all']:.3f}" in text
    # There is no model file here, so no example has a heat map beside it.
    assert text.count("X-ray: label") == 2 * 5 and "Grad-CAM heat map" not in text


def evaluate_at_prevalence(table, trained) -> dict:
    manifest, scored = dataclasses.replace(read_manifest(str(table)), labels=TABLE_FINDINGS), scored_rows(table)
    config = EvaluateConfig(
        run=trained.url,
        table=str(table),
        split="all",
        bootstrap=5,
        prevalence=",".join(f"{name}=0.1" for name in FINDINGS),
    )
    result = evaluate_scored(config, run_of(manifest, trained, temperature=1.0), manifest, scored)
    write_results(trained, scored, {"split": "all", "table": str(table), "leakage": {"table": "own"}, **result})
    return result


def test_calibration_error_is_of_adjusted_scores(table, trained):
    result = evaluate_at_prevalence(table, trained)
    after = {name: figures["calibration"]["ece"] for name, figures in result["per_label"].items()}
    assert result["temperature"]["ece_before"] == pytest.approx(after, abs=1e-6) and after["Edema"] > 0.1


def test_page_shows_predictive_values_at_another_prevalence(table, trained):
    result = evaluate_at_prevalence(table, trained)
    write_report(ReportConfig(run=trained.url, examples=1))
    text, clinic = page_text(trained), result["per_label"]["Edema"]["clinic"]
    interval = span(clinic["ppv_interval"])
    assert f"{rate(clinic['ppv'])}<small>{interval}</small><small>prevalence 10.0 %</small>" in text
    assert rate(result["thresholds"]["Edema"]) in text and "adjusted to another prevalence" in text


def test_page_warns_about_splits_that_training_used(evaluated):
    write_report(ReportConfig(run=evaluated.run.url, examples=1))
    assert "the split all of the run&#39;s own table was evaluated" in page_text(evaluated.run)


def test_metrics_of_an_older_version_are_refused(evaluated):
    older = {name: value for name, value in evaluated.result.items() if name != "leakage"}
    write_json(Evaluation(evaluated.run.url, "table-all-1").metrics, older)
    with pytest.raises(UserError, match=r"got those of an older one in .*; evaluate the run again"):
        write_report(ReportConfig(run=evaluated.run.url))


def test_page_shows_the_newest_evaluation_or_the_named_one(evaluated):
    second = write_results(evaluated.run, evaluated.scored, {**evaluated.result, "auc": 0.123})
    assert second["evaluation"] == "table-all-2"
    for name, shown, auc in ((None, "table-all-2", 0.123), ("table-all-1", "table-all-1", evaluated.result["auc"])):
        written = write_report(ReportConfig(run=evaluated.run.url, evaluation=name, examples=1))
        text = page_text(evaluated.run)
        assert written["evaluation"] == shown and f"Evaluation {shown}:" in text and rate(auc) in text


def test_page_without_an_evaluation(trained):
    result = write_report(ReportConfig(run=trained.url))
    text = page_text(trained)
    assert result["evaluation"] is None and "has not been evaluated" in text and "not a medical device" in text
    assert text.count("data:image/") == len(result["pictures"]) == 2


def test_page_counts_the_training_data(table, trained):
    write_report(ReportConfig(run=trained.url))
    text, rows = page_text(trained), read_manifest(str(table)).rows("train")
    cells = [f'<td class="number">{count}' for count in (rows, 13, 13, 13)]
    assert f"{'</td> '.join(cells)}<small>7 unknown" in text and f"<dd>{rows} images of" in text


def test_page_describes_the_saved_model(trained):
    write_report(ReportConfig(run=trained.url))
    text = page_text(trained)
    assert "a score from 0 to 1 for each of Edema, Effusion, Mass, Nodule. Trained from random weights" in text
    assert "Its validation AUC is 0.912 with test-time augmentation over 5 copies of each image." in text
    assert "Without test-time augmentation, epoch 1 of 2 had the best validation AUC, 0.800." in text
    assert (
        "Edema 0.500, Effusion 0.400, Mass 0.500 (default: too few validation images to choose it), Nodule 0.600. The "
        "thresholds were chosen on validation data (rule balanced)."
    ) in text


def test_page_describes_a_binary_run_that_is_not_finished(trained):
    """With two labels, and from the weights of another run."""
    train = json.loads(Path(trained.config).read_text())["train"]
    change(
        trained.config,
        task="single",
        labels=["Edema", "Mass"],
        positive_label="Mass",
        train={**train, "init_weights": "/w.keras"},
    )
    saved = json.loads(Path(trained.history).read_text())["saved"] | {"epoch": 1, "tta": 1, "threshold": 0.375}
    change(trained.history, saved=saved, finished=False)
    write_report(ReportConfig(run=trained.url))
    text = page_text(trained)
    assert "Training is not finished. The saved model has the weights after epoch 1, which has the best" in text
    assert "Its validation AUC is 0.912 without test-time augmentation." in text
    assert 'scores that add up to 1 for Edema, Mass. Trained from the weights of <span class="path">/w.keras' in text
    assert "A temperature of 2.000 calibrates its scores. Mass is predicted if its score is at least 0.375." in text


def test_page_of_predictions_at_another_prevalence(trained, tmp_path):
    """The prevalence moved the threshold of Edema from 0.5 to 0.1, and the least certain prediction is beside 0.1."""
    edema = np.array([0.9, 0.5, 0.12, 0.01])
    columns = dict(zip(map(score_column, FINDINGS), (edema, 0.001, 0.001, 0.999), strict=True))
    (tmp_path / "p").mkdir()
    pd.DataFrame(
        {
            "path": [f"/gone/{number}.png" for number in range(4)],
            "reason": None,
            **columns,
            "predicted_label": np.where(edema > 0.1, "Edema|Nodule", "Nodule"),
        }
    ).to_parquet(tmp_path / "p" / "predictions.parquet")
    write_report(ReportConfig(run=trained.url, predictions=str(tmp_path / "p"), examples=1))
    text = page_text(trained)
    least_certain = text[text.index("Predictions: least certain predictions") :]
    assert "predicted Edema|Nodule · score of Edema 0.120 · 2.png" in least_certain
    for label, files in (("Edema", 3), ("Nodule", 4)):
        assert f'<tr><td>{label}</td><td class="number">{files}</td></tr>' in text


def predictions_with(notes: list[str | None] | None, folder: Path) -> str:
    scores = {score_column(name): 0.1 for name in FINDINGS}
    columns = {"path": [f"/gone/{number:02}.png" for number in range(14)], "predicted_label": "Edema", **scores}
    rows = pd.DataFrame({**columns, "reason": None} | ({} if notes is None else {"note": notes}))
    folder.mkdir()
    rows.to_parquet(folder / "predictions.parquet")
    return str(folder)


def test_page_counts_the_notes_of_predictions(trained, tmp_path):
    notes = [f"nearly empty: {number} of 256 gray levels" for number in range(11)]
    notes += ["first of 3 frames; clipped: 51 % of the pixels are black; nearly empty: 3 of 256 gray levels"]
    url = predictions_with([*notes, "first of 3 frames", ""], tmp_path / "p")
    write_report(ReportConfig(run=trained.url, predictions=url, examples=1))
    text = page_text(trained)
    doubts = text[text.index("Predictions of images that may be wrong") :]
    paths = ", ".join(f"/gone/{number:02}.png" for number in range(10))
    assert '<td>nearly_empty</td><td class="number">12</td>' in doubts and f"{paths}, ..." in doubts
    assert '<td>clipped</td><td class="number">1</td>' in doubts and '<td class="path">/gone/11.png</td>' in doubts
    assert DOUBTS["clipped"].advice in doubts and "00.png · may be wrong: nearly_empty" in text
    assert '<tr><td>first of 3 frames</td><td class="number">1</td></tr>' in text


@pytest.mark.parametrize("notes", [None, [""] * 14, [None] * 14])
def test_page_of_predictions_without_notes(notes, trained, tmp_path):
    """An older cxrflow wrote no notes."""
    url = predictions_with(notes, tmp_path / "p")
    write_report(ReportConfig(run=trained.url, predictions=url, examples=1))
    text = page_text(trained)
    assert '<td>Edema</td><td class="number">14</td>' in text
    assert "may be wrong</h3>" not in text and "changed or ignored" not in text


def test_page_shows_the_doubts_of_the_training_data(trained):
    data = json.loads(Path(trained.config).read_text())["data"]
    data["audit"]["doubts"] = {"extra_bits": {"files": 12, "examples": ["/x/1.dcm", "/x/2.dcm"]}}
    data["audit"]["notes"] = {f"note {number}": 20 - number for number in range(11)}
    change(trained.config, data=data)
    write_report(ReportConfig(run=trained.url))
    text = page_text(trained)
    assert "changed or ignored: note 0 in 20 files, note 1 in" in text and "note 9 in 11 files, and others." in text
    assert '<td>extra_bits</td><td class="number">12</td>' in text and "/x/1.dcm, /x/2.dcm, ..." in text
    assert f"Bits are set above those that the file declares, and were masked. {DOUBTS['extra_bits'].advice}" in text


def test_evaluation_refuses_images_of_another_resize(table, trained):
    """Black borders, and their absence, reveal the shape of the film."""
    Path(trained.model).touch()
    change(trained.config, recipe={**read_manifest(str(table)).recipe(), "resize": "pad"})
    with pytest.raises(UserError, match=r"expected images ingested with --resize pad, .*, got --resize stretch"):
        check_evaluate(EvaluateConfig(run=trained.url, table=str(table)))
