"""The page of runs that no training here makes: of several findings an image, and one that was not evaluated."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrflow.base.config import EvaluateConfig, ReportConfig, TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import RUN_VERSION, Manifest, RunDirectory, read_manifest, write_json
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import Recipe
from cxrflow.metrics.evaluation_text import rate, span
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS
from cxrflow.pipeline.evaluate_job import _write, check_evaluate, judge_scored
from cxrflow.report.page import write_report
from cxrflow.spark.scorer import Run

FINDINGS = ["Edema", "Effusion", "Mass", "Nodule"]
TOLD = FINDINGS[:3]  # by the table that is judged


@pytest.fixture
def trained(table, tmp_path) -> RunDirectory:
    """The records of a run on the phantoms, as if each image could have several of four findings."""
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
    kept = {"epoch": 2, "views": 5, "val_loss": 0.5, "val_auc": 0.912, "val_accuracy": 0.9}
    write_json(
        run.history,
        {
            "epochs": epochs,
            "best": epochs[0],
            "finished": True,
            "kept": {**kept, "threshold": [0.5, 0.4, None, 0.6], "temperature": 2.0},
        },
    )
    return run


def change(url: str, **fields) -> None:
    content = json.loads(Path(url).read_text())
    Path(url).write_text(json.dumps({**content, **fields}))


def scored_rows(table) -> pd.DataFrame:
    """What scoring would give: the table's rows with made-up truths and scores."""
    random = np.random.default_rng(0)
    rows = []
    for shard in read_manifest(str(table)).of_split("all"):
        part = read_shard(str(table / shard.path), ["path", "patient_id"]).to_pandas()
        rows.append(part.assign(split=shard.split, shard=shard.path, row=range(len(part))))
    scored = pd.concat(rows, ignore_index=True)
    present = random.random((len(scored), 3)) < [0.4, 0.5, 0.05]
    words = [
        [name for name, here in zip(TOLD, row, strict=True) if here] + ["?Mass"] * (not row[2] and place % 3 == 0)
        for place, row in enumerate(present)
    ]
    scored["label"] = ["|".join(row) or "No Finding" for row in words]
    for place, name in enumerate(FINDINGS):
        here = present[:, place] if name in TOLD else 0
        scored[score_column(name)] = (0.3 * here + 0.7 * random.random(len(scored))).astype(np.float32)
    for name in (*IMAGE_FACTS, *SOURCE_FACTS):
        scored[name] = random.random(len(scored)).astype(np.float32)
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


def test_several_findings_an_image_from_scores_to_page(table, trained):
    manifest, scored = dataclasses.replace(read_manifest(str(table)), labels=TOLD), scored_rows(table)
    write_json(
        trained.reference,
        {
            "split": "val",
            "patients": 40,
            "groups": {
                "all": {
                    "n": 40,
                    "facts": {name: np.linspace(0, 1, 40).tolist() for name in IMAGE_FACTS} | {"mean": [10.0] * 40},
                }
            },
        },
    )
    (Path(trained.url) / "confusion.png").write_bytes(b"of an evaluation before")
    config = EvaluateConfig(run=trained.url, table=str(table), split="all", bootstrap=50, subgroups=r"(OPACITY|NORMAL)")
    run = run_of(manifest, trained, temperature=2.0)
    result = {
        "split": "all",
        "table": str(table),
        "leakage": {"table": "own"},
        **judge_scored(config, run, manifest, scored),
    }
    mass = result["per_label"]["Mass"]
    assert mass["n"] == 48 - scored["label"].str.contains("?Mass", regex=False).sum() < 48
    assert mass["positives"] == scored["label"].str.split("|").map(lambda names: "Mass" in names).sum()
    assert result["prevalence"]["here"]["Mass"] == pytest.approx(mass["positives"] / mass["n"])
    assert result["shift"]["large"] == ["mean"] and set(result["shift"]["facts"]) == {*IMAGE_FACTS}
    nodule = result["per_label"]["Nodule"]
    assert (
        nodule["n"] == 0
        and nodule["auc"] is nodule["calibration"]["ece"] is result["prevalence"]["here"]["Nodule"] is None
    )
    assert set(result["temperature"]["ece_before"]) == set(FINDINGS) and result["mistakes"]
    assert (scored["predicted_label"].str.contains("Edema") == (scored["score_Edema"] >= 0.5)).all()
    _write(trained, scored, result)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads((table.parent / trained.metrics).read_text())
    written = write_report(ReportConfig(run=trained.url, examples=2))
    page = " ".join((table.parent / trained.report).read_text().split())
    assert {place.rsplit("/", 1)[1] for place in written["pictures"]} == {
        "loss.png",
        "validation.png",
        "roc.png",
        "precision_recall.png",
        "subgroups.png",
    }
    assert all(name in page for name in FINDINGS) and rate(result["auc"]) in page and "They do not." in page
    assert "over 3 of 4 labels" in page and all(
        f"{group['auc_labels']} findings; of all images {group['auc_of_all']:.3f}" in page
        for group in result["subgroups"]["groups"].values()
    )
    # No model file here, so no heat: each image stands alone.
    assert page.count("X-ray: truth") == 2 * 5 and "Grad-CAM over it" not in page
    assert not (Path(trained.url) / "confusion.png").exists()


def test_another_prevalence_shows_in_errors_and_predictive_values(table, trained):
    manifest, scored = dataclasses.replace(read_manifest(str(table)), labels=TOLD), scored_rows(table)
    config = EvaluateConfig(
        run=trained.url,
        table=str(table),
        split="all",
        bootstrap=5,
        prevalence=",".join(f"{name}=0.1" for name in FINDINGS),
    )
    result = judge_scored(config, run_of(manifest, trained, temperature=1.0), manifest, scored)
    after = {name: figures["calibration"]["ece"] for name, figures in result["per_label"].items()}
    assert result["temperature"]["ece_before"] == pytest.approx(after, abs=1e-6) and after["Edema"] > 0.1
    _write(trained, scored, {"split": "all", "table": str(table), "leakage": {"table": "own"}, **result})
    write_report(ReportConfig(run=trained.url, examples=1))
    words = " ".join(Path(trained.report).read_text().split())
    clinic, threshold = result["per_label"]["Edema"]["clinic"], result["thresholds"]["Edema"]
    assert (
        f"{rate(clinic['ppv'])}<small>{span(clinic['ppv_interval'])}</small><small>where 10.0 % have it</small>"
        in words
    )
    assert (
        rate(threshold) in words
        and "re-weighted for another prevalence" in words
        and "the split all was judged" in words
    )
    older = {name: value for name, value in json.loads(Path(trained.metrics).read_text()).items() if name != "leakage"}
    write_json(trained.metrics, older)
    with pytest.raises(UserError, match="is an older one's; run jobs/evaluate.py again"):
        write_report(ReportConfig(run=trained.url))


def test_a_run_that_was_not_evaluated(table, trained, tmp_path):
    result = write_report(ReportConfig(run=trained.url))
    page = (tmp_path / "run" / "report.html").read_text()
    assert not result["evaluated"] and "was not evaluated yet" in page and "Model card" in page
    assert "not a medical device" in page and page.count("data:image/") == len(result["pictures"]) == 2
    words = " ".join(page.split())
    rows = read_manifest(str(table)).rows("train")
    assert (
        f'<td class="number">{rows}</td> <td class="number">13</td> <td class="number">13</td> <td class="number">13<small>7 not known'
        in words
    )
    assert (
        f"<dd>{rows} images of" in words
        and "a score from 0 to 1 for each of Edema, Effusion, Mass, Nodule. Trained from random weights" in words
    )
    assert (
        "over 5 views of each image. Its validation AUC is 0.912. On one view, epoch 1 of 2 had the best, 0.800."
        in words
    )
    assert (
        "Edema from a score of 0.500 on, Effusion from a score of 0.400 on, Mass from a score of 0.500 on (too few validation images "
        "to choose it), Nodule from a score of 0.600 on, chosen on validation data (criterion balanced)."
    ) in words


def test_predictions_that_were_reweighted(trained, tmp_path):
    """Called where a prevalence moved the threshold of Edema to, 0.1: there, and not at 0.5, the model is least sure."""
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
    ).to_parquet(tmp_path / "p" / "0.parquet")
    write_report(ReportConfig(run=trained.url, predictions=str(tmp_path / "p"), examples=1))
    words = " ".join(Path(trained.report).read_text().split())
    assert (
        "called Edema|Nodule · score of Edema 0.120 · 2.png"
        in words[words.index("Predictions: the model is least sure") :]
    )
    for label, files in (("Edema", 3), ("Nodule", 4)):
        assert f'<tr><td>{label}</td><td class="number">{files}</td></tr>' in words


def test_the_page_tells_what_was_kept(trained):
    """Of two labels, from the weights of another run, and before training is finished."""
    train = json.loads(Path(trained.config).read_text())["train"]
    change(
        trained.config,
        task="single",
        labels=["Edema", "Mass"],
        positive_label="Mass",
        train={**train, "init_weights": "/w.keras"},
    )
    kept = json.loads(Path(trained.history).read_text())["kept"] | {"epoch": 1, "views": 1, "threshold": 0.375}
    change(trained.history, kept=kept, finished=False)
    write_report(ReportConfig(run=trained.url))
    words = " ".join(Path(trained.report).read_text().split())
    assert (
        "Training is not finished: kept, so far, is epoch 1, which has the best validation AUC, on one view of each image."
        in words
    )
    assert (
        'scores that add up to 1 for Edema, Mass. Trained from the weights of <span class="path">/w.keras</span> by'
        in words
    )
    assert (
        "calibrated by a temperature of 2.000. Mass is called from a score of 0.375 on, chosen on validation data (criterion"
        in words
    )


def test_images_that_were_ingested_otherwise_are_refused(table, trained):
    """Black borders, and their lack, tell the film's shape."""
    Path(trained.model).touch()
    change(trained.config, recipe={**read_manifest(str(table)).recipe(), "resize": "pad"})
    with pytest.raises(UserError, match="expected images ingested with --resize pad, .*, got --resize stretch"):
        check_evaluate(EvaluateConfig(run=trained.url, table=str(table)))
