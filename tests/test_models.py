"""Networks by name on both backends, their files without cxrflow, and initial weights."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.pipeline.train_job import check_train
from cxrflow.training.models import MODELS, check_model

pytestmark = pytest.mark.spark

NAMES = [*MODELS, "applications/MobileNet", "test_models:own"]
HEIGHT, WIDTH = 64, 48
BACKENDS = ("tensorflow", "torch")

# For each network: one training step that changes the weights, its file, and the logits of the model in it.
STEP = """
import json, sys
import keras, numpy
from cxrflow.training.models import build_model
folder, size = sys.argv[1], tuple(map(int, sys.argv[2:4]))
rng = numpy.random.default_rng(0)
pixels, targets = rng.integers(0, 256, (4, *size, 1), numpy.uint8), numpy.eye(3, dtype="float32")[[0, 1, 2, 0]]
found = {}
for number, name in enumerate(sys.argv[4:]):
    model = build_model(name, 3, size)
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True)
    before = [numpy.copy(weight) for weight in map(keras.ops.convert_to_numpy, model.trainable_weights)]
    loss = float(model.train_on_batch(pixels, targets))
    moved = [bool((old != keras.ops.convert_to_numpy(new)).any()) for old, new in zip(before, model.trainable_weights)]
    model.save(f"{folder}/{number}.keras")
    scores = keras.ops.convert_to_numpy(model(pixels, training=False))
    found[name] = {"loss": loss, "moved": sum(moved) / len(moved), "scores": scores.tolist()}
numpy.save(f"{folder}/pixels.npy", pixels)
print(json.dumps(found))
"""
LOAD = """
import json, sys
import keras, numpy
pixels = numpy.load(f"{sys.argv[1]}/pixels.npy")
paths = [f"{sys.argv[1]}/{index}.keras" for index in range(int(sys.argv[2]))]
models = [keras.saving.load_model(path, safe_mode=True) for path in paths]
print(json.dumps([keras.ops.convert_to_numpy(model(pixels, training=False)).tolist() for model in models]))
assert "cxrflow" not in sys.modules
"""


def own(x):
    from keras import layers

    return layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, strides=2)(layers.Normalization()(x)) * 2.0)


def python(code, *arguments, backend="tensorflow", **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
        cwd=os.path.dirname(__file__),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_network_trains_on_both_backends_and_its_file_loads_without_cxrflow(tmp_path):
    def train(backend):
        (tmp_path / backend).mkdir()
        return python(STEP, tmp_path / backend, HEIGHT, WIDTH, *NAMES, backend=backend)

    with ThreadPoolExecutor() as pool:
        trained = dict(zip(BACKENDS, pool.map(train, BACKENDS), strict=True))
    for found in trained.values():
        assert all(0 < found[name]["loss"] < 20 and found[name]["moved"] > 0.9 for name in NAMES), found
    loaded = python(LOAD, tmp_path / "tensorflow", len(NAMES), backend="torch", PYTHONPATH="")
    for name, scores in zip(NAMES, loaded, strict=True):
        assert scores == [pytest.approx(row, abs=2e-4) for row in trained["tensorflow"][name]["scores"]], name


def test_names_are_checked_without_running_the_users_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("1 / 0\ndef body(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (*MODELS, "applications/ResNet50", "mine:body", "test_models:own"):
        check_model(name)
    for name, words in {
        "vgg": "--model: expected one of residual, .*applications/NAME of keras.applications, or module:function.*vgg",
        "applications/ResNet51": "--model: expected applications/ and one of ConvNeXtTiny, .*'applications/ResNet51'",
        "no_such_module:body": "no module 'no_such_module'",
        "no.such:body": "No module named 'no'",
        "mine:head": "expected the module mine to have a function 'head', found none",
        "test_models:nothing": "'nothing', found none",
    }.items():
        with pytest.raises(UserError, match=words):
            check_model(name)


INITIAL = """
import json, os, sys
import keras, numpy
from cxrflow.base.errors import UserError
from cxrflow.training.pretrained import load_pretrained
from cxrflow.training.models import APPLICATIONS, build_model
from cxrflow.training.layer_walk import walk_models

folder, size = sys.argv[1], (64, 48)
pixels = numpy.random.default_rng(0).integers(0, 256, (4, *size, 1), numpy.uint8)
score = lambda model: keras.ops.convert_to_numpy(model(pixels, training=False))
inner = lambda model: list(walk_models(model))[1]

def refusal(model, file):
    before = model.get_weights()
    try:
        load_pretrained(model, f"{folder}/{file}")
    except UserError as error:
        return str(error) if all(map(numpy.array_equal, before, model.get_weights())) else "it was changed"

def build(name, labels=2):
    return build_model(name, labels, size)

# What a user may have: a network of keras.applications with and without its top, in all formats, and a run's model.
keras.utils.set_random_seed(1)
network = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(64, 48, 3))
rng = numpy.random.default_rng(1)
network.set_weights([array + rng.uniform(0.1, 0.2, array.shape) for array in network.get_weights()])
network.save_weights(f"{folder}/a.weights.h5")
network.save(f"{folder}/a.keras")
network.save(f"{folder}/a.h5")
top = keras.applications.MobileNetV3Small(weights=None, classes=7, classifier_activation=None)
top.save_weights(f"{folder}/top.weights.h5")
earlier = build("applications/MobileNetV3Small", 2)
outer = keras.Input(earlier.input_shape[1:])
keras.Model(outer, keras.layers.Softmax()(earlier(outer))).save(f"{folder}/model.keras")

found = {"loaded": {}, "refused": {}}
mine = build("applications/MobileNetV3Small", 3)
start = mine.get_weights()
files = {"a.weights.h5": network, "a.keras": network, "a.h5": network, "top.weights.h5": top, "model.keras": earlier}
for file, weights in files.items():
    mine.set_weights(start)
    load_pretrained(mine, f"{folder}/{file}")
    inside = weights if weights is network else inner(weights) if weights is earlier else None
    expected = inside.get_weights() if inside else top.get_weights()[:len(network.weights)]
    found["loaded"][file] = all(map(numpy.array_equal, inner(mine).get_weights(), expected))
same = build("applications/MobileNetV3Small", 2)
load_pretrained(same, f"{folder}/model.keras")
found["loaded"]["head too"] = bool((score(same) == score(earlier)).all())

# A layer that computes with copies of its weights updates them.
normal, other = build("test_models:own"), build("test_models:own")
layer = next(layer for layer in normal.layers if isinstance(layer, keras.layers.Normalization))
layer.adapt_mean.assign([3.0])
normal.save_weights(f"{folder}/own.weights.h5")
load_pretrained(other, f"{folder}/own.weights.h5")
layer.finalize_state()
found["loaded"]["normalisation"] = bool(numpy.allclose(score(other), score(normal)))

open(f"{folder}/text.h5", "w").write("no weights")
for name, file in [("plain", "a.weights.h5"), ("plain", "a.h5"), ("plain", "text.h5"), ("plain", "nothing.h5")]:
    found["refused"][f"{name} {file}"] = refusal(build(name), file)
try:
    build("test_models:code")
except UserError as error:
    found["refused"]["code"] = str(error)
ours = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
found["names"] = sorted(ours ^ set(APPLICATIONS))
print(json.dumps(found))
"""


def test_initial_weights_load_from_every_file_that_fits_and_from_no_other(tmp_path):
    found = python(INITIAL, tmp_path)
    assert all(found["loaded"].values()), found["loaded"]
    expected = "--init-weights: expected a file that fits network, but in "
    refused = found["refused"]
    for file, words in {
        "a.weights.h5": "arrays are missing or have another shape: expected (",
        "a.h5": "without its top",
    }.items():
        assert refused[f"plain {file}"].startswith(expected) and words in refused[f"plain {file}"]
    assert all("expected a Keras file" in refused[f"plain {file}"] for file in ("text.h5", "nothing.h5"))
    assert "expected Keras' own layers, but no Lambda" in refused["code"] and found["names"] == []


def code(x):
    from keras import layers

    return layers.GlobalMaxPooling2D()(layers.Lambda(lambda x: 2 * x)(x))


TRAIN = """
import dataclasses, json, sys
import keras
from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.train_job import train
from cxrflow.training.smoke_step import run_step
table, folder = sys.argv[1:]
first = TrainConfig(table=table, run=f"{folder}/first", model="test_models:pooled", epochs=2, batch_size=8,
                    learning_rate=1e-2)
then = dataclasses.replace(
    first, run=f"{folder}/then", epochs=1, learning_rate=1e-12, init_weights=f"{folder}/first/model.keras"
)
results = [train(None, config) for config in (first, then)]
saved = [keras.saving.load_model(f"{config.run}/model.keras", compile=False).get_weights() for config in (first, then)]
moved = max(float(abs(one - other).max()) for one, other in zip(*saved, strict=True))
nested = dataclasses.replace(then, model="applications/MobileNetV3Small", init_weights=None)
print(json.dumps([*results, moved, run_step(nested)]))
"""


def pooled(x):
    """Batch normalisation in a nested model."""
    import keras

    inner = keras.Sequential(
        [keras.Input(x.shape[1:]), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(momentum=0.9999)]
    )  # an epoch hardly moves its statistics
    return keras.layers.GlobalMaxPooling2D()(inner(x))


def test_a_run_starts_from_another_runs_model(table, tmp_path):
    # On torch, where the trained network has other layer classes than those in files.
    first, then, moved, step = python(TRAIN, table, tmp_path, backend="torch")
    assert then["val_loss"] == pytest.approx(first["val_loss"], abs=1e-3)
    assert moved < 1e-3  # at the first run's learning rate a step moves weights by 1e-2; both start from the same seed
    assert step["loss"] > 0 and step["image_bytes"] > 2 * 4 * 48 * 40 * 20  # layers inside the nested network count
    for file in ("nothing.weights.h5", "first"):
        with pytest.raises(UserError, match="--init-weights: expected a file, found none"):
            check_train(TrainConfig(table=str(table), run=str(tmp_path / "run"), init_weights=str(tmp_path / file)))
