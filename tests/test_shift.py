import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp

from cxrflow.images.phantoms import draw_phantom
from cxrflow.metrics import shift

pytestmark = pytest.mark.spark

SIDE = 64


def facts_of(pixels: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(shift.IMAGE_FACTS, shift.image_facts(pixels).T, strict=True))


def draw(patients: range) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (n, SIDE, SIDE), text (n,)) of phantoms; every second one has an opacity."""
    images = [
        Image.fromarray(draw_phantom(96, patient % 2 == 1, patient, 0)).resize((SIDE, SIDE)) for patient in patients
    ]
    return np.stack([np.asarray(image) for image in images]), np.array(
        ["ill" if patient % 2 else "well" for patient in patients]
    )


@pytest.fixture(scope="module")
def reference() -> dict:
    pixels, labels = draw(range(120))
    return {"patients": 120, "groups": shift.describe(facts_of(pixels), labels)}


@pytest.fixture(scope="module")
def site() -> tuple[np.ndarray, np.ndarray]:
    return draw(range(1000, 1120))


def each(change):
    return lambda pixels: np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pixels: pixels, set()),
        (lambda pixels: 255 - pixels, {"mean", "border"}),
        (lambda pixels: (pixels * 0.7).astype(np.uint8), {"mean"}),
        (each(lambda image: image.crop((9, 9, SIDE - 9, SIDE - 9)).resize((SIDE, SIDE))), {"border"}),
        (each(lambda image: image.filter(ImageFilter.GaussianBlur(1))), {"sharpness"}),
        (lambda pixels: np.pad(pixels[:, 6:-6, 6:-6], ((0, 0), (6, 6), (6, 6))), {"border"}),
    ],
    ids=["the same", "inverted", "darker", "cropped", "blurred", "black frame"],
)
def test_changed_images_are_a_large_shift(reference, site, change, named):
    pixels, labels = site
    found = shift.compare(reference, facts_of(change(pixels)), labels, patients=len(pixels))
    assert found["limit"] == pytest.approx(shift.LARGE) and named <= set(found["large"])
    assert bool(found["large"]) == bool(named)
    assert [found["facts"][name]["distance"] for name in found["large"]] == sorted(
        (found["facts"][name]["distance"] for name in found["large"]), reverse=True
    )


def test_another_prevalence_is_not_a_shift(reference, site):
    """Differences between the labels do not count, here a fact that separates them completely."""
    pixels, labels = site
    rare = np.append(np.flatnonzero(labels == "well"), np.flatnonzero(labels == "ill")[:6])
    known = {
        "patients": 120,
        "groups": {
            label: {"n": 60, "facts": {"score": np.linspace(low, low + 0.1, 60).tolist()}}
            for label, low in (("well", 0.1), ("ill", 0.8))
        },
    }
    score = np.where(labels[rare] == "well", 0.1, 0.8) + np.linspace(0, 0.1, len(rare))
    assert shift.compare(known, {"score": score}, labels[rare], len(rare))["facts"]["score"]["distance"] < 0.15
    assert shift.compare(reference, facts_of(pixels[rare]), labels[rare], len(rare))["large"] == []


def test_limit_grows_with_few_patients(reference, site):
    pixels, labels = site
    found = shift.compare(reference, facts_of(pixels[:12]), labels[:12], patients=12)
    assert found["limit"] > 0.55 and found["large"] == []


@pytest.mark.parametrize(("counts", "limit"), [((12, 500), 0.54), ((256, 256), shift.LARGE)])
def test_limit_grows_if_a_common_label_was_rare_in_the_reference(counts, limit):
    """300 patients without any shift, and references with other shares of the labels."""
    random, here, warned = np.random.default_rng(0), np.repeat(["NORMAL", "PNEUMONIA"], [285, 15]), 0

    def drawn(groups):
        return {"mean": random.normal(size=len(groups)) + 2 * (groups == "PNEUMONIA")}

    for _ in range(400):
        groups = np.repeat(["NORMAL", "PNEUMONIA"], counts)
        found = shift.compare(
            {"patients": 512, "groups": shift.describe(drawn(groups), groups)}, drawn(here), here, 300
        )
        assert found["limit"] == pytest.approx(limit, abs=0.01)
        warned += bool(found["large"])
    assert warned <= 2


def test_unknown_labels_are_compared_with_the_whole_reference(reference, site):
    pixels, labels = site
    found = shift.compare(reference, facts_of(pixels), np.full(len(labels), "another"), 120)
    assert found["large"] == [] and found["facts"].keys() == shift.IMAGE_FACTS.keys()


def test_distance_equals_scipy():
    random = np.random.default_rng(0)
    one, two = np.round(random.normal(size=80), 1), np.round(random.normal(size=50) + 0.5, 1)  # ties
    assert shift.distance(one, np.full(80, 1 / 80), two) == pytest.approx(ks_2samp(one, two).statistic, abs=1e-6)
    assert shift.distance(np.array([1.0, 2.0]), np.array([0.9, 0.1]), np.array([2.0])) == 0.9
    # Two normal distributions 0.8 standard deviations apart.
    far = shift.distance(random.normal(size=20_000), np.full(20_000, 1 / 20_000), random.normal(size=20_000) + 0.8)
    assert far == pytest.approx(shift.LARGE, abs=0.02)


def test_quantiles_preserve_the_distance():
    random = np.random.default_rng(0)
    values, other = random.gamma(2, size=5000), random.gamma(2.5, size=700)
    quantiles = shift.describe({"x": values}, np.full(5000, "a"))["a"]["facts"]["x"]
    assert len(quantiles) == shift.MAX_QUANTILES
    found = shift.compare(
        {"patients": 5000, "groups": {"a": {"n": 5000, "facts": {"x": quantiles}}}},
        {"x": other},
        np.full(700, "a"),
        700,
    )
    assert found["facts"]["x"]["distance"] == pytest.approx(ks_2samp(values, other).statistic, abs=0.006)


def test_image_facts_by_hand():
    frame = np.zeros((1, 16, 16), np.uint8)
    frame[0, 1:-1, 1:-1] = 160  # 196 of 256 pixels
    mean, sd, sharpness, border = shift.image_facts(frame)[0]
    assert mean == 160 * 196 / 256 and border == -mean
    assert sd == pytest.approx(160 * np.sqrt(196 / 256 * 60 / 256))
    # Of the 14 x 14 pixels inside, 48 lie beside one dark pixel and 4 beside two, a quarter of 160 each.
    assert sharpness == pytest.approx((48 + 2 * 4) * 40 / 196 / sd)
    assert shift.source_facts(np.array([100]), np.array([400])).tolist() == [[200.0, 4.0]]
