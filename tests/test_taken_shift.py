import numpy as np
import pytest

from cxrflow.base.image_groups import NOT_STATED, OTHER
from cxrflow.metrics.shift import LARGE
from cxrflow.metrics.taken_shift import compare_taken, describe_taken


def reference(patients: int = 500, **groupings: dict[str, dict[str, int]]) -> dict:
    """Of images with the label A, or the labels that the counts have."""
    groups = {name: {"splits": {}, "labels": counts} for name, counts in groupings.items()}
    return describe_taken(groups, sorted(set().union(*groupings.values())), patients)


def compare(known: dict, here: dict[str, list[str]], labels=None, patients=None) -> dict:
    groups = {name: np.array(values) for name, values in here.items()}
    count = len(next(iter(groups.values())))
    labels = np.full(count, "A") if labels is None else np.array(labels)
    return compare_taken(known, groups, labels, np.arange(count) if patients is None else np.array(patients))


def test_distance_is_half_the_sum_of_the_differences():
    known = reference(view={"A": {"PA": 80, "AP": 20}})
    found = compare(known, {"view": ["PA"] * 20 + ["AP"] * 70 + ["LL"] * 10})["groupings"]["view"]
    # PA 0.8 and 0.2, AP 0.2 and 0.7, others 0 and 0.1
    assert found["distance"] == pytest.approx(0.6) and found["new"] == ["LL"]
    assert found["trained"] == {"PA": 0.8, "AP": 0.2, "LL": 0.0}
    assert found["here"] == {"PA": 0.2, "AP": 0.7, "LL": 0.1}


@pytest.mark.parametrize(("flipped", "large"), [(0, False), (60, False), (160, True)])
def test_a_large_distance_is_one_of_0_3(flipped, large):
    known = reference(sex={"A": {"F": 200, "M": 200}, "B": {"F": 200, "M": 200}})
    here = ["F"] * (200 + flipped) + ["M"] * (200 - flipped)
    found = compare(known, {"sex": here}, labels=["A", "B"] * 200)
    assert found["large"] == (["sex"] if large else [])
    assert found["groupings"]["sex"]["distance"] == pytest.approx(flipped / 400)
    assert found["groupings"]["sex"]["limit"] == LARGE and not found["groupings"]["sex"]["few"]


def test_another_prevalence_is_not_a_shift():
    """In training all of A were taken PA and all of B AP, and so they are here, where B is rare."""
    known = reference(view={"A": {"PA": 100}, "B": {"AP": 100}})
    found = compare(known, {"view": ["PA"] * 90 + ["AP"] * 10}, labels=["A"] * 90 + ["B"] * 10)
    assert found["groupings"]["view"]["distance"] == 0 and found["large"] == []
    swapped = compare(known, {"view": ["AP"] * 90 + ["PA"] * 10}, labels=["A"] * 90 + ["B"] * 10)
    assert swapped["groupings"]["view"]["distance"] == pytest.approx(0.8) and swapped["large"] == ["view"]


def test_chance_alone_is_not_called_large():
    """400 samples of 40 patients each, from the shares of training."""
    random, shares = np.random.default_rng(0), {"0-1": 100, "1-5": 100, "5-18": 100, "18-40": 100, NOT_STATED: 100}
    known, large = reference(patients=60, age={"A": shares}), 0
    for _ in range(400):
        found = compare(known, {"age": random.choice(list(shares), 40).tolist()})
        assert found["groupings"]["age"]["few"]
        large += bool(found["large"])
    assert large <= 1
    assert compare(known, {"age": ["80+"] * 40})["large"] == ["age"]


def test_images_of_the_same_patients_do_not_count_as_more():
    known = reference(view={"A": {"PA": 400, "AP": 400}})
    one = compare(known, {"view": ["PA"] * 400}, patients=np.arange(400))["groupings"]["view"]
    few = compare(known, {"view": ["PA"] * 400}, patients=np.arange(400) % 10)["groupings"]["view"]
    assert one["limit"] == LARGE < few["limit"] and few["few"]


def test_shares_of_few_patients_are_not_shown():
    known = reference(maker={"A": {"GE": 100, "AGFA": 50}})
    found = compare(known, {"maker": ["GE"] * 96 + ["AGFA"] * 4 + ["RARE"] * 3 + ["FUJI"] * 5})["groupings"]["maker"]
    assert found["new"] == ["FUJI"] and "RARE" not in found["here"] and "RARE" not in found["trained"]
    assert found["here"]["AGFA"] is None and found["here"][OTHER] is None and found["here"]["FUJI"] == 5 / 108


def test_what_neither_side_states_is_left_out():
    known = reference(view={"A": {NOT_STATED: 9}}, sex={"A": {"F": 9}})
    found = compare(known, {"view": [NOT_STATED] * 20, "sex": [NOT_STATED] * 20, "maker": ["GE"] * 20})
    assert list(found["groupings"]) == ["sex"] and found["groupings"]["sex"]["distance"] == 1


def test_labels_that_training_lacks_are_compared_with_all_of_it():
    known = reference(sex={"A": {"F": 30, "M": 10}, "B": {"F": 10, "M": 30}})
    found = compare(known, {"sex": ["F"] * 10 + ["M"] * 10}, labels=["C"] * 20)
    assert found["groupings"]["sex"]["trained"] == {"F": 0.5, "M": 0.5}
