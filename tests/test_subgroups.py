import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from cxrflow import metrics
from cxrflow.metrics.subgroups import MIN_SAMPLES

LABELS = ["NORMAL", "PNEUMONIA"]


@pytest.fixture(scope="module")
def evaluated():
    """Groups: only normal, two kinds of disease, both labels, and a tiny group that is always wrong."""
    random = np.random.default_rng(0)
    groups = np.repeat(["well", "plain", "subtle", "both", "tiny"], [60, 40, 40, 40, MIN_SAMPLES - 1])
    ill = np.isin(groups, ["plain", "subtle"]) | ((groups == "both") & (np.arange(len(groups)) % 2 == 0))
    far = np.select([groups == "plain", groups == "subtle"], [3.0, 0.7], 1.5)
    score = 1 / (1 + np.exp(-(np.where(ill, far, -1.5) + random.normal(size=len(groups)))))
    score[groups == "tiny"] = 0.99
    patients = np.arange(len(groups)) // 2
    scores = np.stack([1 - score, score], axis=1)
    return (
        ill,
        score,
        groups,
        metrics.evaluate_subgroups(ill.astype(int), scores, patients, groups, LABELS, 1, 0.5, bootstrap=200),
    )


def test_each_group_has_its_own_rates(evaluated):
    ill, score, groups, found = evaluated
    assert found["groups"].keys() == set(groups)
    both = found["groups"]["both"]
    inside = groups == "both"
    assert (both["n"], both["patients"], both["positives"], both["auc_against"]) == (40, 20, 20, None)
    assert (
        both["sensitivity"] == (score >= 0.5)[inside & ill].mean()
        and both["specificity"] == (score < 0.5)[inside & ~ill].mean()
    )
    assert both["auc"] == pytest.approx(roc_auc_score(ill[inside], score[inside]))
    assert both["auc_interval"][0] < both["auc"] <= both["auc_interval"][1] and both["accuracy_interval"]


def test_group_with_one_label_is_compared_with_the_other_label(evaluated):
    ill, score, groups, found = evaluated
    subtle, well = found["groups"]["subtle"], found["groups"]["well"]
    rows = (groups == "subtle") | ~ill
    assert (
        subtle["auc"] == pytest.approx(roc_auc_score(ill[rows], score[rows])) and subtle["auc_against"] == "all NORMAL"
    )
    assert subtle["specificity"] is None and subtle["accuracy"] == subtle["sensitivity"]
    rows = (groups == "well") | ill
    assert (
        well["auc"] == pytest.approx(roc_auc_score(ill[rows], score[rows])) and well["auc_against"] == "all PNEUMONIA"
    )


def test_worst_group_has_enough_samples(evaluated):
    found = evaluated[3]
    assert found["groups"]["tiny"]["accuracy"] == 0 and found["worst"] == "subtle"


def test_groups_with_more_labels_and_multi_label():
    random = np.random.default_rng(1)
    groups = np.repeat(["a", "b"], 50)
    truth = random.integers(0, 3, 100)
    scores = np.eye(3)[np.where(groups == "b", (truth + 1) % 3, truth)] * 0.8 + 0.1
    found = metrics.evaluate_subgroups(truth, scores, np.arange(100), groups, ["x", "y", "z"], 2, None, bootstrap=20)
    assert (found["groups"]["a"]["accuracy"], found["groups"]["b"]["accuracy"], found["worst"]) == (1, 0, "b")
    several = random.integers(0, 2, (100, 2)).astype(float)
    several[:10, 1] = np.nan
    scores = np.abs(several - (groups == "a")[:, None] * 0.9 - 0.05)
    found = metrics.evaluate_subgroups(
        several, np.nan_to_num(scores), np.arange(100), groups, ["x", "y"], 0, [0.5, 0.5], bootstrap=20
    )
    assert (found["groups"]["a"]["auc"], found["groups"]["b"]["auc"], found["worst"]) == (0, 1, "a")


def test_worst_multi_label_group_allows_for_harder_findings():
    """Of the hard finding, which is evaluated in one group only, that group's images are no worse than all."""
    random = np.random.default_rng(2)
    groups = np.repeat(["easy", "hard", "unknown"], [300, 300, 40])
    truth = random.integers(0, 2, (640, 2)).astype(float)
    scores = expit(truth * [4, 1] + random.normal(size=truth.shape))
    truth[groups == "easy", 1] = truth[groups == "unknown"] = np.nan
    truth[:100, 0] = 1 - truth[:100, 0]  # a third of the easy ones are wrong
    found = metrics.evaluate_subgroups(
        truth, scores, np.arange(640), groups, ["x", "y"], None, [0.5, 0.5], bootstrap=20
    )
    easy, hard, unknown = found["groups"].values()
    assert (easy["auc_labels"], hard["auc_labels"], unknown["auc_labels"], unknown["auc"]) == (1, 2, 0, None)
    assert easy["auc_of_all"] == pytest.approx(metrics.auc(truth[:, :1], scores[:, :1]))
    assert hard["auc_of_all"] == pytest.approx(metrics.auc(truth, scores))
    assert easy["auc"] < easy["auc_of_all"] - 0.1 and hard["auc"] > hard["auc_of_all"] and found["worst"] == "easy"


def test_numeric_groups_are_sorted_by_number():
    groups = np.array(["1100", "224 to 300", "b", "a", "90.5"])
    scores = np.tile([0.4, 0.6], (5, 1))
    found = metrics.evaluate_subgroups(
        np.array([0, 1, 0, 1, 0]), scores, np.arange(5), groups, LABELS, 1, 0.5, bootstrap=5
    )
    assert list(found["groups"]) == ["90.5", "224 to 300", "1100", "a", "b"] and found["worst"] is None
