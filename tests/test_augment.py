import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.images.phantoms import draw_phantom
from cxrflow.training.augment import POLICIES, Policy, augment, find_policy, uniforms
from cxrflow.training.augment.detail import blurred, compressed, resampled, sharpened
from cxrflow.training.augment.exposure import exposure_tables, look_up
from cxrflow.training.augment.pose import inverse_maps, margins, warp
from cxrflow.training.augment.uniforms import splitmix64

IDS = np.random.default_rng(0).integers(-(2**63), 2**63, 12)  # like a table's: the first bytes of a hash
CHANGING = [name for name in POLICIES if name != "none"]


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    """Twelve synthetic phantoms, uint8 (12, 61, 54, 1), read-only like the feed's."""
    pixels = np.stack([draw_phantom(64, bool(i % 2), i, 0)[:61, :54, None] for i in range(12)])
    pixels.flags.writeable = False
    return pixels


def white_square(size: int = 8, side: int = 2) -> np.ndarray:
    """Black, with a white square in the middle: uint8 (1, size, size, 1)."""
    pixels = np.zeros((1, size, size, 1), np.uint8)
    low = (size - side) // 2
    pixels[:, low : low + side, low : low + side] = 255
    return pixels


def posed(pixels, degrees=0.0, right=0.0, down=0.0, zoom=1.0, flip=False, aspect=1.0, shear=0.0):
    """Warp one image (1, H, W, 1) by exact values."""
    values = (np.array([value]) for value in (np.radians(degrees), right, down, zoom, flip, aspect, shear))
    return warp(pixels, inverse_maps(pixels.shape[1:3], *values))


# What the result for an image depends on


def test_none_returns_the_same_array(batch):
    assert augment(POLICIES["none"], batch, IDS, seed=1, epoch=2) is batch


@pytest.mark.parametrize("name", CHANGING)
def test_an_image_depends_on_seed_epoch_and_id_alone(batch, name):
    policy = POLICIES[name]
    whole = augment(policy, batch, IDS, seed=1, epoch=2)
    assert whole.shape == batch.shape and whole.dtype == np.uint8
    order = np.random.default_rng(5).permutation(12)
    np.testing.assert_array_equal(augment(policy, batch[order], IDS[order], seed=1, epoch=2), whole[order])
    for size in (1, 5):
        parts = [augment(policy, batch[i : i + size], IDS[i : i + size], seed=1, epoch=2) for i in range(0, 12, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}, {"seed": 2, "epoch": 1}):
        changed = augment(policy, batch, IDS, **other)
        assert all((mine != theirs).any() for mine, theirs in zip(whole, changed, strict=True))


def test_another_process_makes_the_same_pixels_without_a_backend():
    code = (
        "import hashlib, sys, numpy as np; from cxrflow.training.augment import POLICIES, augment; "
        "pixels = (np.arange(4 * 30 * 30) % 251).astype(np.uint8).reshape(4, 30, 30, 1); "
        "made = augment(POLICIES['strong'], pixels, np.arange(4), seed=3, epoch=1); "
        "print(hashlib.sha256(made).hexdigest(), {'keras', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1 and outputs.pop().strip().endswith("set()")


def test_the_global_generators_are_left_alone(batch):
    np.random.seed(4)
    before = np.random.get_state()[1].copy()
    augment(POLICIES["strong"], batch, IDS, seed=1, epoch=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", POLICIES)
def test_padding_rows_stay(batch, name):
    made = augment(POLICIES[name], batch, IDS[:7], seed=1, epoch=2)
    np.testing.assert_array_equal(made[:7], augment(POLICIES[name], batch[:7], IDS[:7], seed=1, epoch=2))
    np.testing.assert_array_equal(made[7:], batch[7:])
    assert augment(POLICIES[name], batch, IDS[:0], seed=1, epoch=2) is batch


@pytest.mark.parametrize("field", ["rotation", "contrast", "erase", "aspect", "blur"])
def test_switching_one_parameter_on_leaves_the_others_draws(batch, field):
    """The black margin depends on the shift only, so it must not change."""
    shift = Policy(shift=0.3)
    more = dataclasses.replace(shift, **{field: 1e-9})
    white = np.full_like(batch, 255)
    np.testing.assert_array_equal(
        augment(shift, white, IDS, seed=0, epoch=0), augment(more, white, IDS, seed=0, epoch=0)
    )


# Random numbers


def test_splitmix64_gives_the_published_numbers():
    """The first outputs of Vigna's splitmix64.c from the state 1234567."""
    assert splitmix64(np.array([1234567], np.uint64), 5).tolist() == [
        [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    ]


@pytest.mark.parametrize("ids", [np.arange(20000), np.random.default_rng(1).integers(-(2**63), 2**63, 20000)])
def test_uniforms_are_uniform_and_independent(ids):
    draws = uniforms(7, 3, ids, 13)
    assert draws.shape == (20000, 13) and draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    columns = np.concatenate([draws, uniforms(7, 4, ids, 13), uniforms(8, 3, ids, 13)], axis=1)
    apart = np.corrcoef(columns.T) - np.eye(39)  # of 20,000 pairs; five standard errors are 0.035
    assert np.abs(apart).max() < 0.035
    assert np.abs([np.corrcoef(column[1:], column[:-1])[0, 1] for column in draws.T]).max() < 0.035
    cells = np.histogram2d(draws[:, 0], draws[:, 1], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-4


def test_uniforms_of_a_sample_do_not_hang_on_the_count_or_on_the_others():
    np.testing.assert_array_equal(uniforms(1, 2, IDS, 3), uniforms(1, 2, IDS, 9)[:, :3])
    np.testing.assert_array_equal(uniforms(1, 2, IDS[4:5], 3), uniforms(1, 2, IDS, 3)[4:5])
    seeds = (0, 1, 2**63, 2**64 - 1)
    assert len({uniforms(seed, epoch, IDS[:1], 1)[0, 0] for seed in seeds for epoch in range(9)}) == 36


# Pose, with results computed by hand


def test_a_shift_by_whole_pixels_moves_the_values_and_shows_black(batch):
    made = posed(batch[:1], right=3, down=-2)
    np.testing.assert_array_equal(made[0, :-2, 3:], batch[0, 2:, :-3])
    assert not made[0, -2:].any() and not made[0, :, :3].any()


def test_a_quarter_turn_is_anticlockwise():
    pixels = np.random.default_rng(2).integers(0, 256, (1, 9, 9, 1), np.uint8)
    np.testing.assert_array_equal(posed(pixels, degrees=90)[0], np.rot90(pixels[0]))


def test_zoom_by_two_doubles_a_square():
    """A new pixel at distance d from the centre shows the old image at d / 2. White reaches from 0.5 on either side,
    then falls to black over one pixel: 1.5 is at 0.75, so 3/4 are left along an axis; 2.5 is at 1.25, so 1/4."""
    profile = np.array([0, 1 / 4, 3 / 4, 1, 1, 3 / 4, 1 / 4, 0])
    made = posed(white_square(8, 2), zoom=2.0)[0, :, :, 0]
    np.testing.assert_allclose(made, 255 * np.outer(profile, profile), atol=1)
    np.testing.assert_allclose(posed(white_square(8, 4), zoom=0.5)[0, 2:6, 2:6, 0].sum() / 255, 4, atol=0.05)


def test_aspect_widens_and_flattens_at_the_same_area():
    """A square of 16 pixels becomes 32 wide and 8 high by an aspect of 4."""
    made = posed(white_square(64, 16), aspect=4.0)[0, :, :, 0]
    assert made.sum() / 255 == pytest.approx(256, rel=0.02)
    assert [(made.max(axis=axis) > 127).sum() for axis in (0, 1)] == [32, 8]


def test_shear_moves_rows_by_their_distance_from_the_centre():
    """The centre of each row of a square moves by 0.25 pixel for each pixel below the image's centre."""
    made = posed(white_square(64, 20), shear=0.25)[0, 23:41, :, 0].astype(float)
    centres = (made * np.arange(64)).sum(axis=1) / made.sum(axis=1)
    np.testing.assert_allclose(centres, 31.5 + 0.25 * (np.arange(23, 41) - 31.5), atol=0.03)


def test_margins_are_black_gray_or_the_edge_a_third_each():
    gray = np.full((3000, 12, 12, 1), 90, np.uint8)
    made = augment(Policy(shift=1.0, mixed_margins=True), gray, np.arange(3000), seed=0, epoch=0)[..., 0]
    outside = np.array(
        [np.setdiff1d(image, [90]) for image in made if (image == 90).mean() < 0.5 or len(np.unique(image)) > 1],
        dtype=object,
    )
    flat = np.array([values[0] if len(values) else 90 for values in outside])
    assert len(made) - len(outside) > 800  # the repeated edge has the same value
    assert (flat == 0).sum() > 800 and ((flat > 0) & (flat <= 200)).sum() > 800
    kinds, grays = np.array([0.1, 0.5, 0.9]), np.array([0.5, 0.5, 0.5])
    assert [value for _, value in margins(kinds, grays)] == [0, 100, 0]


# Fine detail


def spectrum(image):
    """Share of the power above a quarter of the sampling rate."""
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    far = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(side)) for side in image.shape), indexing="ij"))
    return power[far > 0.25].sum() / power.sum()


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda image: blurred(image, 1.0), False),
        (lambda image: sharpened(image, 1.0), True),
        (lambda image: resampled(image, 0.5, 0.0), False),
        (lambda image: resampled(image, 0.5, 0.99), False),
    ],
)
def test_detail_is_removed_or_added_and_the_mean_stays(change, more):
    noise = np.random.default_rng(0).normal(128, 20, (61, 54)).clip(0, 255).astype(np.uint8)
    made = change(noise)
    assert made.shape == noise.shape and made.dtype == np.uint8 and abs(made.mean() - noise.mean()) < 1.5
    assert (spectrum(made) > spectrum(noise)) == more


def test_a_point_is_blurred_as_a_gaussian():
    point = np.zeros((33, 33), np.uint8)
    point[16, 16] = 255
    distance = np.arange(-2, 3)
    weights = np.exp(-(distance**2) / 2)
    expected = 255 * np.outer(weights, weights) / np.sqrt(2 * np.pi) ** 2
    np.testing.assert_allclose(blurred(point, 1.0)[14:19, 14:19], expected, atol=1)


def test_jpeg_compression_is_like_pillows(batch):
    import io

    from PIL import Image

    image, buffer = batch[0, ..., 0], io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=40)
    theirs = np.asarray(Image.open(buffer)).astype(int)
    assert np.abs(compressed(image, 40) - theirs).mean() < 1 < np.abs(image - theirs).mean()


@pytest.mark.parametrize(("field", "share"), [("blur", 0.5), ("sharpen", 0.2), ("resample", 0.3), ("compress", 0.4)])
def test_detail_changes_with_the_given_probability(batch, field, share):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 24, 24, 1), np.uint8)
    made = augment(Policy(**{field: share}), noise, np.arange(1000), seed=0, epoch=0)
    assert (made != noise).any(axis=(1, 2, 3)).mean() == pytest.approx(share, abs=0.05)


def test_mirroring_comes_before_the_shift():
    pixels = np.random.default_rng(2).integers(0, 256, (1, 6, 8, 1), np.uint8)
    np.testing.assert_array_equal(posed(pixels, flip=True), pixels[:, :, ::-1])
    np.testing.assert_array_equal(posed(pixels, flip=True, right=2)[:, :, 2:], pixels[:, :, ::-1][:, :, :-2])


def test_the_warp_is_the_same_as_scipys(batch):
    from scipy import ndimage

    maps = inverse_maps((61, 54), *(np.array([value]) for value in (0.2, 3.3, -1.7, 1.1, False)))
    (xx, xy, x), (yx, yy, y) = maps[0]
    exact = ndimage.affine_transform(
        batch[0, :, :, 0].astype(float), [[yy, yx], [xy, xx]], offset=(y, x), order=1, mode="grid-constant"
    )
    # OpenCV rounds positions to 1/32 pixel.
    assert np.abs(warp(batch[:1], maps)[0, :, :, 0] - exact).mean() < 1


@pytest.mark.parametrize("name", CHANGING)
def test_named_policies_reach_their_limits_and_no_further(name):
    """The centre, area and angle of a white bar, by its moments, after 2,000 changes."""
    still = dict.fromkeys(
        ("aspect", "shear", "contrast", "brightness", "gamma", "blur", "sharpen", "resample", "compress", "erase"), 0
    )
    policy = dataclasses.replace(POLICIES[name], mixed_margins=False, **still)
    bar = np.zeros((2000, 64, 64, 1), np.uint8)
    bar[:, 28:36, 20:44] = 255
    made = augment(policy, bar, np.arange(2000), seed=0, epoch=0)[..., 0] / 255
    mass = made.sum(axis=(1, 2))
    zooms = np.sqrt(mass / (8 * 24))
    assert [zooms.min(), zooms.max()] == pytest.approx([1 / (1 + policy.zoom), 1 + policy.zoom], rel=0.01)
    centres = [(made.sum(axis=axis) * np.arange(64)).sum(axis=1) / mass for axis in (1, 2)]
    for centre in centres:
        shift = (centre - 31.5) / 64
        assert policy.shift * 0.97 < np.abs(shift).max() < policy.shift * 1.03
        assert abs(shift.mean()) < policy.shift * 0.05
    right, down = (np.arange(64) - centre[:, None] for centre in centres)
    across, along, both = (
        np.einsum("bij,bi,bj->b", made, *pair)
        for pair in ((down**2, np.ones_like(right)), (np.ones_like(down), right**2), (down, right))
    )
    angles = np.degrees(np.arctan2(2 * both, along - across) / 2)
    assert policy.rotation * 0.95 < np.abs(angles).max() < policy.rotation * 1.03
    assert abs(angles.mean()) < policy.rotation * 0.05


def test_no_named_policy_flips_and_one_that_does_mirrors_half(batch):
    assert all(policy.flip == 0 for policy in POLICIES.values())
    ids = np.arange(1000)
    pixels = np.repeat(batch[:1], 1000, axis=0)
    made = augment(Policy(flip=0.5), pixels, ids, seed=0, epoch=0)
    flipped = (made == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 450 < flipped.sum() < 550
    np.testing.assert_array_equal(made[~flipped], pixels[~flipped])
    np.testing.assert_array_equal(augment(Policy(flip=1), batch, IDS, seed=0, epoch=0), batch[:, :, ::-1])


# Exposure and erasing, with results computed by hand


@pytest.mark.parametrize(
    ("gain", "offset", "values"),
    [
        (1, 0, {0: 0, 100: 100, 255: 255}),
        (
            2,
            0,
            {0: 0, 63: 0, 64: 0, 65: 2, 128: 128, 191: 254, 192: 255, 255: 255},
        ),  # 2 (v - 127.5) + 127.5 = 2 v - 127.5
        (0.5, 0, {0: 64, 127: 127, 128: 128, 255: 191}),
        (1, 0.2, {0: 51, 100: 151, 204: 255, 220: 255}),
        (1, -0.2, {0: 0, 51: 0, 52: 1, 255: 204}),
    ],
)
def test_gray_values_by_hand(gain, offset, values):
    table = exposure_tables(np.array([gain]), np.array([offset]))[0]
    assert {value: table[value] for value in values} == values


def test_gamma_by_hand():
    """255 * (51 / 255) ** 2 = 10.2; the ends stay."""
    table = exposure_tables(np.ones(1), np.zeros(1), np.array([2.0]))[0]
    assert (table[0], table[51], table[255]) == (0, 10, 255)


def test_each_image_goes_through_its_own_table(batch):
    tables = np.random.default_rng(0).integers(0, 256, (12, 256), np.uint8)
    made = look_up(batch, tables)
    for image, table, after in zip(batch, tables, made, strict=True):
        np.testing.assert_array_equal(after, table[image])


def test_outside_is_black_whatever_the_brightness():
    white = np.full((200, 20, 20, 1), 200, np.uint8)
    made = augment(Policy(shift=0.3, brightness=0.2, contrast=0.2), white, np.arange(200), seed=0, epoch=0)
    centre, corners = made[:, 10, 10, 0], made[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert (centre > 100).all() and (corners == 0).any(axis=1).mean() > 0.95  # the others moved by less than a pixel


def test_patches_have_the_given_size_and_probability():
    pixels = np.full((2000, 60, 80, 1), 7, np.uint8)
    made = augment(Policy(erase=0.25, erase_area=(0.05, 0.1)), pixels, np.arange(2000), seed=0, epoch=0)
    assert (pixels == 7).all()
    erased = (made != 7)[..., 0]
    touched = erased.any(axis=(1, 2))
    assert 430 < touched.sum() < 570
    shares = erased[touched].mean(axis=(1, 2))
    assert 0.045 < shares.min() < 0.055 and 0.095 < shares.max() < 0.105
    rows, columns = erased[touched].any(axis=2).sum(axis=1), erased[touched].any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(rows * columns, erased[touched].sum(axis=(1, 2)))  # one rectangle
    assert erased.any(axis=0).mean() > 0.98  # anywhere up to the edges; few reach the corners
    assert erased.any(axis=(0, 2))[[0, -1]].all() and erased.any(axis=(0, 1))[[0, -1]].all()
    assert all(len(np.unique(image[patch])) == 1 for image, patch in zip(made[touched], erased[touched], strict=True))


# Choosing


def test_names():
    assert list(POLICIES) == ["none", "light", "standard", "strong"]
    assert POLICIES["none"] == Policy() and find_policy(TrainConfig(table="t", run="r").augment) in POLICIES.values()
    with pytest.raises(UserError, match="--augment: expected one of none, light, standard, strong, or module:function"):
        find_policy("heavy")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:policy", "cannot be imported"),
        ("test_augment:nothing", "cannot be imported"),
        (":", "cannot be imported"),
        ("test_augment:IDS", "function or a Policy, got ndarray"),
    ],
)
def test_a_name_of_something_else_is_refused(name, words):
    with pytest.raises(UserError, match="--augment.*" + words):
        find_policy(name)


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="opencv-python-headless, found none; pip install"):
        find_policy("standard")
    assert find_policy("none") == Policy()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": -1},
        {"shift": 1.5},
        {"flip": 2},
        {"zoom": float("nan")},
        {"erase_area": (0.2, 0.1)},
        {"erase_area": (0.0, 0.1)},
        {"blur": 0.6, "sharpen": 0.6},
        {"quality": (0, 50)},
        {"resample_share": (0.5, 1.5)},
    ],
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong)) + ".*expected"):
        Policy(**wrong)


def invert(pixels, sample_ids, *, seed, epoch):
    return 255 - pixels


def widen(pixels, sample_ids, *, seed, epoch):
    return pixels / 255


MINE = dataclasses.replace(POLICIES["standard"], flip=0.5)


def test_a_users_own_policy(batch):
    np.testing.assert_array_equal(augment(find_policy("test_augment:invert"), batch, IDS, seed=0, epoch=0), 255 - batch)
    mine = find_policy("test_augment:MINE")
    assert mine.flip == 0.5 and dataclasses.replace(mine, flip=0) == POLICIES["standard"]
    with pytest.raises(UserError, match=r"return uint8 \(12, 61, 54, 1\), got float64 \(12, 61, 54, 1\)"):
        augment(find_policy("test_augment:widen"), batch, IDS, seed=0, epoch=0)


# Training

TRAIN = """
import json, sys
from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.train_job import train
for name in sys.argv[3:]:
    train(None, TrainConfig(table=sys.argv[1], run=f"{sys.argv[2]}/{name}", model="plain", epochs=2, augment=name))
"""


@pytest.mark.spark
def test_training_uses_the_policy_and_validation_does_not(table, tmp_path):
    from cxrflow.pipeline.train_job import check_train

    with pytest.raises(UserError, match="--augment: expected one of none, light"):
        check_train(TrainConfig(table=str(table), run=str(tmp_path / "run"), augment="heavy"))
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(table), str(tmp_path), "none", "strong", "test_augment:blacken"],
        check=True,
        cwd=__file__.rpartition("/")[0],
    )
    histories = [json.loads(path.read_text())["epochs"] for path in sorted(tmp_path.glob("*/history.json"))]
    assert len({history[0]["loss"] for history in histories}) == 3
    # Trained on black images. If validation images were black too, all scores would be equal.
    assert histories[-1][0]["val_auc"] != 0.5
    assert json.loads((tmp_path / "strong" / "config.json").read_text())["train"]["augment"] == "strong"


def blacken(pixels, sample_ids, *, seed, epoch):
    return np.zeros_like(pixels)


def test_the_sheet_of_policies():
    from cxrflow.training.augment.sheet import draw_sheet

    sheet = draw_sheet()
    assert sheet.shape == (4 * 128, 74 + 6 * 128) and sheet.dtype == np.uint8
    rows = sheet[:, 74:].reshape(4, 128, 6, 128)
    assert (rows[0, :, :1] == rows[0]).all() and not (rows[3, :, :1] == rows[3]).all()
