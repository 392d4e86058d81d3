import numpy as np
import pytest
from scipy.special import softmax

from cxrflow import metrics
from cxrflow.metrics import Prior, estimate_prevalence

MEANS = np.array([[0, 0], [2.5, 0], [0, 2.5]])


def site(shares: tuple[float, ...], training: tuple[float, ...], count: int = 8000, seed: int = 0, moved: float = 0.0):
    """(truth, scores) of normal samples with a true posterior under the training's shares; ``moved``: how far all
    samples are from where training saw them."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), count, p=shares)
    points = MEANS[truth] + random.normal(size=(count, 2)) + moved
    squares = ((points[:, None] - MEANS[: len(shares)]) ** 2).sum(axis=2)
    return truth, softmax(np.log(training) - squares / 2, axis=1)


def test_reweighting_by_hand():
    # Odds 4 to 1 at even shares; at one in ten the prior odds fall from 1 to 1/9.
    assert Prior((0.5, 0.5), (0.9, 0.1))(np.array([[0.2, 0.8]]))[0, 1] == pytest.approx(4 / 9 / (4 / 9 + 1))
    assert Prior((0.5,), (0.1,), multi=True)(np.array([[0.8]]))[0, 0] == pytest.approx(4 / 9 / (4 / 9 + 1))
    scores = softmax(np.random.default_rng(0).normal(size=(5, 3)), axis=1)
    np.testing.assert_allclose(Prior((0.2, 0.3, 0.5), (0.2, 0.3, 0.5))(scores), scores)


def test_reweighted_scores_are_calibrated_and_predict_the_same_labels():
    training, clinic = (0.3, 0.7), (0.9, 0.1)
    truth, scores = site(clinic, training)
    prior = Prior(training, clinic)
    reweighted = prior(scores)
    assert metrics.ece(truth == 1, scores[:, 1]) > 0.1 > 0.02 > metrics.ece(truth == 1, reweighted[:, 1])
    for threshold in (0.2, 0.5, 0.93):
        np.testing.assert_array_equal(
            metrics.predicted(reweighted, 1, prior.threshold(threshold, 1)), metrics.predicted(scores, 1, threshold)
        )
    several = Prior((0.5, 0.5), (0.1, 0.2), multi=True)
    moved = several.threshold([0.5, None], 0)
    assert moved == [pytest.approx(0.1), None] and Prior(training, clinic).threshold(None, 0) is None


@pytest.mark.parametrize(
    ("shares", "training"), [((0.8, 0.2), (0.3, 0.7)), ((0.05, 0.95), (0.5, 0.5)), ((0.7, 0.1, 0.2), (0.2, 0.4, 0.4))]
)
def test_estimate_under_label_shift(shares, training):
    truth, scores = site(shares, training)
    found = estimate_prevalence(scores, training)
    np.testing.assert_allclose(found, np.bincount(truth) / len(truth), atol=0.015)
    assert sum(found) == pytest.approx(1, abs=1e-5)


def test_findings_are_estimated_separately():
    (one, first), (two, second) = site((0.8, 0.2), (0.3, 0.7)), site((0.4, 0.6), (0.5, 0.5), seed=1)
    found = estimate_prevalence(np.stack([first[:, 1], second[:, 1]], axis=1), (0.7, 0.5), multi=True)
    assert found == pytest.approx((one.mean(), two.mean()), abs=0.015)


def test_estimate_mistakes_covariate_shift_for_prevalence():
    """So the estimate is only reported, never used."""
    truth, scores = site((0.5, 0.5), (0.5, 0.5), moved=0.7)
    assert estimate_prevalence(scores, (0.5, 0.5))[1] - truth.mean() > 0.15


def test_estimated_shares_are_above_0():
    found = estimate_prevalence(np.tile([1.0, 0.0], (10, 1)), (0.5, 0.5))
    assert (
        found[1] == pytest.approx(1e-6)
        and sum(found) == 1
        and np.isfinite(Prior((0.5, 0.5), found)(np.array([[0.5, 0.5]]))).all()
    )
