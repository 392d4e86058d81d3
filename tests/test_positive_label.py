"""Which of two labels sensitivity refers to."""

from __future__ import annotations

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.findings import find_positive
from cxrflow.pipeline.train_job import check_train
from cxrflow.training.positive_label import describe_positive, positive_label
from synthetic_table import make_table

PLAIN = [  # positive, negative
    ("PNEUMONIA", "NORMAL"),
    ("ABNORMAL", "NORMAL"),
    ("COVID", "Non-COVID"),
    ("COVID", "NonCOVID"),
    ("COVID", "non covid"),
    ("disease", "no_disease"),
    ("Edema", "No Findings"),
    ("Edema", "NoFinding"),
    ("Effusion", "without effusion"),
    ("TB", "TB_absent"),
    ("COVID-19 positive", "COVID-19 negative"),
    ("1", "0"),
    ("yes", "no"),
    ("not normal", "normal"),
    ("SYNTHETIC_OPACITY", "SYNTHETIC_NORMAL"),
    ("Tuberculosis", "Healthy"),
]


@pytest.mark.parametrize(("positive", "negative"), PLAIN)
def test_a_negative_name_is_recognised_in_either_order(positive, negative):
    for label in (positive, positive.upper()):
        assert find_positive([label, negative]) == 0
        assert find_positive([negative, label]) == 1


@pytest.mark.parametrize("labels", [["BACTERIA", "VIRUS"], ["Normal", "No Finding"], ["not normal", "abnormal"]])
def test_ambiguous_names_are_not_guessed(labels):
    assert find_positive(labels) is None


def test_of_more_labels_it_is_the_last_that_is_not_negative():
    assert find_positive(["Bacteria", "NORMAL", "Virus"]) == 2 and find_positive(["a", "b", "no c"]) == 1


def test_train_asks_for_the_positive_label_if_the_names_are_ambiguous(tmp_path):
    manifest = make_table(tmp_path / "table", labels=("BACTERIA", "VIRUS"))
    config = {"table": str(tmp_path / "table"), "run": str(tmp_path / "run")}
    with pytest.raises(UserError, match="--positive-label: expected 'BACTERIA' or 'VIRUS', got none"):
        check_train(TrainConfig(**config))
    named = TrainConfig(**config, positive_label="BACTERIA")
    check_train(named)
    assert positive_label(named, manifest) == 0
    assert describe_positive(manifest.labels, 0).startswith("positive label: BACTERIA ")
    with pytest.raises(UserError, match="--positive-label: expected one of BACTERIA, VIRUS; got 'Virus'"):
        check_train(TrainConfig(**config, positive_label="Virus"))
