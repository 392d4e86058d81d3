import json
from pathlib import Path

import numpy as np
import pytest

from cxrflow.base.manifest import Manifest, RunDirectory
from cxrflow.metrics.taken_shift import compare_taken
from cxrflow.training.reference_profile import write_reference


@pytest.mark.parametrize(("truth", "labels"), [(np.array([0, 1, 1]), ["A", "B"]), (np.zeros((3, 2)), ["all"])])
def test_the_reference_has_how_training_images_were_taken(truth, labels, tmp_path):
    """By label, or of all images with several findings; of the patients outside the test split."""
    counts = {"A": {"F": 30, "M": 10}, "B": {"F": 5, "M": 15}, "all": {"F": 35, "M": 25}}
    audit = {"patients": {"train": 20, "val": 10, "test": 99}, "groups": {"patient_sex": {"labels": counts}}}
    fields = {"labels": ["A", "B"], "shards": [], "quarantined": {}, "quarantine": [], "config": {}, "columns": {}}
    manifest = Manifest(generation=1, height=8, width=8, shard_rows=1, audit=audit, **fields)
    run = RunDirectory(str(tmp_path))
    write_reference(run, manifest, 1, np.zeros((3, 4)), truth, np.full((3, 2), 0.5))
    taken = json.loads(Path(run.reference).read_text())["taken"]
    assert taken == {"patients": 30, "groupings": {"patient_sex": {label: counts[label] for label in labels}}}
    groups = {"patient_sex": np.array(["F", "M"] * 10)}
    found = compare_taken(taken, groups, np.full(20, labels[0]), np.arange(20))["groupings"]["patient_sex"]
    expected = 0.75 if labels == ["A", "B"] else 35 / 60
    assert found["trained"]["F"] == pytest.approx(expected)


def test_a_table_without_an_audit_of_groups_has_none(tmp_path):
    fields = {"labels": ["A", "B"], "shards": [], "quarantined": {}, "quarantine": [], "config": {}, "columns": {}}
    manifest = Manifest(generation=1, height=8, width=8, shard_rows=1, audit={"patients": {"val": 1}}, **fields)
    run = RunDirectory(str(tmp_path))
    write_reference(run, manifest, 1, np.zeros((2, 4)), np.array([0, 1]), np.full((2, 2), 0.5))
    assert json.loads(Path(run.reference).read_text())["taken"] == {"patients": 1, "groupings": {}}
