import numpy as np
import pytest

from cxrflow import metrics

LABELS = ["NORMAL", "PNEUMONIA"]


def binary(scores: list[float]) -> np.ndarray:
    return np.array([[1 - score, score] for score in scores])


def test_figures_worked_out_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    scores = binary([0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.9, 0.95, 0.99])
    figures = metrics.judge(truth, scores, np.arange(10), LABELS, 1, threshold=0.5, bootstrap=50)
    assert figures["confusion"] == [[3, 1], [1, 5]]
    assert figures["accuracy"] == 0.8
    assert figures["sensitivity"] == pytest.approx(5 / 6) and figures["specificity"] == 0.75
    # Of the 24 pairs, the 0.8 among the normal ones is above 0.4, 0.6 and 0.7.
    assert figures["auc"] == pytest.approx(21 / 24)
    # Wilson (1927) for 8 of 10 at 95 %: 0.4902 to 0.9433
    assert figures["accuracy_interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_the_positive_label_may_be_the_first():
    truth, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    figures = metrics.judge(truth, scores, np.arange(2), ["ABNORMAL", "NORMAL"], 0, threshold=0.5, bootstrap=10)
    assert figures["positive_label"] == "ABNORMAL" and figures["sensitivity"] == 1.0


@pytest.mark.parametrize(("labels", "positive"), [
    (["NORMAL", "PNEUMONIA"], 1), (["ABNORMAL", "NORMAL"], 0), (["No Finding", "Effusion"], 1), (["A", "B"], 1)])
def test_positive_label_is_the_one_not_called_normal(labels, positive):
    assert metrics.positive_index(labels) == positive


def test_youden_lies_in_the_gap():
    positive = np.array([False, False, True, True])
    assert metrics.youden_threshold(positive, np.array([0.1, 0.3, 0.7, 0.9])) == pytest.approx(0.5)


def test_the_threshold_of_a_model_worse_than_chance_is_finite():
    assert 0 <= metrics.youden_threshold(np.array([True, True, False]), np.array([0.1, 0.2, 0.9])) <= 1


@pytest.mark.parametrize("value", [True, False])
def test_there_is_no_threshold_for_one_class(value):
    with pytest.raises(ValueError, match="expected both values"):
        metrics.youden_threshold(np.full(3, value), np.array([0.1, 0.2, 0.9]))


def test_more_than_two_labels():
    truth = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.2, 0.3]])
    figures = metrics.judge(truth, scores, np.arange(4), ["a", "b", "c"], 2, threshold=None, bootstrap=20)
    assert figures["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert figures["accuracy"] == 0.75 and figures["per_label"]["c"]["sensitivity"] == 0.5
    assert figures["auc"] == 1.0 and "threshold" not in figures


def test_one_class_alone_has_no_auc():
    figures = metrics.judge(np.ones(3, int), binary([0.2, 0.6, 0.7]), np.arange(3), LABELS, 1, 0.5)
    assert figures["auc"] is None and figures["auc_interval"] is None and figures["specificity"] is None


def test_images_of_few_patients_widen_the_interval():
    random = np.random.default_rng(0)
    shift = np.repeat(random.normal(size=40), 10)  # ten images a patient that are much alike
    truth = np.repeat(np.arange(40) % 2, 10)
    scores = binary(1 / (1 + np.exp(-(truth + shift))))
    by_patient = metrics.auc_interval(truth, scores, np.repeat(np.arange(40), 10), 200)
    by_image = metrics.auc_interval(truth, scores, np.arange(400), 200)
    assert by_patient[1] - by_patient[0] > 2 * (by_image[1] - by_image[0])
