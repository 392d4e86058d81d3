import numpy as np

from cxrflow import metrics


def test_two_labels_by_distance_from_the_threshold():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.01, 0.99], [0.7, 0.3]])
    found = metrics.find_outcomes(np.array([1, 1, 0, 0]), scores, 1, 0.5)
    assert found.rows[found.most_confident(~found.correct, 5)].tolist() == [2, 0]
    assert found.rows[found.most_confident(found.correct, 1)].tolist() == [3]
    assert found.label_indices.tolist() == [1] * 4 and found.least_confident(1).tolist() == [1]
    # With the threshold at 0.99, a score of 0.6 is far from it.
    assert metrics.find_outcomes(np.array([1, 1, 0, 0]), scores, 1, 0.99).least_confident(1).tolist() == [2]


def test_three_labels_by_distance_between_the_two_highest_scores():
    found = metrics.find_outcomes(np.array([0, 1]), np.array([[0.2, 0.5, 0.3], [0.05, 0.9, 0.05]]), 2, None)
    assert found.label_indices.tolist() == [1, 1] and found.correct.tolist() == [False, True]
    assert found.least_confident(1).tolist() == [0]


def test_multi_label_has_one_outcome_for_each_known_finding():
    truth, scores = np.array([[1, np.nan], [0, 0]]), np.array([[0.3, 0.9], [0.1, 0.6]])
    found = metrics.find_outcomes(truth, scores, 0, [0.5, None])
    assert list(zip(found.rows, found.label_indices, found.correct, strict=True)) == [
        (0, 0, False),
        (1, 0, True),
        (1, 1, False),
    ]
