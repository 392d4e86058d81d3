import numpy as np
import pytest
from scipy.special import expit

from cxrflow import metrics
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.metrics.thresholds import balanced_threshold, sensitivity_threshold


def normal_scores(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of standard deviation 2 around 2 and -2, which are calibrated where half of the samples are positive."""
    random = np.random.default_rng(seed)
    positive = random.random(count) < share
    return positive, expit(random.normal(size=count) * 2 + np.where(positive, 2, -2))


def test_youden_is_in_the_gap():
    positive = np.array([False, False, True, True])
    assert metrics.youden_threshold(positive, np.array([0.1, 0.3, 0.7, 0.9])) == pytest.approx(0.5)


@pytest.mark.parametrize("criterion", metrics.CRITERIA)
def test_threshold_of_a_model_worse_than_chance_is_finite(criterion):
    assert 0 <= metrics.CRITERIA[criterion](np.array([True, True, False]), np.array([0.1, 0.2, 0.9])) <= 1


@pytest.mark.parametrize("criterion", metrics.CRITERIA)
@pytest.mark.parametrize("value", [True, False])
def test_one_class_is_an_error(criterion, value):
    with pytest.raises(ValueError, match="expected positive and negative samples"):
        metrics.CRITERIA[criterion](np.full(3, value), np.array([0.1, 0.2, 0.9]))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_balanced_is_halfway_at_any_prevalence(share):
    assert balanced_threshold(*normal_scores(40_000, share, seed=0)) == pytest.approx(0.5, abs=0.03)


def test_balanced_varies_less_than_youden():
    draws = [normal_scores(500, 0.75, seed) for seed in range(40)]
    balanced, youden = (
        np.std([criterion(*draw) for draw in draws]) for criterion in (balanced_threshold, metrics.youden_threshold)
    )
    assert balanced < youden / 2


@pytest.mark.parametrize("sensitivity", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_highest_threshold_that_reaches_a_sensitivity(sensitivity):
    positive, scores = normal_scores(400, 0.5, seed=1)
    scores = np.round(scores, 2)  # ties
    threshold = sensitivity_threshold(positive, scores, sensitivity)
    assert (scores[positive] >= threshold).mean() >= sensitivity
    assert (scores[positive] >= scores[scores >= threshold].min() + 1e-9).mean() < sensitivity


def test_rounding_error_does_not_need_another_sample():
    scores = np.append(np.arange(1, 21) / 100, 0)
    assert sensitivity_threshold(scores > 0, scores, 0.95) == pytest.approx(0.015)


def test_fit_threshold_by_task():
    positive, scores = normal_scores(400, 0.5, seed=2)
    two = np.stack([scores, 1 - scores], axis=1)
    truth = np.where(positive, 0, 1)
    assert metrics.fit_threshold(truth, two, 0) == balanced_threshold(positive, scores)
    assert metrics.fit_threshold(truth, two, 0, "youden") == metrics.youden_threshold(positive, scores)
    assert metrics.fit_threshold(truth, two, 0, sensitivity=0.9) == sensitivity_threshold(positive, scores, 0.9)
    assert metrics.fit_threshold(truth, np.ones((400, 3)) / 3, 0) is None
    findings = np.stack([positive, positive, np.zeros(400)], axis=1).astype(float)
    findings[300:, 1] = np.nan
    assert metrics.fit_threshold(findings, np.stack([scores] * 3, axis=1), 0) == [
        balanced_threshold(positive, scores),
        balanced_threshold(positive[:300], scores[:300]),
        None,
    ]


def test_configuration_has_the_same_criteria():
    for name in metrics.CRITERIA:
        TrainConfig(table="t", run="r", threshold=name)
    with pytest.raises(UserError, match=f"expected one of {', '.join(metrics.CRITERIA)}, .*got 'best'"):
        TrainConfig(table="t", run="r", threshold="best")
