import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from cxrflow import metrics
from cxrflow.metrics.intervals import Rate, Resamples, basic, logit_interval, percentiles, wilson
from cxrflow.metrics.one_vs_rest import OneVsRest


def test_bootstrap_interval_of_the_auc_agrees_with_theory():
    """Standard error of Hanley and McNeil (1982), for normal scores one standard deviation apart."""
    random = np.random.default_rng(1)
    truth = np.arange(2000) % 2
    scores = expit(random.normal(size=2000) + truth)
    area = metrics.auc(truth, np.stack([-scores, scores], axis=1))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 999 * (q1 - area**2) + 999 * (q2 - area**2)) / 1000**2)
    samples = Resamples(np.arange(2000), 1000).of(OneVsRest(truth == 1, scores, scores > 0.5, np.arange(2000)))["auc"]
    low, high = logit_interval(area, samples)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert area - low == pytest.approx(1.96 * error, rel=0.2)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (8, 10), (10, 10), (636, 638)])
def test_rate_with_one_image_per_patient_has_wilsons_interval(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials) == pytest.approx([expected.low, expected.high])
    assert Rate.of(np.arange(trials) < hits, np.ones(trials), np.arange(trials)).interval == pytest.approx(
        [expected.low, expected.high]
    )


def test_identical_images_of_a_patient_count_once():
    random = np.random.default_rng(0)
    alike = np.repeat(random.random(50) < 0.8, 7)
    found = Rate.of(alike, np.ones(350), np.repeat(np.arange(50), 7))
    assert (
        50 - alike[::7].sum() >= 10 and 45 < found.trials <= 50
    )  # a little less than 50, because so few patients estimate the variance imprecisely
    assert Rate.of(np.ones(350), np.ones(350), np.repeat(np.arange(50), 7)).interval == wilson(50, 50)
    assert Rate.of(alike, np.zeros(350), np.arange(350)) is None


@pytest.mark.parametrize(
    ("patients", "images", "rate", "alike"),
    [
        (50, 10, 0.75, 0.25),
        (380, 2, 0.98, 0.2),
        (200, 1, 0.9, 0.01),
        (30, 10, 0.95, 0.5),
        (20, 20, 0.95, 0.3),
        (100, 10, 0.99, 0.3),
    ],
)
def test_coverage_of_the_rate_interval(patients, images, rate, alike):
    """Each patient has its own rate from a beta distribution; ``alike`` is the correlation of a patient's images.

    Some cases have all errors in few patients.
    """
    random, covered, by_image = np.random.default_rng(1), 0, 0
    for _ in range(400):
        own = random.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, patients)
        member = np.repeat(np.arange(patients), random.integers(1, 2 * images, patients))
        right = random.random(len(member)) < own[member]
        low, high = Rate.of(right, np.ones(len(right)), member).interval
        covered += low <= rate <= high
        low, high = wilson(right.sum(), len(right))
        by_image += low <= rate <= high
    assert covered >= 0.92 * 400 and (images == 1 or by_image < covered)
    assert images < 10 or by_image < 0.85 * 400  # the coverage if images counted as independent


def test_basic_interval_mirrors_the_percentiles():
    assert basic(0.05, np.linspace(0.04, 0.08, 1001)) == pytest.approx([0.021, 0.059])
    # It contains the figure even if all resamples are higher.
    assert basic(0.05, np.linspace(0.06, 0.10, 1001)) == pytest.approx([0.001, 0.05])
    assert basic(0.05, np.linspace(0.06, 0.12, 1001))[0] == 0 and percentiles(np.array([0.5, np.nan])) is None
    assert percentiles(np.ones(5)) is None  # no information about other patients
