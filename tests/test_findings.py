"""Several findings an image: what a text or a line of a labels file says, and the way from ingest to the report."""

import csv
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cxrflow.config import EvaluateConfig, IngestConfig, PredictConfig, ReportConfig, TrainConfig
from cxrflow.errors import UserError
from cxrflow.findings import from_calls, from_cells, from_text, tally, to_states, to_text
from cxrflow.launch.train import check_train, train
from cxrflow.manifest import Manifest, Shard, read_manifest
from cxrflow.phantom import PATIENT_RULE
from cxrflow.schema import score_column, truth_column
from cxrflow.spark.evaluate import evaluate
from cxrflow.spark.ingest import ingest
from cxrflow.spark.predict import predict
from cxrflow.training.feed import Feed

NAN = float("nan")
FINDINGS = ["Opacity", "Second view", "Rare"]


@pytest.mark.parametrize(("cells", "text"), [
    ({"A": "1", "B": "0", "C": "1.0"}, "A|C"),
    ({"A": "1.0", "B": "-1.0", "C": None, "D": "nan"}, "A|?B|?C|?D"),
    ({"A": "0", "B": "False"}, "No Finding"),
    ({"A": "", "B": " "}, None),  # nothing is known of it
    ({"A": "1", "B": "", "No Finding": ""}, "A|?B"),
    ({"A": "", "B": "-1", "No Finding": "1.0"}, "?B"),  # what is not mentioned is absent, what is doubtful stays so
])
def test_a_line_of_a_labels_file(cells, text):
    assert from_cells(cells) == text


def test_a_text_and_what_it_says():
    assert from_text("Infiltration| Effusion|?Edema") == ({"Effusion", "Infiltration"}, {"Edema"})
    assert to_text(["B", "A"], ["D", "C"]) == "A|B|?C|?D" and from_text(to_text([])) == (set(), set())
    np.testing.assert_array_equal(to_states(["A|?C", "No Finding", "B", "B"], ["A", "B", "C"]),
                                  np.float32([[1, 0, NAN], [0, 0, 0], [0, 1, 0], [0, 1, 0]]))
    assert from_calls(np.array([[True, False, True], [False] * 3]), ["B", "C", "A"]) == ["A|B", "No Finding"]
    assert tally({"A|?C": 2, "A|B": 3, "No Finding": 4}) == ({"A": 5, "B": 3}, {"C": 2})


@pytest.mark.parametrize("text", ["No Finding|Effusion", "A|?A"])
def test_a_text_that_contradicts_itself(text):
    with pytest.raises(UserError, match="can be true together"):
        from_text(text)


def lines_of(phantoms):
    """What is known of each phantom: half have opacities, half are second views, and of some a finding is not known."""
    for path in sorted(phantoms.rglob("phantom*.jpeg")):
        patient, view = (int(part) for part in path.name.removeprefix("phantom").split("_")[:2])
        opacity, second, rare = patient % 2, view - 1, int(patient % 8 == 3)
        yield path, {"Opacity": "" if patient % 5 == 0 else opacity, "Second view": -1 if patient % 7 == 2 else second,
                     "Rare": 1 if rare else NAN if patient % 3 == 0 else 0}


@pytest.fixture(scope="module")
def config(phantoms, tmp_path_factory) -> IngestConfig:
    place = tmp_path_factory.mktemp("findings")
    with open(place / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", *FINDINGS])
        writer.writeheader()
        writer.writerows({"path": path, **known} for path, known in lines_of(phantoms))
    return IngestConfig(images=str(phantoms), table=str(place / "table"), labels=str(place / "labels.csv"), findings="all", height=48,
                        width=40, shard_rows=6, patients=PATIENT_RULE)


@pytest.fixture(scope="module")
def result(spark, config):
    return ingest(spark, config)
