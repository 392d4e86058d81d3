"""The changes to Keras: they compute what Keras computes, and Keras still needs them.

A test named ``test_needed_...`` shows the behaviour of the installed Keras that a change works around. When it fails,
Keras has been improved: remove the change and the test.
"""

import json
import os
import subprocess
import sys

import pytest

from cxrflow.base.keras_import import NOT_NEEDED

pytestmark = pytest.mark.spark


def run(code, *arguments, backend="torch"):
    """Run code in a process with one backend; returns what it printed last, parsed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# SGD, because Adam turns a gradient that is only rounding error into a full step.
STEPS = """
import json, sys
import keras
import numpy as np
from keras import layers
from cxrflow.training.keras_patches import TORCH_LAYERS, with_torch_layers
from cxrflow.training.models import build_model


def mixed(size):  # options that the networks of cxrflow do not use
    inputs = keras.Input((size, size + 3, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs / 255)
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.BatchNormalization(scale=False)(x))
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", groups=2, activation="relu")(x)
    x = layers.Add()([layers.AveragePooling2D(2)(x), layers.AveragePooling2D(2, padding="valid")(x)])
    x = layers.BatchNormalization(center=False)(layers.Conv2D(4, (2, 3), padding="valid", use_bias=False)(x))
    x = layers.AveragePooling2D(3, 2, padding="same")(x) * 2 + 1
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(layers.Flatten()(x)))


def train_two_steps(model, pixels, targets):
    keras.utils.set_random_seed(5)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(1e-3), loss=loss, jit_compile=False)
    losses = [float(model.train_on_batch(pixels, targets, return_dict=True)["loss"]) for _ in range(2)]
    return losses, model.predict_on_batch(pixels), model.get_weights()


def compare(name, size):
    model = mixed(size) if name == "mixed" else build_model(name, 2, (size, size))
    random = np.random.default_rng(1)
    pixels = random.uniform(0, 255, (8, *model.input_shape[1:])).astype("float32")
    targets = np.eye(2, dtype="float32")[random.integers(0, 2, 8)]
    copy = with_torch_layers(model)
    replaced = [type(layer) for layer in copy.layers if type(layer).__mro__[2] in TORCH_LAYERS]
    assert len(replaced) == sum(type(layer) in TORCH_LAYERS for layer in model.layers) > 0
    start = model.get_weights()
    losses, logits, weights = train_two_steps(model, pixels, targets)
    copy_losses, copy_logits, copy_weights = train_two_steps(copy, pixels, targets)
    assert [w.shape for w in weights] == [w.shape for w in copy_weights]
    return {
        "loss": max(abs(a / b - 1) for a, b in zip(copy_losses, losses)),
        "logits": float(abs(copy_logits - logits).max() / abs(logits).max()),
        "weights": max(float(abs(a - b).max()) for a, b in zip(copy_weights, weights)),
        "moved": min(float(abs(a - b).max()) for a, b in zip(start, weights)),
    }


found = {}
keras.utils.set_random_seed(3)
for policy, size in (("float32", 32), ("float32", 37), ("mixed_bfloat16", 32)):
    keras.config.set_dtype_policy(policy)
    for name in ("residual", "plain", "mixed"):
        found[f"{policy} {size} {name}"] = compare(name, size)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def differences():
    """How far apart two training steps end, by precision, image size and network."""
    return run(STEPS)


# Sizes for which "same" pads one end only, and both alike. bfloat16 has 8 bits, and two steps lose some of them.
@pytest.mark.parametrize(
    ("policy", "size", "tolerance"), [("float32", 32, 5e-5), ("float32", 37, 5e-5), ("mixed_bfloat16", 32, 4e-2)]
)
@pytest.mark.parametrize("network", ["residual", "plain", "mixed"])
def test_torch_layers_train_like_the_saved_network(differences, policy, size, tolerance, network):
    found = differences[f"{policy} {size} {network}"]
    assert found["moved"] > 0  # every weight and every statistic, or the comparison means nothing
    assert max(found["loss"], found["logits"], found["weights"]) < tolerance, found


TENSORFLOW = """
import json, sys
import keras
import numpy as np
from cxrflow.training.keras_patches import hide_tensorflow, refresh_derived_state, with_torch_layers

model = keras.Sequential([keras.layers.ReLU()])
hide_tensorflow()
layer = keras.layers.Normalization(axis=-1)
layer.build((None, 1))
layer.set_weights([np.array([2.0]), np.array([4.0]), np.array(1)])
before = float(keras.ops.convert_to_numpy(layer(np.array([[6.0]])))[0, 0])
network = keras.Sequential([keras.Input((1,)), layer])
refresh_derived_state(network)
after = float(keras.ops.convert_to_numpy(layer(np.array([[6.0]])))[0, 0])
keras.utils.set_random_seed(0)
weights = keras.ops.convert_to_numpy(keras.initializers.GlorotUniform()((4, 4))).ravel().tolist()
print(json.dumps({"same": with_torch_layers(model) is model, "normalised": [before, after], "weights": weights}))
"""


@pytest.fixture(scope="module")
def on_tensorflow():
    return run(TENSORFLOW, backend="tensorflow")


def test_on_tensorflow_the_model_stays_as_it_is(on_tensorflow):
    assert on_tensorflow["same"]


def test_needed_normalization_keeps_old_copies_after_set_weights(on_tensorflow):
    before, after = on_tensorflow["normalised"]
    assert after == pytest.approx((6 - 2) / 4**0.5)
    assert before != pytest.approx(after)


OWN_PROCESS = """
import json, sys
from cxrflow.base.keras_import import NOT_NEEDED, import_keras

import_keras()
hidden = [name for name in NOT_NEEDED if name in sys.modules]
import pandas  # can be imported later
from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.keras_patches import hide_tensorflow, with_torch_layers
from cxrflow.training.models import build_model
from cxrflow.training.optimizer import build_optimizer
from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer

hide_tensorflow()
model = build_model("plain", 2, (16, 16))
with_torch_layers(model)
model.save(sys.argv[1])
optimizer = build_optimizer(TrainConfig(table="t", run="r"), Worker(), 1)
parallel = isinstance(optimizer, TorchParallelOptimizer)
print(json.dumps({"imported": hidden, "tensorflow": "tensorflow" in sys.modules, "parallel": parallel}))
"""


def test_a_prepared_process_loads_no_tensorflow_and_updates_all_weights_at_once(tmp_path):
    assert run(OWN_PROCESS, tmp_path / "model.keras") == {
        "imported": [],
        "tensorflow": False,
        "parallel": True,
    }


# The behaviour of the installed Keras and torch, without our changes.
STOCK = """
import json, resource, sys
import keras
import numpy as np
import torch
from keras import layers
from torch.utils._python_dispatch import TorchDispatchMode
from cxrflow.base.freed_memory import keep_freed_memory
from cxrflow.training.keras_patches import TORCH_LAYERS

class Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        # A copy of a whole image batch, not of a kernel.
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_) and made.numel() >= 4096:
            self.copies += 1
        self.operations.append(function.overloadpacket)
        return made

def inspect(kind, **options):
    layer = kind(**options)
    x = torch.rand(4, 16, 16, 4)
    layer.build(x.shape)
    layer(x)
    recorder = Recorder()
    recorder.copies, recorder.operations = 0, []
    with recorder:
        layer(x, training=True) if kind.__name__.endswith("BatchNormalization") else layer(x)
    return {"copies": recorder.copies, "kernel": torch.ops.aten.native_batch_norm in recorder.operations}

def count_calls(layer, x):
    layer(x)
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"
    sys.setprofile(count)
    layer(x)
    sys.setprofile(None)
    return calls

def page_faults():
    for _ in range(3):  # until the process has the memory, if it keeps it
        torch.empty(2**25, dtype=torch.uint8).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(2**25, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = {"tensorflow": ["tensorflow" in sys.modules]}
from cxrflow.base.keras_import import NOT_NEEDED
found["not needed"] = [name for name in NOT_NEEDED if name in sys.modules]
options = {
    layers.Conv2D: {"filters": 4, "kernel_size": 3},
    layers.MaxPooling2D: {},
    layers.AveragePooling2D: {"pool_size": 2},
    layers.BatchNormalization: {},
}
for kind, given in options.items():
    found[kind.__name__] = {"keras": inspect(kind, **given), "ours": inspect(TORCH_LAYERS[kind], **given)}
x = torch.rand(2, 4, 4, 1)
found["calls"] = {"keras": count_calls(layers.ReLU(), x), "ours": count_calls(TORCH_LAYERS[layers.ReLU](), x)}

class Subclass(keras.optimizers.AdamW):
    pass

from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer
found["subclass is parallel"] = isinstance(Subclass(), TorchParallelOptimizer)
found["AdamW is parallel"] = isinstance(keras.optimizers.AdamW(), TorchParallelOptimizer)
try:
    layers.BatchNormalization(synchronized=True)(x, training=True)
    found["synchronized"] = "works"
except (ValueError, NotImplementedError) as error:
    found["synchronized"] = str(error)
keras.utils.set_random_seed(0)
found["weights"] = keras.ops.convert_to_numpy(keras.initializers.GlorotUniform()((4, 4))).ravel().tolist()
found["faults"] = {"glibc": page_faults()}
keep_freed_memory()
found["faults"]["kept"] = page_faults()
model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
model.save(sys.argv[1])
found["tensorflow"].append("tensorflow" in sys.modules)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return run(STOCK, tmp_path_factory.mktemp("stock") / "model.keras")


@pytest.mark.parametrize("layer", ["Conv2D", "MaxPooling2D", "AveragePooling2D"])
def test_needed_keras_copies_whole_batches_on_torch(stock, layer):
    assert stock[layer]["keras"]["copies"] > stock[layer]["ours"]["copies"] == 0


def test_needed_keras_normalises_batches_without_torchs_kernel(stock):
    assert stock["BatchNormalization"]["ours"]["kernel"] and not stock["BatchNormalization"]["keras"]["kernel"]


def test_needed_a_layer_call_is_many_python_calls(stock):
    assert stock["calls"]["keras"] > 3 * stock["calls"]["ours"]


def test_needed_a_subclass_of_adamw_updates_weights_one_by_one(stock):
    assert stock["AdamW is parallel"] and not stock["subclass is parallel"]


def test_needed_synchronized_batch_normalisation_is_for_tensorflow(stock):
    assert "synchronized" in stock["synchronized"].lower()


def test_needed_initial_weights_differ_by_backend(stock, on_tensorflow):
    assert stock["weights"] != pytest.approx(on_tensorflow["weights"], rel=1e-3)


def test_needed_torch_gets_large_buffers_from_the_kernel_each_time(stock):
    assert stock["faults"]["glibc"] > 10 * max(1, stock["faults"]["kept"])


def test_needed_keras_imports_packages_that_it_only_looks_for(stock):
    assert stock["not needed"] == list(NOT_NEEDED)


def test_needed_keras_loads_tensorflow_on_torch(stock):
    assert stock["tensorflow"] == [False, True]
