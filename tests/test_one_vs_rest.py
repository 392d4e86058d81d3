import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrflow import metrics
from cxrflow.metrics.intervals import Rate, Resamples, percentiles
from cxrflow.metrics.one_vs_rest import OneVsRest, predictive


def test_resampled_figures_equal_scikit_learn_with_weights():
    random = np.random.default_rng(0)
    positive, scores = random.random(300) < 0.3, np.round(random.random(300), 1)  # many ties
    weights = random.integers(0, 3, (20, 300)).astype(float)
    found = OneVsRest(positive, scores, scores >= 0.5, np.arange(300))(weights)
    for index, weight in enumerate(weights):
        assert found["auc"][index] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weight))
        assert found["average_precision"][index] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=weight)
        )
        repeated = np.repeat(np.arange(300), weight.astype(int))
        assert found["ece"][index] == pytest.approx(metrics.ece(positive[repeated], scores[repeated]))
        assert found["sensitivity"][index] == pytest.approx((scores >= 0.5)[repeated][positive[repeated]].mean())
        at = [
            (scores[repeated] >= t)[positive[repeated]].mean()
            for t in np.append(scores, 2)
            if (scores[repeated] < t)[~positive[repeated]].mean() >= 0.9
        ]
        assert found["specificity", 0.9, "sensitivity"][index] == pytest.approx(max(at))


@pytest.mark.parametrize(("negatives", "positives", "area"), [(34, 66, 0.99), (20, 20, 0.97)])
def test_coverage_of_the_auc_interval_near_1(negatives, positives, area):
    random, covered, by_percentiles = np.random.default_rng(2), 0, 0
    positive = np.arange(negatives + positives) >= negatives
    for _ in range(200):
        scores = expit(random.normal(size=len(positive)) + positive * 2**0.5 * norm.ppf(area))
        samples = (problem := OneVsRest(positive, scores, positive, np.arange(len(positive))))(
            next(Resamples(np.arange(len(positive)), 200).weights())
        )
        found = problem.figures(samples)["auc_interval"]
        covered += found[0] <= area <= found[1]
        plain = percentiles(samples["auc"]) or [1, 1]
        by_percentiles += plain[0] <= area <= plain[1]
    assert covered >= 0.92 * 200 and by_percentiles < 0.92 * 200


@pytest.mark.parametrize(
    ("positives", "negatives", "sensitivity", "specificity", "prevalence"),
    [(400, 230, 0.98, 0.99, 0.1), (100, 100, 0.95, 0.98, 0.01), (30, 300, 0.8, 0.9, 0.05)],
)
def test_coverage_of_predictive_value_intervals(positives, negatives, sensitivity, specificity, prevalence):
    random, covered = np.random.default_rng(3), {"ppv": 0, "npv": 0}
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    expected = {
        "ppv": true / (true + false),
        "npv": specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence),
    }
    for _ in range(200):
        found = predictive(
            prevalence,
            Rate(random.binomial(positives, sensitivity) / positives, positives),
            Rate(random.binomial(negatives, specificity) / negatives, negatives),
        )
        for name in covered:
            low, high = found[f"{name}_interval"]
            covered[name] += low <= expected[name] <= high and low <= found[name] <= high
    assert min(covered.values()) >= 0.91 * 200
