"""The page of runs that no training here makes: of several findings an image, and one that was not evaluated."""

import json

import numpy as np
import pandas as pd
import pytest

from cxrflow.config import EvaluateConfig, ReportConfig, TrainConfig, to_dict
from cxrflow.images import Recipe
from cxrflow.manifest import RunDirectory, read_manifest, write_json
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS
from cxrflow.report.page import write_report
from cxrflow.schema import score_column
from cxrflow.shards import read_shard
from cxrflow.spark.evaluate import _write, judge_scored
from cxrflow.spark.score import Run

FINDINGS = ["Edema", "Effusion", "Mass"]


@pytest.fixture
def trained(table, tmp_path) -> RunDirectory:
    """The records of a run on the phantoms, as if each image could have several of three findings."""
    manifest, run = read_manifest(str(table)), RunDirectory(str(tmp_path / "run"))
    counts = {"train": dict.fromkeys(FINDINGS, 10), "val": dict.fromkeys(FINDINGS, 5)}
    write_json(run.config, {
        "cxrflow": "0", "keras": "3", "backend": "torch", "workers": 1, "labels": FINDINGS, "recipe": manifest.recipe(),
        "positive_label": "Mass", "prevalence": dict.fromkeys(FINDINGS, 0.3), "data": {**manifest.facts(), "counts": counts},
        "versions": {"python": "3"}, "train": to_dict(TrainConfig(table=str(table), run=run.url)), "ingest": manifest.config})
    epoch = {"epoch": 1, "loss": 0.7, "val_loss": 0.6, "val_auc": 0.8, "val_accuracy": 0.9}
    write_json(run.history, {"epochs": [epoch], "best": {**epoch, "threshold": [0.5, 0.4, None], "temperature": 2.0}})
    return run


def scored_rows(table) -> pd.DataFrame:
    """What scoring would give: the table's rows with made-up truths and scores."""
    random = np.random.default_rng(0)
    rows = []
    for shard in read_manifest(str(table)).of_split("all"):
        part = read_shard(str(table / shard.path), ["path", "patient_id"]).to_pandas()
        rows.append(part.assign(split=shard.split, shard=shard.path, row=range(len(part))))
    scored = pd.concat(rows, ignore_index=True)
    present = random.random((len(scored), 3)) < [0.4, 0.5, 0.05]
    words = [[name for name, here in zip(FINDINGS, row, strict=True) if here] + ["?Mass"] * (not row[2] and place % 3 == 0)
             for place, row in enumerate(present)]
    scored["label"] = ["|".join(row) or "No Finding" for row in words]
    for place, name in enumerate(FINDINGS):
        scored[score_column(name)] = (0.3 * present[:, place] + 0.7 * random.random(len(scored))).astype(np.float32)
    for name in (*IMAGE_FACTS, *SOURCE_FACTS):
        scored[name] = random.random(len(scored)).astype(np.float32)
    return scored


def test_several_findings_an_image_from_scores_to_page(table, trained):
    manifest, scored = read_manifest(str(table)), scored_rows(table)
    write_json(trained.reference, {"split": "val", "patients": 40, "groups": {"all": {"n": 40, "facts": {
        name: np.linspace(0, 1, 40).tolist() for name in (*IMAGE_FACTS, "score_Mass")} | {"mean": [10.0] * 40}}}})
    config = EvaluateConfig(run=trained.url, table=str(table), split="all", bootstrap=50, subgroups=r"(OPACITY|NORMAL)")
    run = Run(labels=FINDINGS, positive=2, threshold=[0.5, 0.4, None], temperature=2.0, prevalence=(0.3, 0.3, 0.3),
              recipe=Recipe(**manifest.recipe()), backend="torch", model=trained.model)
    result = {"split": "all", "table": str(table), **judge_scored(config, run, manifest, scored)}
    mass = result["per_label"]["Mass"]
    assert mass["n"] == 48 - scored["label"].str.contains("?Mass", regex=False).sum() < 48
    assert mass["positives"] == scored["label"].str.split("|").map(lambda names: "Mass" in names).sum()
    assert result["prevalence"]["here"]["Mass"] == pytest.approx(mass["positives"] / mass["n"])
    assert result["shift"]["large"] == ["mean"] and set(result["shift"]["facts"]) == {*IMAGE_FACTS, "score_Mass"}
    assert set(result["temperature"]["ece_before"]) == set(FINDINGS) and result["mistakes"]
    assert (scored["predicted_label"].str.contains("Edema") == (scored["score_Edema"] >= 0.5)).all()
    _write(trained, scored, result)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads((table.parent / trained.metrics).read_text())
    written = write_report(ReportConfig(run=trained.url, examples=2))
    page = (table.parent / trained.report).read_text()
    assert {place.rsplit("/", 1)[1] for place in written["pictures"]} == {
        "loss.png", "validation.png", "roc.png", "precision_recall.png", "subgroups.png"}
    assert all(name in page for name in FINDINGS) and f"{result['auc']:.3f}" in page and "They do not." in page
    # No model file here, so no heat: each image stands alone.
    assert page.count("X-ray: truth") == 2 * 5 and "Grad-CAM over it" not in page


def test_a_run_that_was_not_evaluated(trained, tmp_path):
    result = write_report(ReportConfig(run=trained.url))
    page = (tmp_path / "run" / "report.html").read_text()
    assert not result["evaluated"] and "was not evaluated yet" in page and "Model card" in page
    assert "not a medical device" in page and page.count("data:image/") == len(result["pictures"]) == 2
