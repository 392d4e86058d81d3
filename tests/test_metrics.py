import json

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrflow import metrics
from cxrflow.metrics.evaluation_text import rate
from cxrflow.metrics.intervals import Rate, Resamples, basic, logit_interval, percentiles, perfect_auc_interval, wilson
from cxrflow.metrics.one_vs_rest import LEVELS, OneVsRest, predictive
from cxrflow.metrics.ranking import Ranking

LABELS = ["NORMAL", "PNEUMONIA"]


def binary(scores: list[float]) -> np.ndarray:
    return np.array([[1 - score, score] for score in scores])


def test_figures_worked_out_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    scores = binary([0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.9, 0.95, 0.99])
    figures = metrics.evaluate_scores(truth, scores, np.arange(10), LABELS, 1, threshold=0.5, bootstrap=50)
    assert figures["confusion"] == [[3, 1], [1, 5]]
    assert figures["accuracy"] == 0.8 and (figures["n"], figures["positives"]) == (10, 6)
    assert figures["sensitivity"] == pytest.approx(5 / 6) and figures["specificity"] == 0.75
    assert figures["ppv"] == pytest.approx(5 / 6) and figures["npv"] == 0.75
    # Of the 24 pairs, the 0.8 among the normal ones is above 0.4, 0.6 and 0.7.
    assert figures["auc"] == pytest.approx(21 / 24)
    # Precision at each positive one, from the highest score: 1, 1, 1, 4/5, 5/6, 6/7.
    assert figures["average_precision"] == pytest.approx((3 + 4 / 5 + 5 / 6 + 6 / 7) / 6)
    # A specificity of 0.9 of four allows no false alarm: 0.9, 0.95 and 0.99 are above the 0.8. A sensitivity of 0.9 of six
    # means all: from 0.4 on, with one false alarm.
    assert (
        figures["operating_points"][0]["sensitivity"] == 0.5 and figures["operating_points"][2]["specificity"] == 0.75
    )
    assert figures["calibration"]["brier"] == pytest.approx(
        (0.01 + 0.04 + 0.09 + 0.64 + 0.36 + 0.16 + 0.09 + 0.01 + 0.0025 + 0.0001) / 10
    )
    # Wilson (1927) for 8 of 10 at 95 %: 0.4902 to 0.9433
    assert figures["accuracy_interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_resampled_figures_are_scikit_learns_of_weighted_samples():
    random = np.random.default_rng(0)
    positive, scores = random.random(300) < 0.3, np.round(random.random(300), 1)  # many ties
    weights = random.integers(0, 3, (20, 300)).astype(float)
    found = OneVsRest(positive, scores, scores >= 0.5, np.arange(300))(weights)
    for place, weight in enumerate(weights):
        assert found["auc"][place] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weight))
        assert found["average_precision"][place] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=weight)
        )
        repeated = np.repeat(np.arange(300), weight.astype(int))
        assert found["ece"][place] == pytest.approx(metrics.ece(positive[repeated], scores[repeated]))
        assert found["sensitivity"][place] == pytest.approx((scores >= 0.5)[repeated][positive[repeated]].mean())
        at = [
            (scores[repeated] >= t)[positive[repeated]].mean()
            for t in np.append(scores, 2)
            if (scores[repeated] < t)[~positive[repeated]].mean() >= 0.9
        ]
        assert found["specificity", 0.9, "sensitivity"][place] == pytest.approx(max(at))


def test_a_threshold_above_all_scores_reaches_any_specificity():
    ranking = Ranking(np.array([True, False]), np.array([0.2, 0.9]))
    assert ranking.figures(np.ones((1, 2)), LEVELS).tolist() == [[0, 0.5, 0, 0, 0, 0]]


def test_the_positive_label_may_be_the_first():
    truth, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    figures = metrics.evaluate_scores(
        truth, scores, np.arange(2), ["ABNORMAL", "NORMAL"], 0, threshold=0.5, bootstrap=10
    )
    assert figures["positive_label"] == "ABNORMAL" and figures["sensitivity"] == 1.0


@pytest.mark.parametrize(
    ("labels", "positive"),
    [(["NORMAL", "PNEUMONIA"], 1), (["ABNORMAL", "NORMAL"], 0), (["No Finding", "Effusion"], 1), (["A", "B"], 1)],
)
def test_positive_label_is_the_one_not_called_normal(labels, positive):
    assert metrics.positive_index(labels) == positive


def test_more_than_two_labels():
    truth = np.array([0, 1, 2, 2])
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.2, 0.3]])
    figures = metrics.evaluate_scores(truth, scores, np.arange(4), ["a", "b", "c"], 2, threshold=None, bootstrap=20)
    assert figures["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert figures["accuracy"] == 0.75 and figures["per_label"]["c"]["sensitivity"] == 0.5
    assert figures["auc"] == 1.0 and "threshold" not in figures
    assert figures["macro"]["sensitivity"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["macro"]["specificity"] == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_each_of_several_findings_is_judged_where_it_is_known():
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


def test_of_a_finding_that_is_nowhere_known_there_are_no_figures():
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


def test_a_rare_finding_takes_no_interval_from_the_means():
    """In many resamples it is nowhere present, and left out as it is where it is nowhere present in the samples."""
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


def test_a_finding_known_of_few_patients_takes_the_interval_from_the_means():
    """It is in the mean, and cannot be in its resamples."""
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


def test_one_class_alone_has_no_auc():
    figures = metrics.evaluate_scores(np.ones(3, int), binary([0.2, 0.6, 0.7]), np.arange(3), LABELS, 1, 0.5)
    assert figures["auc"] is None and figures["auc_interval"] is None and figures["specificity"] is None
    assert figures["accuracy"] == figures["sensitivity"] == pytest.approx(2 / 3)


def test_images_of_few_patients_widen_the_intervals():
    random = np.random.default_rng(0)
    shift = np.repeat(random.normal(size=40), 10)  # ten images a patient that are much alike
    truth = np.repeat(np.arange(40) % 2, 10)
    scores = binary(1 / (1 + np.exp(-(truth + shift))))

    def widths(patients, *names):
        figures = metrics.evaluate_scores(truth, scores, patients, LABELS, 1, 0.6, bootstrap=200)
        return np.array([high - low for low, high in (figures[name] for name in names)])

    by_patient = widths(np.repeat(np.arange(40), 10), "auc_interval", "sensitivity_interval")
    by_image = widths(np.arange(400), "auc_interval", "sensitivity_interval")
    assert (by_patient > 2 * by_image).all()


def test_the_bootstraps_interval_is_that_of_theory():
    """Hanley and McNeil (1982): the standard error of an AUC, here of normal scores one standard deviation apart."""
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
def test_a_rate_of_patients_with_one_image_each_has_wilsons_interval(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials) == pytest.approx([expected.low, expected.high])
    assert Rate.of(np.arange(trials) < hits, np.ones(trials), np.arange(trials)).interval == pytest.approx(
        [expected.low, expected.high]
    )


def test_images_that_are_all_alike_count_as_one():
    random = np.random.default_rng(0)
    alike = np.repeat(random.random(50) < 0.8, 7)
    found = Rate.of(alike, np.ones(350), np.repeat(np.arange(50), 7))
    assert (
        50 - alike[::7].sum() >= 10 and 45 < found.trials <= 50
    )  # a little less than 50, for the variance between so few is not known for certain
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
def test_a_rates_interval_holds_the_true_one_in_19_of_20_draws(patients, images, rate, alike):
    """Of each patient's images a share of its own is right, drawn from a beta distribution; ``alike``: their correlation. Also
    where few patients have all the errors."""
    random, held, by_image = np.random.default_rng(1), 0, 0
    for _ in range(400):
        own = random.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, patients)
        member = np.repeat(np.arange(patients), random.integers(1, 2 * images, patients))
        right = random.random(len(member)) < own[member]
        low, high = Rate.of(right, np.ones(len(right)), member).interval
        held += low <= rate <= high
        low, high = wilson(right.sum(), len(right))
        by_image += low <= rate <= high
    assert held >= 0.92 * 400 and (images == 1 or by_image < held)
    assert images < 10 or by_image < 0.85 * 400  # what images taken for independent would do


@pytest.mark.parametrize(("negatives", "positives", "area"), [(34, 66, 0.99), (20, 20, 0.97)])
def test_an_aucs_interval_near_1_holds_the_true_one(negatives, positives, area):
    random, held, by_percentiles = np.random.default_rng(2), 0, 0
    positive = np.arange(negatives + positives) >= negatives
    for _ in range(200):
        scores = expit(random.normal(size=len(positive)) + positive * 2**0.5 * norm.ppf(area))
        samples = (question := OneVsRest(positive, scores, positive, np.arange(len(positive))))(
            next(Resamples(np.arange(len(positive)), 200).weights())
        )
        found = question.figures(samples)["auc_interval"]
        held += found[0] <= area <= found[1]
        plain = percentiles(samples["auc"]) or [1, 1]
        by_percentiles += plain[0] <= area <= plain[1]
    assert held >= 0.92 * 200 and by_percentiles < 0.92 * 200


def test_figures_without_an_error_have_intervals_all_the_same():
    """Ten and ten that are parted wholly say little of the next ones."""
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


def test_of_few_patients_there_is_no_bootstrap():
    random = np.random.default_rng(0)
    truth, scores = np.arange(200) % 2, binary(random.random(200).tolist())
    figures = metrics.evaluate_scores(truth, scores, np.arange(200) % 2, LABELS, 1, 0.5, bootstrap=50)
    assert figures["auc_interval"] is None and figures["calibration"]["ece_interval"] is None
    low, high = figures["accuracy_interval"]
    assert high - low > 0.6  # two patients


@pytest.mark.parametrize(
    ("ill", "well", "sensitivity", "specificity", "prevalence"),
    [(400, 230, 0.98, 0.99, 0.1), (100, 100, 0.95, 0.98, 0.01), (30, 300, 0.8, 0.9, 0.05)],
)
def test_predictive_values_intervals_hold_the_true_ones(ill, well, sensitivity, specificity, prevalence):
    random, held = np.random.default_rng(3), {"ppv": 0, "npv": 0}
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true = {
        "ppv": hits / (hits + alarms),
        "npv": specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence),
    }
    for _ in range(200):
        found = predictive(
            prevalence,
            Rate(random.binomial(ill, sensitivity) / ill, ill),
            Rate(random.binomial(well, specificity) / well, well),
        )
        for name in held:
            low, high = found[f"{name}_interval"]
            held[name] += low <= true[name] <= high and low <= found[name] <= high
    assert min(held.values()) >= 0.91 * 200


def test_an_interval_of_a_figure_that_chance_drives_up_is_mirrored():
    assert basic(0.05, np.linspace(0.04, 0.08, 1001)) == pytest.approx([0.021, 0.059])
    # Where chance gave more in all of them, it still holds the figure itself.
    assert basic(0.05, np.linspace(0.06, 0.10, 1001)) == pytest.approx([0.001, 0.05])
    assert basic(0.05, np.linspace(0.06, 0.12, 1001))[0] == 0 and percentiles(np.array([0.5, np.nan])) is None
    assert percentiles(np.ones(5)) is None  # which tells nothing of other patients


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.000"),
        (0.9996, "0.9996"),
        (0.99951, "0.9995"),
        (0.9999961, "1.000"),
        (0.99, "0.990"),
        (0.0, "0.000"),
        (None, "none"),
    ],
)
def test_a_share_below_1_does_not_look_like_1(value, shown):
    assert rate(value) == shown
