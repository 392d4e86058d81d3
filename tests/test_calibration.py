import numpy as np
import pytest
from scipy.special import expit, softmax

from cxrflow import metrics
from cxrflow.metrics.calibration import ece_of_calibrated
from cxrflow.metrics.evaluation import calibration_errors
from cxrflow.metrics.intervals import Resamples
from cxrflow.metrics.one_vs_rest import OneVsRest


def drawn(temperature: float, count: int = 20_000, labels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(logits, truth): labels drawn from the softmax of logits / temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, labels)) * 3
    return logits, (softmax(logits / temperature, axis=1).cumsum(axis=1) < random.random((count, 1))).sum(axis=1)


def test_ece_by_hand():
    positive, scores = np.array([False, True, True, True]), np.array([0.1, 0.1, 0.9, 0.9])
    # Half of the samples have score 0.1 and are half positive; half have score 0.9 and are all positive.
    assert metrics.ece(positive, scores) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    low, high = metrics.reliability(positive, scores, np.arange(4))
    assert (low["n"], low["share"], low["score"]) == (2, 0.5, 0.1) and (high["low"], high["high"]) == (13 / 15, 14 / 15)
    assert low["interval"] == metrics.wilson(1, 2)


def test_score_of_1_is_in_the_last_bin():
    assert metrics.reliability(np.array([True]), np.array([1.0]), np.arange(1))[0]["high"] == 1.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_true_temperature_is_found(temperature):
    logits, truth = drawn(temperature)
    found = metrics.fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.03)
    scores = metrics.with_temperature(logits, found)
    for index in range(3):
        assert metrics.ece(truth == index, scores[:, index]) < 0.01
    if temperature != 1:
        assert metrics.ece(truth == 0, metrics.with_temperature(logits, 1.0)[:, 0]) > 0.03
    np.testing.assert_allclose(metrics.tempered(scores, 1 / found), metrics.with_temperature(logits, 1.0), atol=1e-5)


def test_multi_label_temperature_ignores_unknown_findings():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 2)) * 4
    truth = (random.random(logits.shape) < expit(logits / 2)).astype(float)
    assert metrics.fit_temperature(logits, truth) == pytest.approx(2, rel=0.05)
    hidden = np.where(np.arange(20_000)[:, None] % 2, truth, np.nan)
    assert metrics.fit_temperature(logits, hidden) == pytest.approx(
        metrics.fit_temperature(logits[1::2], truth[1::2]), rel=1e-4
    )
    scores = metrics.with_temperature(logits, 2.0, multi=True)
    np.testing.assert_allclose(metrics.tempered(scores, 0.5, multi=True), expit(logits), atol=1e-5)


def test_separable_labels_do_not_give_scores_of_1():
    logits = np.repeat([[4.0, -4.0], [-4.0, 4.0]], 50, axis=0)
    truth = np.repeat([0, 1], 50)
    scores = metrics.with_temperature(logits, metrics.fit_temperature(logits, truth))
    assert scores.max() == pytest.approx(101 / 102, abs=1e-4)  # Laplace: (n + 1) / (n + K)


def test_no_known_label_is_an_error():
    with pytest.raises(ValueError, match="with a known truth"):
        metrics.fit_temperature(np.zeros((2, 2)), np.full((2, 2), np.nan))


def test_calibration_errors_equal_those_of_the_evaluation():
    logits, truth = drawn(2.0, count=300)
    scores, names = softmax(logits, axis=1), ["a", "b", "c"]

    def evaluate(truth, scores, labels, positive, threshold):
        return metrics.evaluate_scores(truth, scores, np.arange(300), labels, positive, threshold, bootstrap=5)

    assert calibration_errors(truth, scores, names, 2) == {
        "predicted": pytest.approx(evaluate(truth, scores, names, 2, None)["calibration"]["ece"])
    }
    two = np.stack([scores[:, 0], 1 - scores[:, 0]], axis=1)
    assert calibration_errors((truth > 0) * 1, two, ["a", "rest"], 0) == {
        "a": pytest.approx(evaluate((truth > 0) * 1, two, ["a", "rest"], 0, 0.5)["calibration"]["ece"])
    }
    several = np.where(np.arange(300)[:, None] % [2, 3, 1000] > 0, np.eye(3)[truth], np.nan)
    several[:, 2] = np.nan
    per_label = evaluate(several, scores, names, None, [0.5] * 3)["per_label"]
    assert calibration_errors(several, scores, names, None) == {
        name: pytest.approx(per_label[name]["calibration"]["ece"]) for name in names
    }


def test_interval_of_a_calibrated_model_starts_at_0():
    """Chance increases the error, and resampling increases it again."""
    logits, truth = drawn(1.0, count=400, labels=2, seed=3)
    scores = softmax(logits, axis=1)[:, 1]
    by_chance, error = ece_of_calibrated(scores, np.arange(400)), metrics.ece(truth == 1, scores)
    assert 0.02 < by_chance.mean() < 0.05 and by_chance.min() < error < by_chance.max()
    problem = OneVsRest(truth == 1, scores, scores > 0.5, np.arange(400))
    resampled = Resamples(np.arange(400), 200).of(problem)
    assert resampled["ece"].mean() > error
    calibration = problem.calibration(resampled)
    assert calibration["ece_interval"][0] == 0 < calibration["ece_interval"][1] < 0.05


def test_interval_of_an_overconfident_model_contains_the_true_error():
    logits, truth = drawn(2.0, count=200_000, labels=2, seed=4)
    true = metrics.ece(truth == 1, softmax(logits, axis=1)[:, 1])
    covered = 0
    for start in range(0, 20_000, 1000):
        part = slice(start, start + 1000)
        problem = OneVsRest(truth[part] == 1, softmax(logits[part], axis=1)[:, 1], truth[part] == 1, np.arange(1000))
        low, high = problem.calibration(Resamples(np.arange(1000), 200).of(problem))["ece_interval"]
        covered += low <= true <= high
        assert low > 0
    assert covered >= 16  # of 20; 95 % would be 19


def test_many_images_per_patient_do_not_look_like_miscalibration():
    """Ten identical images of a patient carry no more information than one."""
    random = np.random.default_rng(5)
    patients, starts_at_0 = np.repeat(np.arange(60), 10), 0
    for _ in range(20):
        scores = np.repeat(random.random(60), 10)
        truth = np.repeat(random.random(60), 10) < scores
        problem = OneVsRest(truth, scores, scores > 0.5, patients)
        found = problem.calibration(Resamples(patients, 100).of(problem))
        low, high = found["ece_interval"]
        starts_at_0 += low == 0
        assert low <= found["ece"] <= high and found["ece_of_calibrated"] > 0.1
    assert starts_at_0 >= 17  # of 20; 97.5 % would be 19.5
