"""The network that torch trains is the saved one, only faster: the same step, the same weights, whatever its layers."""

import json
import os
import subprocess
import sys

import pytest

# SGD, since Adam makes a step of full size of a gradient that is nothing but rounding.
STEPS = """
import json, sys
import keras
import numpy as np
from keras import layers
from cxrflow.training.models import build_model
from cxrflow.training.keras_patches import TORCH_LAYERS, with_torch_layers

policy, size = sys.argv[1], int(sys.argv[2])
keras.config.set_dtype_policy(policy)


def mixed(size):  # what the networks of cxrflow have not, or not yet
    inputs = keras.Input((size, size + 3, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs / 255)
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.BatchNormalization(scale=False)(x))
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", groups=2, activation="relu")(x)
    x = layers.Add()([layers.AveragePooling2D(2)(x), layers.AveragePooling2D(2, padding="valid")(x)])
    x = layers.BatchNormalization(center=False)(layers.Conv2D(4, (2, 3), padding="valid", use_bias=False)(x))
    x = layers.AveragePooling2D(3, 2, padding="same")(x) * 2 + 1
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(layers.Flatten()(x)))


def steps(model, pixels, targets):
    keras.utils.set_random_seed(5)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), loss=keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    losses = [float(model.train_on_batch(pixels, targets, return_dict=True)["loss"]) for _ in range(2)]
    return losses, model.predict_on_batch(pixels), model.get_weights()


found = {}
keras.utils.set_random_seed(3)
for name in ("residual", "plain", "mixed"):
    model = mixed(size) if name == "mixed" else build_model(name, 2, (size, size))
    random = np.random.default_rng(1)
    pixels = random.uniform(0, 255, (8, *model.input_shape[1:])).astype("float32")
    targets = np.eye(2, dtype="float32")[random.integers(0, 2, 8)]
    twin = with_torch_layers(model)
    known = [type(layer) for layer in twin.layers if type(layer).__mro__[2] in TORCH_LAYERS]
    assert len(known) == sum(type(layer) in TORCH_LAYERS for layer in model.layers) > 0
    start = model.get_weights()
    (losses, scores, weights), (own, own_scores, own_weights) = (steps(m, pixels, targets) for m in (model, twin))
    assert [w.shape for w in weights] == [w.shape for w in own_weights]
    found[name] = {"loss": max(abs(a / b - 1) for a, b in zip(own, losses)),
                   "logits": float(abs(own_scores - scores).max() / abs(scores).max()),
                   "weights": max(float(abs(a - b).max()) for a, b in zip(own_weights, weights)),
                   "moved": min(float(abs(a - b).max()) for a, b in zip(start, weights))}
print(json.dumps(found))
"""


# Sizes for which "same" pads one end only, and both alike. bfloat16 keeps 8 bits, of which two steps leave fewer.
@pytest.mark.parametrize(
    ("policy", "size", "close"), [("float32", 32, 5e-5), ("float32", 37, 5e-5), ("mixed_bfloat16", 32, 4e-2)]
)
def test_two_steps_are_those_of_the_model_that_is_saved(policy, size, close):
    done = subprocess.run(
        [sys.executable, "-c", STEPS, policy, str(size)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr
    for name, apart in json.loads(done.stdout.splitlines()[-1]).items():
        assert apart["moved"] > 0, name  # every weight and every statistic, or the comparison says nothing
        assert max(apart["loss"], apart["logits"], apart["weights"]) < close, (name, apart)


def test_on_tensorflow_it_is_the_model_itself():
    code = "import keras; from cxrflow.training.keras_patches import with_torch_layers; m = keras.Sequential([keras.layers.ReLU()]); assert with_torch_layers(m) is m"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})


OWN = """
import sys
from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.models import build_model
from cxrflow.training.keras_patches import prepare_torch_process, with_torch_layers
from cxrflow.training.optimizer import build_optimizer
from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer

prepare_torch_process()
model = build_model("plain", 2, (16, 16))
with_torch_layers(model)
model.save(sys.argv[1])
optimizer = build_optimizer(TrainConfig(table="t", run="r"), Worker(), 1)
print("tensorflow" in sys.modules, isinstance(optimizer, TorchParallelOptimizer))
"""


def test_a_process_for_torch_loads_no_tensorflow_and_updates_all_weights_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OWN, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]
