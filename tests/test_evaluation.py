import json

import numpy as np
import pytest

from cxrflow import metrics
from cxrflow.metrics.intervals import perfect_auc_interval

LABELS = ["NORMAL", "PNEUMONIA"]


def binary(scores: list[float]) -> np.ndarray:
    return np.array([[1 - score, score] for score in scores])


def test_binary_figures_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    scores = binary([0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.9, 0.95, 0.99])
    figures = metrics.evaluate_scores(truth, scores, np.arange(10), LABELS, 1, threshold=0.5, bootstrap=50)
    assert figures["confusion"] == [[3, 1], [1, 5]]
    assert figures["accuracy"] == 0.8 and (figures["n"], figures["positives"]) == (10, 6)
    assert figures["sensitivity"] == pytest.approx(5 / 6) and figures["specificity"] == 0.75
    assert figures["ppv"] == pytest.approx(5 / 6) and figures["npv"] == 0.75
    # In 3 of the 24 pairs the normal sample ranks higher: 0.8 is above 0.4, 0.6 and 0.7.
    assert figures["auc"] == pytest.approx(21 / 24)
    # Precision at each positive sample, from the highest score: 1, 1, 1, 4/5, 5/6, 6/7.
    assert figures["average_precision"] == pytest.approx((3 + 4 / 5 + 5 / 6 + 6 / 7) / 6)
    # Of four negatives, a specificity of 0.9 allows no false positive: only 0.9, 0.95 and 0.99 are above 0.8. Of six
    # positives, a sensitivity of 0.9 needs all: the threshold is 0.4, with one false positive.
    assert (
        figures["operating_points"][0]["sensitivity"] == 0.5 and figures["operating_points"][2]["specificity"] == 0.75
    )
    assert figures["calibration"]["brier"] == pytest.approx(
        (0.01 + 0.04 + 0.09 + 0.64 + 0.36 + 0.16 + 0.09 + 0.01 + 0.0025 + 0.0001) / 10
    )
    # Wilson (1927) for 8 of 10 at 95 %: 0.4902 to 0.9433
    assert figures["accuracy_interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_positive_label_may_be_the_first():
    truth, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    figures = metrics.evaluate_scores(
        truth, scores, np.arange(2), ["ABNORMAL", "NORMAL"], 0, threshold=0.5, bootstrap=10
    )
    assert figures["positive_label"] == "ABNORMAL" and figures["sensitivity"] == 1.0


def test_more_than_two_labels():
    truth = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.2, 0.3]])
    figures = metrics.evaluate_scores(truth, scores, np.arange(4), ["a", "b", "c"], 2, threshold=None, bootstrap=20)
    assert figures["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert figures["accuracy"] == 0.75 and figures["per_label"]["c"]["sensitivity"] == 0.5
    assert figures["auc"] == 1.0 and "threshold" not in figures
    assert figures["macro"]["sensitivity"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["macro"]["specificity"] == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_findings_are_evaluated_where_they_are_known():
    unknown = np.nan
    truth = np.array([[1, unknown, 0], [0, 1, 0], [1, 0, 0], [0, unknown, 0]])
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.6, 0.2], [0.3, 0.7, 0.1], [0.4, 0.1, 0.1]])
    figures = metrics.evaluate_scores(
        truth, scores, np.arange(4), ["a", "b", "c"], 0, threshold=[0.35, 0.65, None], bootstrap=10
    )
    a, b, c = figures["per_label"].values()
    assert (a["n"], a["positives"], a["auc"], a["sensitivity"], a["specificity"]) == (4, 2, 0.75, 0.5, 0.5)
    assert (b["n"], b["positives"], b["auc"], b["sensitivity"]) == (2, 1, 0.0, 0.0)
    assert (c["n"], c["auc"], c["sensitivity"], c["specificity"]) == (4, None, None, 1.0)
    assert figures["auc"] == figures["macro"]["auc"] == 0.375 == metrics.auc(truth, scores)
    assert figures["thresholds"] == {"a": 0.35, "b": 0.65, "c": None}


def test_finding_that_is_never_known_has_no_figures():
    truth = np.array([[1, np.nan], [0, np.nan], [1, np.nan]])
    figures = metrics.evaluate_scores(
        truth,
        np.array([[0.9, 0.5], [0.2, 0.6], [0.3, 0.7]]),
        np.array([0, 0, 1]),
        ["a", "b"],
        None,
        threshold=[0.5, None],
        bootstrap=10,
        prevalence=(0.1, 0.2),
    )
    unknown = figures["per_label"]["b"]
    assert (unknown["n"], unknown["positives"], unknown["clinic"]["ppv"], unknown["calibration"].pop("bins")) == (
        0,
        0,
        None,
        [],
    )
    assert set(unknown["calibration"].values()) == set(unknown["operating_points"][0].values()) - {0.9} == {None}
    assert all(
        unknown[name] is None for name in ("accuracy", "accuracy_interval", "auc", "auc_interval", "sensitivity")
    )
    assert figures["auc"] == figures["per_label"]["a"]["auc"] == 1.0 and json.dumps(figures, allow_nan=False)


def test_rare_finding_leaves_the_intervals_of_means():
    """It is missing in many resamples, and is left out there like a finding that is missing in the samples."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (200, 3)).astype(float)
    truth[:, 1:] = np.arange(200)[:, None] == [0, -1]
    scores = random.random((200, 3)) * 0.7 + 0.3 * truth
    scores[0, 1] = 0.5
    figures = metrics.evaluate_scores(
        truth, scores, np.arange(200), ["common", "rare", "none"], None, [0.6] * 3, bootstrap=50
    )
    macro, (common, rare, none) = figures["macro"], figures["per_label"].values()
    assert rare["auc"] is not None and rare["auc_interval"] is None and none["auc"] is None
    assert macro["auc"] == pytest.approx((common["auc"] + rare["auc"]) / 2) and macro["auc"] == metrics.auc(
        truth, scores
    )
    assert (macro["auc_labels"], macro["sensitivity_labels"], macro["specificity_labels"]) == (2, 2, 3)
    low, high = macro["auc_interval"]
    assert low <= macro["auc"] <= high and figures["auc_interval"] == macro["auc_interval"]


def test_finding_known_in_few_patients_removes_the_intervals_of_means():
    """It counts in the mean but cannot be resampled."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (200, 2)).astype(float)
    scores = random.random((200, 2)) * 0.7 + 0.3 * truth
    truth[6:, 1] = np.nan
    figures = metrics.evaluate_scores(truth, scores, np.arange(200), ["a", "b"], None, [0.5, 0.5], bootstrap=50)
    macro, (a, b) = figures["macro"], figures["per_label"].values()
    assert (
        b["average_precision"] is not None
        and b["average_precision_interval"] is None
        and a["average_precision_interval"]
    )
    for name in ("auc", "average_precision", "sensitivity", "specificity"):
        assert macro[name] == pytest.approx((a[name] + b[name]) / 2) and macro[f"{name}_interval"] is None


def test_one_class_has_no_auc():
    figures = metrics.evaluate_scores(np.ones(3, int), binary([0.2, 0.6, 0.7]), np.arange(3), LABELS, 1, 0.5)
    assert figures["auc"] is None and figures["auc_interval"] is None and figures["specificity"] is None
    assert figures["accuracy"] == figures["sensitivity"] == pytest.approx(2 / 3)


def test_several_images_per_patient_widen_the_intervals():
    random = np.random.default_rng(0)
    shift = np.repeat(random.normal(size=40), 10)  # ten similar images per patient
    truth = np.repeat(np.arange(40) % 2, 10)
    scores = binary(1 / (1 + np.exp(-(truth + shift))))

    def widths(patients, *names):
        figures = metrics.evaluate_scores(truth, scores, patients, LABELS, 1, 0.6, bootstrap=200)
        return np.array([high - low for low, high in (figures[name] for name in names)])

    by_patient = widths(np.repeat(np.arange(40), 10), "auc_interval", "sensitivity_interval")
    by_image = widths(np.arange(400), "auc_interval", "sensitivity_interval")
    assert (by_patient > 2 * by_image).all()


def test_perfect_figures_have_intervals():
    """Ten and ten samples without an error say little about others."""
    truth = np.repeat([0, 1], 10)
    figures = metrics.evaluate_scores(
        truth, binary(0.1 + 0.8 * truth), np.arange(20), LABELS, 1, 0.5, bootstrap=50, prevalence=(0.99, 0.01)
    )
    # Newcombe 2006, method 5: 0.8002 is 1.96 standard errors below 1.
    assert figures["auc"] == 1.0 and figures["auc_interval"] == pytest.approx([0.8002, 1.0], abs=1e-4)
    assert figures["specificity_interval"] == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert figures["average_precision_interval"] is None and figures["operating_points"][0]["interval"] is None
    ppv, npv = figures["clinic"]["ppv_interval"], figures["clinic"]["npv_interval"]
    assert figures["clinic"]["ppv"] == 1 and ppv[1] == 1 and ppv[0] < 0.1 and npv[0] > 0.99
    worst = metrics.evaluate_scores(truth, binary(0.9 - 0.8 * truth), np.arange(20), LABELS, 1, 0.5, bootstrap=50)
    assert worst["auc"] == 0 and worst["auc_interval"] == pytest.approx([0, 0.1998], abs=1e-4)
    assert perfect_auc_interval(0, 5) is None


def test_few_patients_have_no_bootstrap():
    random = np.random.default_rng(0)
    truth, scores = np.arange(200) % 2, binary(random.random(200).tolist())
    figures = metrics.evaluate_scores(truth, scores, np.arange(200) % 2, LABELS, 1, 0.5, bootstrap=50)
    assert figures["auc_interval"] is None and figures["calibration"]["ece_interval"] is None
    low, high = figures["accuracy_interval"]
    assert high - low > 0.6  # two patients
